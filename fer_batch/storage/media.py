"""Open a video by its name: a local file, a file in a store, or a member of an archive."""

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from fer_batch.errors import ChangedFileError, DecodeError
from fer_batch.storage.addresses import is_remote
from fer_batch.storage.archives import open_listed, open_member, open_seekable, split_member
from fer_batch.storage.file_sections import copy_to_temporary
from fer_batch.storage.stores import find_file

HEAD_BYTES = 65_536
"""Bytes that are searched for the boxes of a fragmented MP4."""


UNKNOWN_VERSION = ""
"""The version of a file that was listed without a request to its store."""


@dataclass(frozen=True, kw_only=True)
class MediaFile:
    """A readable media file."""

    source: str | BinaryIO
    """A local path, or a seekable file object."""
    size: int
    """Size in bytes."""
    is_trimmed: bool = False
    """Whether bytes at the end of the file are left out, as they are a part of an element."""
    picture_format: str | None = None
    """The format of a picture that was unpacked, such as "jpeg"."""

    def read_head(self, count: int) -> bytes:
        """Read the first `count` bytes; a file object keeps its position."""
        return self.read_at(0, count)

    def read_at(self, place: int, count: int) -> bytes:
        """Read `count` bytes from a place on; a file object keeps its position."""
        if isinstance(self.source, str):
            with Path(self.source).open("rb") as file:
                file.seek(place)
                return file.read(count)
        position = self.source.tell()
        self.source.seek(place)
        data = self.source.read(count)
        self.source.seek(position)
        return data


def open_media(uri: str | Path, offset: int | None = None) -> MediaFile:
    """Open a path, a `file://` address, an address of a store, or ARCHIVE!/MEMBER.

    `offset` is the listed position of a member in its archive. Raises OSError, or DecodeError for a name that
    cannot be read.
    """
    name = uri_to_path(uri)
    parts = split_member(name)
    if parts is not None and offset is not None:
        return _measure(open_member(*parts, offset, read_identity(uri))[0])
    if is_remote(name):
        file = open_seekable(name)
        media = _measure(file)
        return _measure(copy_to_temporary(file)) if _is_fragmented(media.read_head(HEAD_BYTES)) else media
    status = os.stat(name)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device may block for ever
        raise DecodeError("not a regular file")
    return MediaFile(source=name, size=status.st_size)


def open_unchanged(uri: str, offset: int | None, version: str) -> BinaryIO:
    """Open the file of an analyzed video for reading and seeking, if it is still the same file.

    `uri` and `offset` are arguments of `open_media`, `version` is the hash of the recorded version. A link in
    place of the file is not followed. Raises OSError, DecodeError or InputError, and ChangedFileError for
    another file, as far as the recorded size and time show.
    """
    name = uri_to_path(uri)
    parts = split_member(name)
    if parts is not None and offset is not None:
        file, found = open_member(*parts, offset, read_identity(uri))
    elif is_remote(name):
        file = open_seekable(name)
        entry = find_file(name) if version != hash_text(UNKNOWN_VERSION) else None
        found = entry.version if entry else UNKNOWN_VERSION
    else:
        file = open_listed(name)
        found = read_version(os.fstat(file.fileno()))
    if version != hash_text(found):
        file.close()
        raise ChangedFileError("the file changed since it was analyzed")
    return file


def read_version(status: os.stat_result) -> str:
    """Return a text that changes with the size or the modification time of a local file."""
    return f"{status.st_size} {status.st_mtime_ns}"


def hash_text(text: str) -> str:
    """Return the 16 hexadecimal digits that identify a uri or a version."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_identity(uri: str | Path) -> tuple[Any, ...]:
    """Return a value that changes when the file, or the archive that contains it, is replaced.

    The identity of a file in a store is its address: an open file of a store does not change.
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
    """Return the path of a `file://` address, which encodes names that are not valid text; else the name.

    Bytes that are not UTF-8 become surrogates, as in `os.fsdecode`.
    """
    text = str(uri)
    if not text.startswith("file:///"):
        return text
    return os.fsdecode(unquote_to_bytes(os.fsencode(text.removeprefix("file://"))))


def _is_fragmented(head: bytes) -> bool:
    """Return whether a file is a fragmented MP4 without an index.

    FFmpeg reads all of such a file to find the fragments and then reads it again, so it is fetched once
    instead. FFmpeg reads each part of all other formats once.
    """
    return head[4:8] == b"ftyp" and b"mvex" in head and b"sidx" not in head


def _measure(file: BinaryIO) -> MediaFile:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return MediaFile(source=file, size=size)
