"""The errors that users can cause or correct.

Each message names the given value, the allowed values, and the next step.
"""

import errno
import os
import shutil
from pathlib import Path

MIN_FREE_INODES = 32
"""With fewer inodes the number of files is the limit of a disk, not their size."""


class FerBatchError(Exception):
    """Base class of all expected errors; the command line prints the message and exits with 2."""


class ConfigError(FerBatchError):
    """An option is out of range, or contradicts another option or an earlier run."""


class InputError(FerBatchError):
    """An input path, manifest or data set cannot be used."""


class CheckpointError(FerBatchError):
    """A model file is missing, has the wrong type, or does not match its card."""


class OutputError(FerBatchError):
    """An output folder contains something that the run must not change, or is incomplete."""


class ResourceError(FerBatchError):
    """A disk, the memory or Ray's object store is full."""


class NodeError(FerBatchError):
    """No node can process a video, for example because of a broken GPU."""


class QueryError(FerBatchError):
    """A timeline cannot be queried this way."""


class DecodeError(FerBatchError):
    """A video cannot be read completely. It becomes the video's status and never ends a job."""


class ChangedFileError(DecodeError):
    """A file is not the one that was listed."""


class NoVideoError(DecodeError):
    """A file opens but contains no video stream."""


def convert_disk_error(error: BaseException, out: Path | None) -> ResourceError | None:
    """Convert the error of a write to a full disk into one with advice; None for any other error.

    `out` is the local folder that is being written to, None for a folder in a store. Native libraries
    report a full disk by the text of their errors only.
    """
    if out is None:
        return None
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    texts = ("No space left on device", "Disk quota exceeded")
    if not is_full and not any(text in str(error) for text in texts):
        return None
    while not out.exists():
        out = out.absolute().parent
    inodes = os.statvfs(out)
    if inodes.f_files and inodes.f_favail < MIN_FREE_INODES:
        return ResourceError(
            f"A disk is full; the disk of {out} has {inodes.f_favail} of {inodes.f_files} inodes left, which "
            "limit the number of files: remove files there, and run the same command again"
        )
    disk = shutil.disk_usage(out)
    used = sum(path.lstat().st_size for path in out.rglob("*")) if disk.free < disk.total / 20 else 0
    # The tables take about as much space as the results, and twice as much while they are replaced.
    needed = max(2 * used, 10_000_000)
    return ResourceError(
        f"A disk is full; the disk of {out} has {_format_mb(disk.free)} of {_format_mb(disk.total)} left: "
        f"free about {_format_mb(needed)} there, and run the same command again"
    )


def _format_mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
