"""The temporary folder of a local Ray, which only this user can access."""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from fer_batch.errors import ConfigError, ResourceError
from fer_batch.private_folders import create_private_folder, delete_private_folder

MIN_FREE_BYTES = 100_000_000
"""Free space that a local Ray needs for its logs and sockets."""
MAX_SOCKET_PATH_BYTES = 107 if sys.platform.startswith("linux") else 103
"""Longest path of a Unix socket."""
PREFIX = "fer-"
RAY_SOCKET_PATH = f"{PREFIX}12345678/ray/session_2000-12-31_23-59-59_999999_9999999/sockets/plasma_store.9"
"""Longest path of a socket below the folder that contains the temporary folder."""
SHORT_FOLDER = Path("/tmp")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def make_ray_folder() -> Iterator[Path]:
    """Create a temporary folder with the mode 0700 for the time of the body.

    It lies in RAY_TMPDIR, TMPDIR or `SHORT_FOLDER`. Raises ConfigError where the path would be too long for
    sockets, and ResourceError where the disk is full.
    """
    folder = create_private_folder(PREFIX, _choose_parent())
    try:
        yield folder
    finally:
        delete_private_folder(folder)


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
