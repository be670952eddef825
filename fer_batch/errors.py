"""The errors that a user can cause, each with a message that says what was given, what is allowed, what to
do.
"""

import errno
import shutil
from pathlib import Path


class FerBatchError(Exception):
    """Any expected failure: the command line prints its message on one line and exits with 2."""


class ConfigError(FerBatchError):
    """An option is out of range, or contradicts another or an earlier run."""


class InputError(FerBatchError):
    """An input path, manifest or data set can't be used as given."""


class CheckpointError(FerBatchError):
    """A model file is missing, is not of its kind, or does not match its card."""


class OutputError(FerBatchError):
    """An output folder holds something that this run must not touch, or is incomplete."""


class ResourceError(FerBatchError):
    """A disk, memory or Ray's object store is used up."""


class QueryError(FerBatchError):
    """A question to a timeline can't be answered as asked."""


class DecodeError(FerBatchError):
    """A video can't be read at all, or not beyond a moment; ends as that video's status, never as a job's."""


class NoVideoError(DecodeError):
    """A file that opens but holds no video stream."""


def convert_disk_error(error: BaseException, out: Path) -> ResourceError | None:
    """The error of a write that found no room, as a user can mend it; None for any other.

    `out` is the folder that is being written. Libraries in native code tell it by their text alone.
    """
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not isinstance(out, Path):  # in a store
        return None
    if not full and "No space left on device" not in str(error) and "Disk quota exceeded" not in str(error):
        return None
    while not out.exists():
        out = out.absolute().parent
    disk = shutil.disk_usage(out)
    held = sum(path.lstat().st_size for path in out.rglob("*")) if disk.free < disk.total / 20 else 0
    # The tables of a run take about as much as its results, and stand twice while they are replaced.
    return ResourceError(
        f"a disk is full; that of {out} has {_mb(disk.free)} of {_mb(disk.total)} left: make room, "
        f"there for about {_mb(max(2 * held, 10_000_000))} more, and run the same command again"
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
