"""Headers of tar archives, read with limits.

`tarfile` parses single blocks only. It would follow a chain of extended headers by recursion, search their
content in quadratic time, and trust their sizes, so that a small hostile archive could stop or crash it.
"""

import contextlib
import tarfile
from collections.abc import Iterator
from typing import Any

BLOCK_BYTES = tarfile.BLOCKSIZE
MAX_HEADERS = 1_000_000
"""Limit of the members of an archive, with folders."""
MAX_EXTENDED_HEADERS = 16
"""Limit of the extended headers of one member. GNU tar and Python write at most three."""
MAX_EXTENDED_BYTES = 2**20
"""Limit of the content of all extended headers of one member."""
MAX_NAME_LENGTH = 4096
"""Limit of a member's name, which is also that of a path on Linux."""
MAX_SIZE = 2**60
"""Limit of a member's size, so that sums of sizes and positions stay below 2**63."""
PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENDED_TYPES = (*PAX_TYPES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
EMPTY_TYPES = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
"""Types of members without content, whatever size their header has."""
DAMAGED_HEADER = "damaged header"


def iterate_headers(file: Any) -> Iterator[tarfile.TarInfo]:
    """Yield `read_header` of each member of an archive, from the start of a seekable file.

    Raises tarfile.ReadError where the archive is damaged, truncated, or exceeds a limit.
    """
    position = 0
    for _ in range(MAX_HEADERS):
        header = read_header(file, position)
        if header is None:
            return
        yield header
        position = header.offset_data
        if header.type not in EMPTY_TYPES:
            position += _pad(header.size)
        _check_size(position)
        if position != file.tell():  # a compressed archive cannot seek back
            _read(file, position - 1, 1)
    raise tarfile.ReadError(f"it has more than {MAX_HEADERS:,} members: divide it into several archives")


def read_header(file: Any, offset: int) -> tarfile.TarInfo | None:
    """Read the header of the member at a position; None at the end of the archive.

    The attributes `name`, `size`, `mtime`, `type`, `offset` and `offset_data` count, and include those in
    extended headers. Sparse files of every kind have the type GNUTYPE_SPARSE. Raises tarfile.ReadError.
    """
    records: dict[bytes, bytes] = {}
    position, extended_bytes = offset, 0
    for _ in range(MAX_EXTENDED_HEADERS + 1):
        start = position
        block = _read(file, start, BLOCK_BYTES)
        if start == offset and not any(block):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(DAMAGED_HEADER) from error
        _check_size(info.size)
        position += BLOCK_BYTES
        if info.type not in EXTENDED_TYPES:
            break
        extended_bytes += info.size
        if extended_bytes > MAX_EXTENDED_BYTES:
            raise tarfile.ReadError(f"the headers of a member have more than {MAX_EXTENDED_BYTES >> 20} MB")
        content = _read(file, position, info.size)
        if info.type in PAX_TYPES:
            records |= _parse_records(content)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            records[b"path"] = content.partition(b"\0")[0]
        position += _pad(info.size)
        if info.type == tarfile.XGLTYPE and start == offset:
            offset = position  # a global header is not a part of the member
    else:
        raise tarfile.ReadError(f"a member has more than {MAX_EXTENDED_HEADERS} extended headers")
    if info.type == tarfile.GNUTYPE_SPARSE:
        position = _skip_sparse_map(file, position, block)
    _apply_records(info, records)
    if len(info.name) > MAX_NAME_LENGTH:
        raise tarfile.ReadError(f"the name of a member has more than {MAX_NAME_LENGTH:,} characters")
    info.offset, info.offset_data = offset, position
    return info


def _parse_records(content: bytes) -> dict[bytes, bytes]:
    """Return the values of a pax header, records of "LENGTH KEY=VALUE\\n", by their keys."""
    records = {}
    position = 0
    while position < len(content) and content[position]:
        digits, _, _ = content[position : position + 20].partition(b" ")
        end = position + int(digits) if digits.isdigit() else 0
        record = content[position + len(digits) + 1 : end]
        key, separator, value = record.partition(b"=")
        if end > len(content) or not separator or not value.endswith(b"\n"):
            raise tarfile.ReadError(DAMAGED_HEADER)
        records[key] = value[:-1]
        position = end
    return records


def _apply_records(info: tarfile.TarInfo, records: dict[bytes, bytes]) -> None:
    name = records.get(b"GNU.sparse.name", records.get(b"path"))
    if name is not None:
        info.name = name.decode("utf-8", "surrogateescape").rstrip("/")
    if (size := records.get(b"size")) is not None:
        if not size.isdigit() or len(size) > len(str(MAX_SIZE)):
            raise tarfile.ReadError(DAMAGED_HEADER)
        info.size = int(size)
        _check_size(info.size)
    if (mtime := records.get(b"mtime")) is not None:
        info.mtime = 0
        with contextlib.suppress(ValueError):
            info.mtime = float(mtime[:40])
    if any(key.startswith(b"GNU.sparse.") for key in records):
        info.type = tarfile.GNUTYPE_SPARSE


def _skip_sparse_map(file: Any, position: int, block: bytes) -> int:
    """Return the position after the blocks that continue the map of GNU's old sparse format."""
    first, is_continued = position, block[482]
    while is_continued:
        if position - first >= MAX_EXTENDED_BYTES:
            raise tarfile.ReadError(f"the map of a sparse file has more than {MAX_EXTENDED_BYTES >> 20} MB")
        is_continued = _read(file, position, BLOCK_BYTES)[504]
        position += BLOCK_BYTES
    return position


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise tarfile.ReadError("a member has a size that no file can have")


def _read(file: Any, position: int, size: int) -> bytes:
    file.seek(position)
    data: bytes = file.read(size)
    if len(data) < size:
        raise tarfile.ReadError("missing end")
    return data


def _pad(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
