"""Files that are parts or copies of other files, or limit how an untrusted file is read."""

import io
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

from fer_batch.errors import DecodeError

MAX_UNPACK_RATIO = 200
"""Largest ratio of unpacked to packed size of an archive or member: video is compressed already."""
MAX_MEMORY_BYTES = 64 * 2**20
"""Size that may be unpacked at any ratio, and up to which an unpacked member is kept in memory."""
MAX_INDEX_BYTES = 256 * 2**20
"""Limit of a single read of an archive's index or a member's headers."""
MAX_SMALL_READS, MIN_READ_BYTES = 10_000, 64
"""Number of reads of an archive from which on they must have this mean size: Python reads gzip's headers byte
by byte, so a long one, or millions of them, would take hours."""
MAX_COPY_BYTES = 16 * 2**30
"""Limit of an unpacked member: about ten hours of 1080p."""
TOO_LARGE = f"it unpacks to more than {MAX_UNPACK_RATIO} times its size, which no video does"


def copy_to_temporary(file: Any, size: int | None = None) -> BinaryIO:
    """Copy the rest of a file, of `size` bytes if known, to memory or to an unnamed temporary file.

    Up to `MAX_MEMORY_BYTES` stay in memory. Raises DecodeError if the copy would exceed `MAX_COPY_BYTES` or
    half of the free space, and EOFError if the file ends early.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    limit = min(MAX_COPY_BYTES, max(free // 2, MAX_MEMORY_BYTES))
    copy = tempfile.SpooledTemporaryFile(max_size=MAX_MEMORY_BYTES)  # noqa: SIM115
    missing = limit if size is None else size
    if missing <= limit:
        while missing > 0 and (data := file.read(min(missing, 2**20))):
            copy.write(data)
            missing -= len(data)
    if missing > limit or (missing == 0 and size is None):
        raise DecodeError(
            f"it must be unpacked and is larger than {limit / 1e9:.1f} GB, the smaller of half the free "
            f"space in {tempfile.gettempdir()} (TMPDIR) and {MAX_COPY_BYTES / 1e9:.0f} GB"
        )
    if size is not None and missing:
        raise EOFError(f"it ends {missing} bytes early")
    copy.seek(0)
    return copy  # type: ignore[return-value]


class LimitedFile(io.RawIOBase):
    """An untrusted file of which the size of a read, the position and the number of small reads are limited.

    `keep_alive` is called when a read ends behind all earlier ones, and thus not by an endless loop.
    """

    def __init__(
        self, file: Any, limit: float = float("inf"), keep_alive: Callable[[], None] = lambda: None
    ) -> None:
        self.file, self.limit, self.keep_alive = file, limit, keep_alive
        self.furthest = self.reads = self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        wanted = MAX_INDEX_BYTES + 1 if size < 0 else size
        self._check(self.file.tell() + max(size, 0))
        data: bytes = self.file.read(min(wanted, MAX_INDEX_BYTES + 1))
        if len(data) > MAX_INDEX_BYTES:
            raise ValueError(f"its index has more than the allowed {MAX_INDEX_BYTES >> 20} MB")
        self.reads += 1
        self.read_bytes += len(data)
        if self.reads > MAX_SMALL_READS and self.read_bytes < self.reads * MIN_READ_BYTES:
            raise ValueError("its headers are too long or too many for its content")
        if (position := self.file.tell()) > self.furthest:
            self.furthest = position
            self.keep_alive()
        return data

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(position)
        return int(self.file.seek(position, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def seekable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        if position > self.limit:
            raise ValueError(TOO_LARGE)


class FileSection(io.RawIOBase):
    """`size` bytes of a file from the position `first` on."""

    def __init__(self, file: BinaryIO, first: int, size: int) -> None:
        self.file, self.first, self.size, self.position = file, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        if origin + position < 0:
            raise ValueError(f"negative position {origin + position}")
        self.position = origin + position
        return self.position

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.first + self.position)
        data = self.file.read(max(min(len(buffer), self.size - self.position), 0))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()
