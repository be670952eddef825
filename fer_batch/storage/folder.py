"""The output folder of a run, and checks of the paths that a user names for output."""

from pathlib import Path
from typing import Any, TypeAlias

from fer_batch.errors import OutputError
from fer_batch.storage.addresses import correct_address, hide_secrets, is_remote
from fer_batch.storage.local_folder import LocalFolder, check_not_address, check_printable
from fer_batch.storage.store_folder import StoreFolder, check_address
from fer_batch.storage.user_files import parse_json, read_bounded

MAX_RECORD_BYTES = 10_000_000
OutputFolder: TypeAlias = LocalFolder | StoreFolder
"""A local folder, or a prefix in an object store. Both have the methods that LocalFolder documents."""
FolderLike: TypeAlias = OutputFolder | Path | str
"""An output folder, or the path or address of one."""


def open_folder(out: FolderLike) -> OutputFolder:
    """Return the output folder at a path or address; nothing is created or read.

    Raises InputError for an address that is not valid or contains a secret, and OutputError for one that
    cannot be written to.
    """
    if isinstance(out, LocalFolder | StoreFolder):
        return out
    if isinstance(out, Path):
        return LocalFolder(out)
    corrected = correct_address(out)
    if corrected is not None:
        correct = f"give {hide_secrets(corrected)}, or ./NAME for a local folder"
        raise OutputError(f"{hide_secrets(out)} is not an address: {correct}")
    return StoreFolder(check_address(out)) if is_remote(out) else LocalFolder(Path(out))


def parse_file_path(name: str) -> Path:
    """Return the path of a file to write.

    Raises OutputError for the address of a store, and for a name that cannot be printed.
    """
    if is_remote(name):
        raise OutputError(f"Cannot write {hide_secrets(name)}: give a file on this machine")
    path = Path(name)
    check_printable(path)
    return path


def check_outside_run(file: Path, run: FolderLike) -> None:
    """Raise OutputError for a file to write that lies in the folder of a run."""
    folder = open_folder(run)
    if folder.path is not None and folder.path.resolve() in file.resolve().parents:
        raise OutputError(f"{file} lies in the folder of the run: give a file outside {folder}")


def check_folder(out: Path) -> None:
    """Raise OutputError if `out` cannot be printed, or is a file or in one."""
    check_printable(out)
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is a file; --out needs a folder")


def read_folder_record(out: FolderLike, name: str, content: str) -> dict[str, Any] | None:
    """Read the JSON file `name` about the `content` ("a study") of a folder; None for an empty folder.

    Raises OutputError if the file is not a JSON object, or is missing in a folder that holds visible files.
    """
    folder = open_folder(out)
    if not folder.exists(name):
        if folder.path is not None:
            check_folder(folder.path)
        if any(found[0] != "." for found in folder.list_names()):
            raise OutputError(f"{folder} contains files other than {content}: give a new or empty folder")
        return None
    try:
        if folder.path is None:
            return dict(parse_json(folder.read_bytes(name)))
        return dict(parse_json(read_bounded(folder.path / name, MAX_RECORD_BYTES)))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{folder}/{name} is not the record of {content}: {error}") from error


def parse_local_folder(name: str | Path) -> Path:
    """Return the path of a folder for output that cannot be in a store.

    Raises OutputError for the address of a store.
    """
    if is_remote(str(name)):
        raise OutputError(f"Cannot write to {hide_secrets(str(name))}: give a folder on this machine")
    folder = open_folder(name)
    assert folder.path is not None
    check_not_address(folder.path)
    return folder.path
