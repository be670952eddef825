"""Members of archives are read like files, and harmful archives are refused."""

import gzip
import io
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.errors import DecodeError
from fer_batch.storage import archives, file_sections, tar_headers
from fer_batch.storage.archives import (
    ARCHIVE_CHANGED,
    ArchiveMember,
    is_archive,
    list_members,
    open_member,
    split_member,
)
from tests.runs import flip_bits
from tests.storage import hostile

CLIP = os.urandom(3_000_000)
NAMES = ("a.tar", "a.tar.gz", "a.tgz", "stored.zip", "deflated.zip")
FILES = {"clips/one.mp4": CLIP, "two.mp4": b"two" * 50_000, "empty.mp4": b"", "é 漢.mp4": b"four"}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of these files, of the type that its name has."""
    if path.suffix == ".zip":
        kind = zipfile.ZIP_STORED if path.stem == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def list_by_name(path: Path) -> tuple[dict[str, ArchiveMember], str | None]:
    with path.open("rb") as file:
        found, trouble = list_members(file, str(path), path.stat().st_size)
    return {member.name: member for member in found}, trouble


def opened(path: Path, name: str, offset: int) -> io.IOBase:
    return open_member(str(path), name, offset, path.stat().st_mtime_ns)[0]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("", None),
        ("/data/a.mp4", None),
        ("/data/a.tar", None),
        ("/data/wow!/a.mp4", None),
        ("/data/a.tar!/b.mp4", ("/data/a.tar", "b.mp4")),
        ("/wow!/A.ZIP!/b/c.mp4", ("/wow!/A.ZIP", "b/c.mp4")),
        ("s3://b/a.tar.gz!/b.tar!/c.mp4", ("s3://b/a.tar.gz", "b.tar!/c.mp4")),
    ],
)
def test_name_is_split_after_an_archive_only(uri: str, parts: tuple[str, str] | None) -> None:
    assert split_member(uri) == parts


@pytest.mark.parametrize("name", NAMES)
def test_members_are_the_packed_files(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / name, FILES)
    found, trouble = list_by_name(path)
    assert trouble is None
    assert {n: m.size_bytes for n, m in found.items()} == {n: len(c) for n, c in FILES.items()}
    assert len({m.version for m in found.values()}) == len(FILES)
    for each in (*FILES, *reversed(FILES)):
        with opened(path, each, found[each].offset) as file:
            assert file.read() == FILES[each]


@pytest.mark.parametrize("name", NAMES)
def test_empty_archive_has_no_members(name: str, tmp_path: Path) -> None:
    assert list_by_name(pack(tmp_path / name, {})) == ({}, None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-10, 3_000_100), st.integers(0, 70_000)), max_size=8),
    st.sampled_from(NAMES),
)
def test_member_is_seekable_like_a_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]], name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "sought"
    folder.mkdir(exist_ok=True)
    path = folder / name
    if not path.exists():
        pack(path, FILES)
    plain = io.BytesIO(CLIP)
    with opened(path, "clips/one.mp4", list_by_name(path)[0]["clips/one.mp4"].offset) as file:
        for place, count in steps:
            whence = io.SEEK_END if place < 0 else io.SEEK_SET
            assert file.seek(place, whence) == plain.seek(place, whence)
            assert file.read(count) == plain.read(count)
            assert file.tell() == plain.tell()


def hostile_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, kind, target in (
            ("../out.mp4", tarfile.REGTYPE, ""),
            ("/etc/out.mp4", tarfile.REGTYPE, ""),
            ("link.mp4", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.mp4", tarfile.LNKTYPE, "../../etc/passwd"),
            ("device.mp4", tarfile.CHRTYPE, ""),
            ("pipe.mp4", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        good = tarfile.TarInfo("good.mp4")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
    return path


def hostile_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../out.mp4", b"x")
        archive.writestr("c:\\out.mp4", b"x")
        link = zipfile.ZipInfo("link.mp4")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.mp4", bytes(file_sections.MAX_MEMORY_BYTES + 1_000_000_00))
        archive.writestr("good.mp4", b"good")
    return path


@pytest.mark.parametrize("make", [hostile_tar, hostile_zip])
def test_harmful_members_are_listed_with_the_reason(make: Callable[[Path], Path], tmp_path: Path) -> None:
    found, trouble = list_by_name(make(tmp_path / make.__name__.replace("hostile_", "a.")))
    assert trouble is None
    assert found.pop("good.mp4").error is None
    reasons = {name: member.error or "" for name, member in found.items()}
    assert all(reasons.values())
    for name, reason in (
        ("out.mp4", "leads out"),
        ("link.mp4", "not followed"),
        ("hard.mp4", "not followed"),
        ("device.mp4", "regular"),
        ("pipe.mp4", "regular"),
        ("bomb.mp4", "200 times"),
    ):
        assert all(reason in part for each, part in reasons.items() if each.endswith(name))


@pytest.mark.slow
def test_archive_bomb_is_refused(tmp_path: Path) -> None:
    """400 MB of zeros are packed into 0.4 MB behind one good file."""
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("good.mp4")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"good"))
        info = tarfile.TarInfo("bomb.mp4")
        info.size = 400_000_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    found, trouble = list_by_name(path)
    assert found["good.mp4"].error is None
    assert trouble is not None
    assert "200 times" in trouble


def test_header_of_excessive_size_is_refused(tmp_path: Path) -> None:
    """An extended header is read as a whole, and declares its own length."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "a.tar").write_bytes(info.tobuf())
    with (tmp_path / "a.tar").open("r+b") as file:
        file.truncate(2**32)
    found, trouble = list_by_name(tmp_path / "a.tar")
    assert found == {}
    assert trouble is not None
    assert "headers of a member" in trouble


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "stored.zip"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_truncated_archive_is_reported(name: str, share: float, tmp_path: Path) -> None:
    path = pack(tmp_path / name, FILES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    found, trouble = list_by_name(path)
    assert trouble is not None
    assert f"after {len(found)} files" in trouble


def test_damaged_header_does_not_count_as_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    second = list_by_name(path)[0]["two.mp4"].offset
    flip_bits(path, second + 150, 0xFF)
    found, trouble = list_by_name(path)
    assert list(found) == ["clips/one.mp4"]
    assert "damaged header" in (trouble or "")


@pytest.mark.parametrize("name", NAMES)
def test_changed_archive_is_reported(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / name, FILES)
    place = list_by_name(path)[0]["two.mp4"].offset
    os.utime(pack(path, {"another.mp4": CLIP[:10_000], **FILES}), ns=(0, 1))
    with pytest.raises(DecodeError, match="archive"):
        opened(path, "two.mp4", place)
    assert "again" in ARCHIVE_CHANGED


def test_damaged_member_is_reported(tmp_path: Path) -> None:
    path = pack(tmp_path / "deflated.zip", FILES)
    place = list_by_name(path)[0]["clips/one.mp4"].offset
    flip_bits(path, place + 1_000_000, 0xFF)
    with pytest.raises(DecodeError, match="cannot read it from its archive"):
        opened(path, "clips/one.mp4", place)


def test_member_too_large_to_unpack_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.tgz", FILES)
    monkeypatch.setattr(file_sections, "MAX_COPY_BYTES", 1_000_000)
    with pytest.raises(DecodeError, match=r"larger than 0\.0 GB"):
        opened(path, "clips/one.mp4", list_by_name(path)[0]["clips/one.mp4"].offset)


def test_is_archive() -> None:
    named = ("a.tar", "a.TGZ", "a.tar.gz", "a.gz", "a.zip", "tar", "a.mp4")
    assert [name for name in named if is_archive(name)] == ["a.tar", "a.TGZ", "a.tar.gz", "a.zip"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("attack", hostile.TARS)
def test_hostile_headers_end_the_list(attack: str, suffix: str, tmp_path: Path) -> None:
    path = hostile.hostile_tar(tmp_path / f"a{suffix}", attack)
    began_s = time.process_time()
    found, trouble = list_by_name(path)
    assert time.process_time() - began_s < 1
    assert "after" in (trouble or "")
    assert found["good.mp4"].error is None
    assert list(found) in (["good.mp4"], ["good.mp4", "huge.avi"])
    for name in ("x.mp4", "a.mp4", "long.mp4"):
        with pytest.raises(DecodeError, match="archive"):
            opened(path, name, len(hostile.GOOD_TAR))


@pytest.mark.parametrize("attack", hostile.ZIPS)
def test_hostile_zip_has_no_members(attack: str, tmp_path: Path) -> None:
    path = hostile.hostile_zip(tmp_path / "a.zip", attack)
    found, trouble = list_by_name(path)
    assert found == {}
    assert trouble is not None or attack == "only an end"
    with pytest.raises(DecodeError, match="archive"):
        opened(path, "0.mp4", 0)


def test_zip_with_true_zip64_fields_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(hostile.zip_of((4, 4, 0)))
    assert [(m.size_bytes, m.error) for m in list_by_name(tmp_path / "a.zip")[0].values()] == [(4, None)]
    with opened(tmp_path / "a.zip", "0.mp4", 0) as file:
        assert file.read() == b"good"
        with pytest.raises(ValueError, match="negative"):
            file.seek(-5, io.SEEK_END)
    (tmp_path / "a.zip").write_bytes(hostile.zip_of((3, 4, 0)))
    assert "two sizes" in (list_by_name(tmp_path / "a.zip")[0]["0.mp4"].error or "")


@pytest.mark.parametrize("name", NAMES)
def test_number_of_members_is_limited(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / name, FILES)
    monkeypatch.setattr(archives, "MAX_HEADERS", 3)
    monkeypatch.setattr(tar_headers, "MAX_HEADERS", 3)
    assert "more than 3 members" in (list_by_name(path)[1] or "")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 1_000_000, id="long name"),
        pytest.param(20_000 * gzip.compress(b""), id="empty streams"),
    ],
)
def test_gzip_headers_are_limited(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    began_s = time.process_time()
    found, trouble = list_by_name(path)
    assert found == {}
    assert trouble is not None
    assert "headers are too long or too many" in trouble
    assert time.process_time() - began_s < 5


def test_gzip_of_many_streams_is_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"a.mp4": bytes(4_000_000)})
    content = path.read_bytes()
    path = tmp_path / "a.tar.gz"
    pieces = (content[start : start + 512] for start in range(0, len(content), 512))
    path.write_bytes(b"".join(map(gzip.compress, pieces)))
    assert list_by_name(path)[1] is None


@pytest.mark.parametrize("name", NAMES)
def test_keep_alive_is_called_while_the_reading_advances(name: str, tmp_path: Path) -> None:
    calls: list[int] = []
    path = pack(tmp_path / name, FILES)
    with path.open("rb") as file:
        list_members(file, name, path.stat().st_size, lambda: calls.append(file.tell()))
    assert calls
    assert calls == sorted(set(calls))


def test_split_of_a_hostile_name_takes_linear_time() -> None:
    began_s = time.process_time()
    assert split_member("!/" * 100_000) is None
    assert time.process_time() - began_s < 2


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 10**6),
)
def test_damaged_archives_give_members_or_reasons(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[int, int]], end: int | None
) -> None:
    """Headers with changed bytes get a correct checksum, so that their fields are read."""
    path = tmp_path_factory.getbasetemp() / f"changed_{name}"
    content = bytearray(pack(path, {"one.mp4": b"1" * 700, f"{'long/' * 60}é.mp4": b"2"}).read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    if name == "a.tar":
        content = bytearray(hostile.fix_checksums(bytes(content)))
    path.write_bytes(content if end is None else content[: end % len(content)])
    began_s = time.process_time()
    for member in list_by_name(path)[0].values():
        assert 0 <= member.size_bytes < 2**63
        assert 0 <= member.offset < 2**63
        try:
            with opened(path, member.name, member.offset) as file:
                assert len(file.read(10_000)) <= member.size_bytes
        except DecodeError:
            pass
    assert time.process_time() - began_s < 2
