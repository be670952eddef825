"""The output folder of a run: a local folder, or a prefix in an object store.

Both kinds have the same methods. File names are relative to the folder and use "/".
"""

from pathlib import Path
from typing import TypeAlias

from fer_batch.errors import OutputError
from fer_batch.storage import stores
from fer_batch.storage.local_folder import LocalFolder
from fer_batch.storage.output_folder import OutputFolder
from fer_batch.storage.store_folder import StoreFolder, check_address

__all__ = ["FolderLike", "LocalFolder", "OutputFolder", "StoreFolder", "check_outside_run", "open_folder"]

FolderLike: TypeAlias = OutputFolder | Path | str
"""An output folder, or the path or address of one."""


def open_folder(out: FolderLike) -> OutputFolder:
    """Return the output folder at a path or address; nothing is created or read.

    Raises InputError for an address that contains a secret, and OutputError for an address that cannot be
    written to.
    """
    if isinstance(out, OutputFolder):
        return out
    if isinstance(out, Path):
        return LocalFolder(out)
    corrected = stores.correct_address(out)
    if corrected is not None:
        raise OutputError(f"{out} is not an address: give {corrected}, or ./{out} for a local folder")
    return StoreFolder(check_address(out)) if stores.is_remote(out) else LocalFolder(Path(out))


def check_outside_run(file: Path, run: FolderLike) -> None:
    """Raise OutputError for a file to write that lies in the folder of a run."""
    folder = open_folder(run)
    if folder.contains(file):
        raise OutputError(f"{file} lies in the folder of the run: give a file outside {folder}")
