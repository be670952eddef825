"""Headers of intact tar archives are those that `tarfile` reads."""

import io
import tarfile
from pathlib import Path

import pytest

from fer_batch.storage.tar_headers import iterate_headers, read_header

NAMES = ("a.mp4", "folder/b.mp4", "é 漢.mp4", "n" * 99, "long/" * 50 + "c.mp4", "folder/")


def write_tar(path: Path, kind: int) -> Path:
    with tarfile.open(path, "w", format=kind, pax_headers={"comment": "9" * 2000}) as tar:
        for number, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size, info.mtime = 700 * number, 1000 + number + (kind == tarfile.PAX_FORMAT) / 4
            if info.type == tarfile.REGTYPE:
                tar.addfile(info, io.BytesIO(bytes(info.size)))
            else:
                tar.addfile(info)
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 200
        tar.addfile(link)
        last = tarfile.TarInfo("last.mp4")
        tar.addfile(last)
    return path


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_those_of_tarfile(kind: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", kind)
    fields = ("name", "size", "mtime", "type", "offset", "offset_data")
    with tarfile.open(path) as tar:
        expected = [[getattr(info, field) for field in fields] for info in tar]
    with path.open("rb") as file:
        headers = list(iterate_headers(file))
        assert [[getattr(header, field) for field in fields] for header in headers] == expected
        for header in headers:
            again = read_header(file, header.offset)
            assert again is not None
            assert [getattr(again, field) for field in fields] == [getattr(header, f) for f in fields]
    assert len(headers) == len(NAMES) + 2
