"""The temporary folder of a local Ray, which only this user can access."""

import contextlib
import fcntl
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fer_batch.errors import ConfigError, ResourceError

MIN_FREE_BYTES = 100_000_000
"""Free space that a local Ray needs for its logs and sockets."""
MAX_SOCKET_PATH_BYTES = 107 if sys.platform.startswith("linux") else 103
"""Longest path of a Unix socket."""
PREFIX = "fer-"
RAY_SOCKET_PATH = f"{PREFIX}12345678/ray/session_2000-12-31_23-59-59_999999_9999999/sockets/plasma_store.9"
"""Longest path of a socket below the folder that contains the temporary folder."""
SHORT_FOLDER = Path("/tmp")
MIN_STALE_S = 60.0
"""Age from which a folder without a lock belongs to a run that was killed."""

logger = logging.getLogger(__name__)
_folders: set[Path] = set()
"""Folders of this process that exist."""


@contextlib.contextmanager
def make_private_folder() -> Iterator[Path]:
    """Create a temporary folder with the mode 0700 for the time of the body.

    It lies in RAY_TMPDIR, TMPDIR or `SHORT_FOLDER`. Folders of killed runs are deleted there, too. Raises
    ConfigError where the path would be too long for sockets, and ResourceError where the disk is full.
    """
    parent = _choose_parent()
    parent.mkdir(parents=True, exist_ok=True)
    _delete_stale_folders(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    _folders.add(folder)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(lock)
        _folders.discard(folder)
        shutil.rmtree(folder, ignore_errors=True)


def delete_private_folders() -> None:
    """Delete the folders of this process, which is about to end inside the body of `make_private_folder`."""
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)


def _delete_stale_folders(parent: Path) -> None:
    """Delete folders of runs that were killed: the kernel has released their locks."""
    for folder in parent.glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(descriptor)
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > MIN_STALE_S:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _choose_parent() -> Path:
    """Return the environment's folder for temporary files, or `SHORT_FOLDER` if its path is long."""
    name = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or str(SHORT_FOLDER)
    folder = Path(name).absolute()
    max_bytes = MAX_SOCKET_PATH_BYTES - len(RAY_SOCKET_PATH) - 1
    if len(os.fsencode(folder)) > max_bytes:
        if not os.access(SHORT_FOLDER, os.W_OK):
            raise ConfigError(
                f"Cannot start Ray: the path of its temporary folder {folder} is too long for sockets; name "
                f"a folder whose path has at most {max_bytes} bytes in RAY_TMPDIR"
            )
        logger.info("Ray's files are in %s, as the path %s is too long for sockets", SHORT_FOLDER, folder)
        folder = SHORT_FOLDER
    _check_free_space(folder)
    return folder


def _check_free_space(folder: Path) -> None:
    """Raise ResourceError where the disk is full: Ray itself would wait for minutes."""
    free = shutil.disk_usage(folder).free if folder.is_dir() else MIN_FREE_BYTES
    if free < MIN_FREE_BYTES:
        raise ResourceError(
            f"The disk of Ray's temporary folder {folder} is full ({free / 1e6:.0f} MB free): free "
            f"{MIN_FREE_BYTES / 1e6:.0f} MB or name another folder in RAY_TMPDIR, and run the same command "
            "again"
        )
