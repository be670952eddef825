"""Files in tar and zip archives, read in place as far as the format allows it."""

import errno
import functools
import gzip
import lzma
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from fer_batch.errors import ChangedFileError, DecodeError
from fer_batch.storage.addresses import is_remote
from fer_batch.storage.file_sections import (
    MAX_MEMORY_BYTES,
    MAX_UNPACK_RATIO,
    TOO_LARGE,
    FileSection,
    LimitedFile,
    copy_to_temporary,
)
from fer_batch.storage.stores import StoreFile, format_reason
from fer_batch.storage.tar_headers import MAX_HEADERS, MAX_NAME_LENGTH, MAX_SIZE, iterate_headers, read_header
from fer_batch.storage.user_files import open_regular

MEMBER_SEPARATOR = "!/"
"""Separates an archive's name from the member's name."""
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_SUFFIX_LENGTH = max(map(len, ARCHIVE_SUFFIXES))
REGULAR_TAR_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Local header of a zip member: signature, length of name, length of extra field (APPNOTE.TXT, 4.3.7)."""
ARCHIVE_CHANGED = "its archive has changed since it was listed: run the same command again"
LINK = "a link in an archive, which is not followed"
DAMAGE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    IndexError,
    RuntimeError,  # of zipfile, for encrypted members and unknown versions
    struct.error,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveMember:
    """A file in an archive."""

    name: str
    offset: int
    """Position of its header in the archive; in the unpacked archive if that is compressed as a whole."""
    size_bytes: int
    version: str
    """Changes when the member does."""
    error: str | None
    """Reason why the member is not read."""


def is_archive(name: str) -> bool:
    """Return whether a file name has the suffix of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def split_member(uri: str) -> tuple[str, str] | None:
    """Split ARCHIVE!/MEMBER into the names of archive and member; None for any other name."""
    position = uri.find(MEMBER_SEPARATOR)
    while position >= 0:
        if is_archive(uri[max(position - MAX_SUFFIX_LENGTH, 0) : position]):
            return uri[:position], uri[position + len(MEMBER_SEPARATOR) :]
        position = uri.find(MEMBER_SEPARATOR, position + 1)
    return None


def list_members(
    file: BinaryIO, name: str, size: int, keep_alive: Callable[[], None] = lambda: None
) -> tuple[list[ArchiveMember], str | None]:
    """List the files in an archive of `size` bytes, and describe its damage if there is some.

    `keep_alive` is called whenever the reading advances. Of several members with the same name, the last one
    counts. Unsafe members are listed with an `error`: names that lead out of the archive, links, devices,
    encrypted members, and members that unpack to more than `MAX_UNPACK_RATIO` times their size.
    """
    members: dict[str, ArchiveMember] = {}
    iterate = _iterate_zip if name.lower().endswith(".zip") else _iterate_tar
    try:
        for member in iterate(LimitedFile(file, keep_alive=keep_alive), name, size):
            members[member.name] = member
    except DAMAGE_ERRORS as error:
        damage = f"cannot read the archive after {len(members)} files: {format_reason(error)}"
        return list(members.values()), damage
    return list(members.values()), None


def open_seekable(name: str) -> BinaryIO:
    """Open a local file or a file in a store for reading and seeking.

    A file whose store cannot seek is copied. Raises OSError or DecodeError, see `open_listed`.
    """
    if not is_remote(name):
        return open_listed(name)
    file = StoreFile(name)
    if file.seekable():
        return file  # type: ignore[return-value]
    with file:
        return copy_to_temporary(file)


def open_listed(path: str) -> BinaryIO:
    """Open a regular file, but not through a link as the last part of its path.

    Listed paths have their links resolved, so such a link has replaced the listed file. Raises OSError,
    ChangedFileError, and DecodeError for anything but a regular file: opening a pipe or a device could block
    for ever.
    """
    try:
        return open_regular(path, follow_link=False)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ChangedFileError("a link has replaced it since it was listed") from error
        raise
    except ValueError as error:
        raise DecodeError("not a regular file") from error


def open_member(archive: str, member: str, offset: int, identity: Any) -> tuple[BinaryIO, str]:
    """Open a member of an archive for reading and seeking; return it with its version.

    `identity` changes when the archive does (see `storage.media.read_identity`). Raises DecodeError if the
    member cannot be read or the archive has changed since it was listed.
    """
    try:
        if archive.lower().endswith(".zip"):
            return _open_zip_member(archive, member, offset, identity)
        if archive.lower().endswith(".tar"):
            file = open_seekable(archive)
            header = _find_tar_member(file, member, offset)
            section = FileSection(file, header.offset_data, header.size)
            return section, _tar_version(header)  # type: ignore[return-value]
        unpacked = _open_gzip(archive, identity)
        header = _find_tar_member(unpacked, member, offset)
        unpacked.seek(header.offset_data)
        return copy_to_temporary(unpacked, header.size), _tar_version(header)
    except DAMAGE_ERRORS as error:
        _open_zip.cache_clear()
        _open_gzip.cache_clear()
        raise DecodeError(f"cannot read it from its archive: {format_reason(error)}") from error


def _iterate_tar(file: LimitedFile, name: str, size: int) -> Iterator[ArchiveMember]:
    source = file
    if not name.lower().endswith(".tar"):
        source = LimitedFile(gzip.GzipFile(fileobj=file), MAX_UNPACK_RATIO * size + MAX_MEMORY_BYTES)
    for info in iterate_headers(source):
        if not info.isdir():
            yield ArchiveMember(
                name=posixpath.normpath(info.name),
                offset=info.offset,
                size_bytes=info.size,
                version=_tar_version(info),
                error=_check_name(info.name) or _check_tar_type(info),
            )


def _iterate_zip(file: LimitedFile, name: str, size: int) -> Iterator[ArchiveMember]:
    with _open_checked_zip(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield ArchiveMember(
                    name=posixpath.normpath(info.filename),
                    offset=info.header_offset,
                    size_bytes=info.file_size,
                    version=_zip_version(info),
                    error=_check_name(info.filename) or _check_zip_type(info),
                )


def _tar_version(info: tarfile.TarInfo) -> str:
    return f"{info.size} {info.mtime} {info.offset}"


def _zip_version(info: zipfile.ZipInfo) -> str:
    return f"{info.file_size} {info.CRC} {info.header_offset}"


def _open_checked_zip(file: Any) -> zipfile.ZipFile:
    """Open a zip file; raise BadZipFile if its members overlap, or exceed the file or a limit."""
    archive = zipfile.ZipFile(file)
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len(infos) > MAX_HEADERS:
        raise zipfile.BadZipFile(f"it has more than {MAX_HEADERS:,} members: divide it into several archives")
    ends = [info.header_offset + ZIP_LOCAL_HEADER.size + info.compress_size for info in infos]
    starts = [*(info.header_offset for info in infos), archive.start_dir]
    if any(end > start for end, start in zip(ends, starts[1:], strict=True)) or starts[0] < 0:
        raise zipfile.BadZipFile("its members overlap, or reach beyond its end")
    if any(info.file_size > MAX_SIZE for info in infos):
        raise zipfile.BadZipFile("a member has a size that no file can have")
    if any(len(info.filename) > MAX_NAME_LENGTH for info in infos):
        raise zipfile.BadZipFile(f"the name of a member has more than {MAX_NAME_LENGTH:,} characters")
    return archive


def _check_name(name: str) -> str | None:
    """Return an error for a member's name that leads out of the archive."""
    parts = name.replace("\\", "/").split("/")
    has_drive = len(parts[0]) == 2 and parts[0][1] == ":"
    if name.startswith(("/", "\\")) or ".." in parts or has_drive:
        return "its name leads out of the archive"
    return None


def _check_tar_type(info: tarfile.TarInfo) -> str | None:
    """Return an error for a tar member that is not a regular file."""
    if info.issym() or info.islnk():
        return LINK
    if info.type not in REGULAR_TAR_TYPES:
        return "not a regular file"
    return None


def _check_zip_type(info: zipfile.ZipInfo) -> str | None:
    """Return an error for a zip member that is a link, encrypted, or unpacks to too much."""
    if info.external_attr >> 28 == 0o12:
        return LINK
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "the archive gives two sizes for it"
    if info.file_size > MAX_UNPACK_RATIO * info.compress_size + MAX_MEMORY_BYTES:
        return TOO_LARGE
    return None


def _find_tar_member(file: Any, member: str, offset: int) -> tarfile.TarInfo:
    info = read_header(LimitedFile(file), offset)
    if info is None or posixpath.normpath(info.name) != member or info.type not in REGULAR_TAR_TYPES:
        raise ChangedFileError(ARCHIVE_CHANGED)
    return info


@functools.lru_cache(maxsize=1)
def _open_gzip(archive: str, identity: Any) -> gzip.GzipFile:
    """Open the last used .tar.gz once: its members are mostly read in order, without unpacking again."""
    return gzip.GzipFile(fileobj=open_seekable(archive))


@functools.lru_cache(maxsize=1)
def _open_zip(archive: str, identity: Any) -> tuple[zipfile.ZipFile, dict[int, zipfile.ZipInfo]]:
    """Open the last used zip file once; also return its members by their offset."""
    file = _open_checked_zip(LimitedFile(open_seekable(archive)))
    return file, {info.header_offset: info for info in file.infolist()}


def _open_zip_member(archive: str, member: str, offset: int, identity: Any) -> tuple[BinaryIO, str]:
    zip_file, infos = _open_zip(archive, identity)
    info = infos.get(offset)
    if info is None or posixpath.normpath(info.filename) != member:
        raise ChangedFileError(ARCHIVE_CHANGED)
    if info.compress_type != zipfile.ZIP_STORED:
        with zip_file.open(info) as unpacked:
            return copy_to_temporary(unpacked, info.file_size), _zip_version(info)
    file = open_seekable(archive)
    file.seek(offset)
    signature, name_length, extra_length = ZIP_LOCAL_HEADER.unpack(file.read(ZIP_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile("no member at the position in the index")
    first = offset + ZIP_LOCAL_HEADER.size + name_length + extra_length
    return FileSection(file, first, info.file_size), _zip_version(info)  # type: ignore[return-value]
