"""Files that are members of a tar or zip archive, read where they lie as far as the format allows that."""

import functools
import gzip
import io
import posixpath
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from fer_batch.errors import DecodeError
from fer_batch.storage.stores import StoreFile, format_reason, is_remote

MEMBER_SEPARATOR = "!/"
"""Between an archive's name and its member's."""
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_UNPACK_RATIO = 200
"""Times its size that an archive, or a member, may unpack to: video is compressed already."""
MAX_MEMORY_BYTES = 64 * 2**20
"""Bytes that may be unpacked whatever the ratio, and that are held in memory of an unpacked member."""
MAX_INDEX_BYTES = 256 * 2**20
"""Bytes that are read at once, of an archive's index or of a member's headers."""
MAX_COPY_BYTES = 16 * 2**30
"""Bytes of a member that is unpacked: some ten hours of 1080p."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a member in a zip file: its mark, and the lengths of name and extra field (APPNOTE.TXT, 4.3.7)."""
ARCHIVE_CHANGED = "its archive has been written anew since it was listed: run the same command again"
DAMAGE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class ArchiveMember:
    """A file in an archive."""

    name: str
    offset: int
    """Where its header begins: in the archive, unpacked where that is packed as a whole."""
    size_bytes: int
    version: str
    """What changes when it does."""
    error: str | None
    """Why it is not read."""


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def split_member(uri: str) -> tuple[str, str] | None:
    """The archive's name and the member's of a name of both; None where it is no such name."""
    for place in range(len(uri)):
        if uri.startswith(MEMBER_SEPARATOR, place) and is_archive(uri[:place]):
            return uri[:place], uri[place + len(MEMBER_SEPARATOR) :]
    return None


def list_members(file: BinaryIO, name: str, size: int) -> tuple[list[ArchiveMember], str | None]:
    """The files in an archive of so many bytes, each name once (the last counts), and what is wrong with it.

    What can't be read safely is there with the reason: names that lead out, links, devices, members that are
    encrypted or unpack to more than `MAX_UNPACK_RATIO` times their size.
    """
    found: dict[str, ArchiveMember] = {}
    look = _zip_members if name.lower().endswith(".zip") else _tar_members
    try:
        for member in look(file, name, size):
            found[member.name] = member
    except DAMAGE_ERRORS as error:
        return list(
            found.values()
        ), f"after {len(found)} files the archive can't be read: {format_reason(error)}"
    return list(found.values()), None


def open_seekable(name: str) -> BinaryIO:
    """A file of this machine or of a store to read and seek in; a copy of it where the store can't seek.

    Raises OSError, DecodeError.
    """
    if not is_remote(name):
        return open(name, "rb")
    file = StoreFile(name)
    if file.seekable():
        return file  # type: ignore[return-value]
    with file:
        return copy_to_temporary(file)


def open_member(archive: str, member: str, offset: int, identity: Any) -> BinaryIO:
    """A member of an archive to read and seek in.

    `identity` tells whether the archive is still the one that was read last. Raises DecodeError where the
    member can't be read, also where the archive has been written anew.
    """
    try:
        if archive.lower().endswith(".zip"):
            return _zip_member(archive, member, offset, identity)
        if archive.lower().endswith(".tar"):
            file = open_seekable(archive)
            info = _header(file, member, offset)
            return _part(file, info.offset_data, info.size)
        unpacked = _unpacking(archive, identity)
        info = _header(unpacked, member, offset)
        unpacked.seek(info.offset_data)
        return copy_to_temporary(unpacked, info.size)
    except DAMAGE_ERRORS as error:
        _opened_zip.cache_clear()
        _unpacking.cache_clear()
        raise DecodeError(f"it can't be read from its archive: {format_reason(error)}") from error


class _Bounded(io.RawIOBase):
    """A file of strangers, of which neither much is read at once, nor what lies beyond a limit."""

    def __init__(self, file: Any, limit: float = float("inf")) -> None:
        self.file, self.limit = file, limit

    def read(self, size: int = -1) -> bytes:
        wanted = MAX_INDEX_BYTES + 1 if size < 0 else size
        self._check(self.file.tell() + max(size, 0))
        data: bytes = self.file.read(min(wanted, MAX_INDEX_BYTES + 1))
        if len(data) > MAX_INDEX_BYTES:
            raise ValueError(f"an index of more than {MAX_INDEX_BYTES >> 20} MB, the most that is read")
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET:
            self._check(place)
        return int(self.file.seek(place, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def seekable(self) -> bool:
        return True

    def _check(self, place: int) -> None:
        if place > self.limit:
            raise ValueError(f"it unpacks to more than {MAX_UNPACK_RATIO} times its size, as no video does")


class _Part(io.RawIOBase):
    """So many bytes of a file, from some place on."""

    def __init__(self, file: BinaryIO, first: int, size: int) -> None:
        self.file, self.first, self.size, self.place = file, first, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self.place = place + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.first + self.place)
        read = self.file.read(max(min(len(buffer), self.size - self.place), 0))
        buffer[: len(read)] = read
        self.place += len(read)
        return len(read)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


def _part(file: BinaryIO, first: int, size: int) -> BinaryIO:
    return _Part(file, first, size)  # type: ignore[return-value]


def _tar_members(file: BinaryIO, name: str, size: int) -> Iterator[ArchiveMember]:
    packed = not name.lower().endswith(".tar")
    source = (
        _Bounded(gzip.GzipFile(fileobj=file), MAX_UNPACK_RATIO * size + MAX_MEMORY_BYTES)
        if packed
        else _Bounded(file)
    )
    tar = tarfile.TarFile(fileobj=source)
    while (info := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # a million of them is a gigabyte
        if not info.isdir():
            yield ArchiveMember(
                name=posixpath.normpath(info.name),
                offset=info.offset,
                size_bytes=info.size,
                version=f"{info.size} {info.mtime} {info.offset}",
                error=_unsafe(info.name) or _no_file(info),
            )
    source.seek(tar.offset)
    if (end := source.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("a damaged header" if len(end) == tarfile.BLOCKSIZE else "it has no end")


def _zip_members(file: BinaryIO, name: str, size: int) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(_Bounded(file)) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield ArchiveMember(
                    name=posixpath.normpath(info.filename),
                    offset=info.header_offset,
                    size_bytes=info.file_size,
                    version=f"{info.file_size} {info.CRC} {info.header_offset}",
                    error=_unsafe(info.filename) or _no_plain_file(info),
                )


def _unsafe(name: str) -> str | None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return "its name leads out of the archive"
    return None


def _no_file(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "a link in the archive, which is not followed"
    if not info.isreg() or info.issparse():
        return "not a regular file"
    return None


def _no_plain_file(info: zipfile.ZipInfo) -> str | None:
    if info.external_attr >> 28 == 0o12:
        return "a link in the archive, which is not followed"
    if info.flag_bits & 1:
        return "encrypted"
    if info.file_size > MAX_UNPACK_RATIO * info.compress_size + MAX_MEMORY_BYTES:
        return f"it unpacks to more than {MAX_UNPACK_RATIO} times its size, as no video does"
    return None


def _header(file: Any, member: str, offset: int) -> tarfile.TarInfo:
    """A member's header at its place."""
    file.seek(offset)
    info = tarfile.TarFile(fileobj=_Bounded(file)).next()
    if info is None or posixpath.normpath(info.name) != member or not info.isreg() or info.issparse():
        raise DecodeError(ARCHIVE_CHANGED)
    return info


@functools.lru_cache(maxsize=1)
def _unpacking(archive: str, identity: Any) -> gzip.GzipFile:
    """The archive that is being unpacked, as far as it was: its members mostly come in their order."""
    return gzip.GzipFile(fileobj=open_seekable(archive))


@functools.lru_cache(maxsize=1)
def _opened_zip(archive: str, identity: Any) -> tuple[zipfile.ZipFile, dict[int, zipfile.ZipInfo]]:
    """The archive that was read last, and its members by their place."""
    opened = zipfile.ZipFile(_Bounded(open_seekable(archive)))
    return opened, {info.header_offset: info for info in opened.infolist()}


def _zip_member(archive: str, member: str, offset: int, identity: Any) -> BinaryIO:
    opened, infos = _opened_zip(archive, identity)
    info = infos.get(offset)
    if info is None or posixpath.normpath(info.filename) != member:
        raise DecodeError(ARCHIVE_CHANGED)
    if info.compress_type != zipfile.ZIP_STORED:
        with opened.open(info) as unpacked:
            return copy_to_temporary(unpacked, info.file_size)
    file = open_seekable(archive)
    file.seek(offset)
    mark, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if mark != b"PK\x03\x04":
        raise zipfile.BadZipFile("there is no member where its index says so")
    return _part(file, offset + LOCAL_HEADER.size + name_length + extra_length, info.file_size)


def copy_to_temporary(file: Any, size: int | None = None) -> BinaryIO:
    """A copy of what is left of a file, of `size` bytes where that is known: in memory while it is small,
    then in the folder for temporary files, where it has no name. Raises DecodeError where it finds no room.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    most = min(MAX_COPY_BYTES, max(free // 2, MAX_MEMORY_BYTES))
    copy = tempfile.SpooledTemporaryFile(max_size=MAX_MEMORY_BYTES)  # noqa: SIM115
    left = most if size is None else size
    if left <= most:
        while left > 0 and (data := file.read(min(left, 2**20))):
            copy.write(data)
            left -= len(data)
    if left > most or (left == 0 and size is None):
        raise DecodeError(
            f"it has to be unpacked and is larger than {most / 1e9:.1f} GB, half of what is free in "
            f"{tempfile.gettempdir()} (TMPDIR) and at most {MAX_COPY_BYTES / 1e9:.0f} GB"
        )
    if size is not None and left:
        raise EOFError(f"it ends {left} bytes early")
    copy.seek(0)
    return copy  # type: ignore[return-value]
