"""Hostile archives: headers that lie about sizes, chains, names and positions."""

import gzip
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


def tar_header(name: str = "x.mp4", size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def tar_file(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return tar_header(name, len(content), kind) + content + bytes(-len(content) % BLOCK)


def pax(*records: bytes) -> bytes:
    """Return an extended header with records of KEY=VALUE."""
    content = b""
    for record in records:
        length = len(record) + 2
        while length != len(record) + 2 + len(str(length)):
            length = len(record) + 2 + len(str(length))
        content += b"%d %s\n" % (length, record)
    return tar_file("pax", content, tarfile.XHDTYPE)


def fix_checksum(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:BLOCK]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def fix_checksums(content: bytes) -> bytes:
    """Correct the checksums of all headers in a tar file."""
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    return b"".join(fix_checksum(block) if block[257:262] == b"ustar" else block for block in blocks)


LONG_NAME = tar_file("././@LongLink", b"long.mp4\0", tarfile.GNUTYPE_LONGNAME)
SPARSE = tar_header(kind=tarfile.GNUTYPE_SPARSE)
SPARSE_MAP = bytes(504) + b"\1" + bytes(7)
GOOD_TAR = tar_file("good.mp4", b"good")
TARS: dict[str, bytes] = {
    "negative size": tar_header(size=-BLOCK),
    "negative size of an extended header": tar_header("pax", -BLOCK, tarfile.XHDTYPE),
    "size of 2**63": tar_header(size=2**63),
    "size of 2**63 - 1": tar_header(size=2**63 - 1),
    "size of 2**60": tar_header("huge.avi", size=2**60),
    "size of 2**88": tar_header(size=2**88 - 1),
    "pax size of 2**63": pax(b"size=9223372036854775808") + tar_header(),
    "negative pax size": pax(b"size=-512") + tar_header(),
    "pax size of many digits": pax(b"size=" + b"9" * 100_000) + tar_header(),
    "pax header of digits": tar_file("pax", b"9" * 350_000, tarfile.XHDTYPE) + tar_header(),
    "pax record of length 0": tar_file("pax", b"0 a=b\n", tarfile.XHDTYPE) + tar_header(),
    "pax header of 2 MB": pax(b"comment=" + bytes(2_000_000)) + tar_header(),
    "600 long names": 600 * LONG_NAME + tar_header(),
    "600 pax headers": 600 * pax(b"path=a.mp4") + tar_header(),
    "600 global headers": 600 * tar_file("pax", b"9 a=bcde\n", tarfile.XGLTYPE) + tar_header(),
    "long name of 500 KB": tar_file("x", b"n" * 500_000, tarfile.GNUTYPE_LONGNAME) + tar_header(),
    "extended header without a member": LONG_NAME + END,
    "sparse map without an end": fix_checksum(SPARSE[:482] + b"\1" + bytes(29)) + 3000 * SPARSE_MAP,
}
"""Attacks by name: the bytes behind a good member."""


def hostile_tar(path: Path, attack: str) -> Path:
    """Write a tar file, compressed if its name ends with "gz", of a good member and an attack."""
    content = GOOD_TAR + TARS[attack] + END
    path.write_bytes(gzip.compress(content) if path.suffix.endswith("gz") else content)
    return path


def zip_of(
    *members: tuple[int, int, int], version: int = 20, extra: bytes = b"", directory_size: int | None = None
) -> bytes:
    """Return a zip of stored members that are declared as (size, packed size, offset), with zip64 fields."""
    content = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 4, 4, 5, 0) + b"0.mp4" + b"good"
    directory = b""
    for number, sizes in enumerate(members):
        name = b"%d.mp4" % number
        fields = struct.pack("<HH3Q", 1, 24, *(size % 2**64 for size in sizes)) + extra
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", version, version, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1),
            *(len(name), len(fields), 0, 0, 0, 0, 2**32 - 1),
        )
        directory += name + fields
    size = len(directory) if directory_size is None else directory_size
    count = len(members)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, len(content), 0)
    return content + directory + end


ZIPS: dict[str, Callable[[], bytes]] = {
    "size of 2**63": lambda: zip_of((2**63, 4, 0)),
    "packed size of 2**63": lambda: zip_of((4, 2**63, 0)),
    "offset of 2**63": lambda: zip_of((4, 4, 2**63)),
    "negative offset": lambda: zip_of((4, 4, 0), directory_size=10_000),
    "member behind the end": lambda: zip_of((4, 4, 30)),
    "overlapping members": lambda: zip_of((4, 4, 0), (4, 4, 0)),
    "nested members": lambda: zip_of((40, 40, 0), (4, 4, 20)),
    "unknown version": lambda: zip_of((4, 4, 0), version=99),
    "damaged extra field": lambda: zip_of((4, 4, 0), extra=b"\1\0\xff\xff"),
    "directory of 4 GB": lambda: zip_of((4, 4, 0), directory_size=2**32 - 2),
    "only an end": lambda: zip_of()[-22:],
}
"""Attacks by name: archives that are refused as a whole. The last one has no members."""


def hostile_zip(path: Path, attack: str) -> Path:
    path.write_bytes(ZIPS[attack]())
    return path
