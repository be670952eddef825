"""What a name stands for, ready to be read: a file of this machine or of a store, or in an archive there."""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from fer_batch.errors import DecodeError
from fer_batch.storage.archives import copy_to_temporary, open_member, open_seekable, split_member
from fer_batch.storage.stores import is_remote

HEAD_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """A file, wherever it is."""

    place: str | BinaryIO
    """Its path on this machine, else what to read and seek in."""
    size: int

    def head(self, count: int) -> bytes:
        """Its first bytes; whoever reads it otherwise goes on where they were."""
        if isinstance(self.place, str):
            with Path(self.place).open("rb") as file:
                return file.read(count)
        before = self.place.tell()
        self.place.seek(0)
        data = self.place.read(count)
        self.place.seek(before)
        return data


def open_media(uri: str | Path, offset: int | None = None) -> MediaFile:
    """What a name stands for: a path or `file://` address, an address of a store, or ARCHIVE!/MEMBER.

    `offset` is a member's place in its archive, as it was listed. Raises OSError, and DecodeError where it
    is none that can be read.
    """
    name = uri_to_path(uri)
    parts = split_member(name)
    if parts is not None and offset is not None:
        return _sized(open_member(*parts, offset, read_identity(uri)))
    if is_remote(name):
        medium = _sized(open_seekable(name))
        return _sized(copy_to_temporary(medium.place)) if _fragmented(medium.head(HEAD_BYTES)) else medium
    status = os.stat(name)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device may wait for ever
        raise DecodeError("not a regular file")
    return MediaFile(place=name, size=status.st_size)


def read_identity(uri: str | Path) -> tuple[Any, ...]:
    """What tells whether a name still stands for the same file, or the same archive; a file of a store that
    is open stays the same.
    """
    name = uri_to_path(uri)
    archive = (split_member(name) or (name,))[0]
    if is_remote(archive):
        return (archive,)
    try:
        status = os.stat(archive)
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def uri_to_path(uri: str | Path) -> str:
    """The path of a file that is named by it, or by a `file://` address, as names are that no text can hold.

    Of its bytes, those that are not text are surrogates, as everywhere in Python.
    """
    text = str(uri)
    return (
        os.fsdecode(unquote_to_bytes(text.removeprefix("file://"))) if text.startswith("file:///") else text
    )


def _fragmented(head: bytes) -> bool:
    """Whether a file is an MP4 in fragments without an index: FFmpeg reads all of it to find them, and then
    again, so that it is fetched once instead. Of all other formats each part is read once where it lies.
    """
    return head[4:8] == b"ftyp" and b"mvex" in head and b"sidx" not in head


def _sized(file: BinaryIO) -> MediaFile:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return MediaFile(place=file, size=size)
