"""Temporary folders that only this user can access."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

MIN_STALE_S = 60.0
"""Age from which a folder without a lock belongs to a process that was killed."""

_locks: dict[Path, int] = {}
"""The folders of this process, each with the descriptor that holds its lock."""


def create_private_folder(prefix: str, parent: Path) -> Path:
    """Create a folder with the mode 0700 in `parent`, which is created too if it is missing.

    Folders that killed processes of this user left there with the same prefix are deleted.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _delete_stale_folders(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    _locks[folder] = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems have no locks
        fcntl.flock(_locks[folder], fcntl.LOCK_EX)
    return folder


def delete_private_folder(folder: Path) -> None:
    """Delete a folder of `create_private_folder`; does nothing if it was deleted before."""
    if (lock := _locks.pop(folder, None)) is not None:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def delete_private_folders() -> None:
    """Delete all folders of this process, which is about to end."""
    for folder in list(_locks):
        delete_private_folder(folder)


def _delete_stale_folders(prefix: str, parent: Path) -> None:
    """Delete folders of processes that were killed: the kernel has released their locks."""
    for folder in parent.glob(f"{prefix}????????"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > MIN_STALE_S:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
