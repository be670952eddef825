"""Checks of the local paths that a user names for output."""

from pathlib import Path

from fer_batch.errors import OutputError
from fer_batch.storage.stores import is_remote


def parse_file_path(name: str) -> Path:
    """Return the path of a file to write; raise OutputError for the address of a store."""
    if is_remote(name):
        raise OutputError(f"Cannot write {name}: give a file on this machine")
    return Path(name)


def check_folder(out: Path) -> None:
    """Raise OutputError if `out` or one of its parents is a file."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise OutputError(f"{nearest} is a file; --out needs a folder")


def check_folder_empty(out: Path, content: str) -> None:
    """Raise OutputError if `out`, the future folder of `content` ("a study"), holds visible files."""
    check_folder(out)
    if out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise OutputError(f"{out} contains files other than {content}: give a new or empty folder")
