"""Listing of files, folders, globs, archives, stores and manifests."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import FerBatchError, InputError
from fer_batch.inputs.listing import check_inputs_exist, list_videos
from fer_batch.inputs.members import list_archive
from fer_batch.storage.addresses import UNPRINTABLE
from fer_batch.storage.media import uri_to_path
from fer_batch.video.formats import VIDEO_SUFFIXES
from tests.s3 import Store
from tests.storage import hostile
from tests.storage.test_addresses import MALFORMED, OTHER_PROTOCOLS
from tests.storage.test_archives import hostile_tar, pack
from tests.web import Ranged, serve


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return paths


def list_sources(*inputs: Path | str) -> list[dict[str, Any]]:
    return list_videos([str(given) for given in inputs]).sources.to_pylist()


def list_names(*inputs: Path | str) -> list[str]:
    return [Path(source["uri"]).name for source in list_sources(*inputs)]


def list_uris(*inputs: str) -> list[str]:
    return [source["uri"] for source in list_sources(*inputs)]


def test_no_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="no videos named"):
        list_videos([])


def test_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no videos found in .*\.mp4"):
        list_videos([str(tmp_path)])
    touch(tmp_path, "notes.txt", "cover.psd")
    with pytest.raises(InputError, match="2 other files skipped"):
        list_videos([str(tmp_path)])


def test_pictures_are_listed_except_next_to_videos(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    touch(photos, "a.JPG", "b.png", "c.webp", "d.tiff", "e.heic", "f.gif", "notes.doc")
    listed = ["a.JPG", "b.png", "c.webp", "d.tiff", "e.heic", "f.gif"]
    assert sorted(list_names(photos)) == listed
    films = tmp_path / "films"
    touch(films, "film.mp4", "film.jpg")
    assert list_names(films) == ["film.mp4"]
    both = list_videos([str(tmp_path)])
    assert sorted(Path(uri).name for uri in both.sources["uri"].to_pylist()) == sorted([*listed, "film.mp4"])
    assert both.skipped == 2
    assert list_names(films / "film.jpg") == list_names(str(films / "*.jpg")) == ["film.jpg"]
    assert list_names(str(films / "*")) == ["film.mp4"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_pictures_in_archives_are_listed_except_next_to_videos(tmp_path: Path, suffix: str) -> None:
    names = ("photos/a.jpg", "photos/b.png", "films/film.jpg", "films/film.mp4")
    archive = pack(tmp_path / f"all{suffix}", dict.fromkeys(names, b"content"))
    assert sorted(list_names(archive)) == ["a.jpg", "b.png", "film.mp4"]


@pytest.mark.parametrize("given", ["", "nowhere", "nowhere/video.mp4", "video.mp4\0", "*.mp4"])
def test_missing_input_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(InputError, match="nothing matches" if "*" in given else "no file or folder"):
        list_videos([f"{tmp_path}/{given}" if given else given])


def test_folder_is_searched_recursively_for_videos(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/deep/down/c.MKV", "a/readme.md", "a/list.csv", "no_suffix", ".mp4")
    listing = list_videos([str(tmp_path)])
    assert [Path(s["uri"]).name for s in listing.sources.to_pylist()] == ["c.MKV", "b.mp4"]
    assert listing.skipped == 4
    assert listing.duplicates == 0


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_video_suffixes_ignore_case(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert list_names(tmp_path) == [f"a{suffix}", f"b{suffix.upper()}"]


SIDE_FILES = ("._a.mkv", "__MACOSX/b.mp4", "__MACOSX/x/._b.mp4", "@eaDir/c/film.mp4", ".AppleDouble/a.mkv")


@pytest.mark.parametrize("kind", ["folder", "glob", "zip", "tar"])
def test_side_files_of_other_systems_are_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level("INFO", "fer_batch")
    names = ("a.mkv", "notes.txt", *SIDE_FILES)
    given = tmp_path / "videos"
    if kind in ("zip", "tar"):
        given = pack(tmp_path / f"videos.{kind}", {f"./{name}": b"1" for name in names})
    else:
        touch(given, *names)
    listing = list_videos([f"{given}/*" if kind == "glob" else str(given)])
    assert [source["uri"].split("/")[-1] for source in listing.sources.to_pylist()] == ["a.mkv"]
    skipped = {message.removeprefix("skipped: ") for message in caplog.messages}
    assert listing.skipped == len(skipped) == (4 if kind == "glob" else 6)  # a glob omits hidden names
    assert any(name.endswith("/notes.txt") for name in skipped)


def test_explicit_side_files_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, *SIDE_FILES)
    assert list_names(tmp_path / "._a.mkv", tmp_path / "@eaDir") == ["._a.mkv", "film.mp4"]


@pytest.mark.parametrize("name", ["recording.dat", "video [1080p]*.mp4"])
def test_explicit_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path, _ = touch(tmp_path, name, "video 1.mp4")
    assert list_names(path) == [name]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["a.mp4", "b.mp4"]),
        ("?.*", ["a.mp4", "b.mp4"]),
        ("**/*.mp4", ["a.mp4", "b.mp4", "c.mp4"]),
        ("sub*", ["c.mp4"]),
        ("[ab].mp4", ["a.mp4", "b.mp4"]),
    ],
)
def test_globs_match_videos_and_folders(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "b.txt", "sub/c.mp4")
    assert list_names(tmp_path / pattern) == expected


def test_paths_of_a_text_manifest_are_relative_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/#b.mp4", "videos/c #2.mp4")
    lines = ["# comment", "", "   # another", " videos/a.mp4 ", f"{tmp_path}/videos/c #2.mp4", "videos/d.mp4"]
    manifest = tmp_path / "list.txt"
    manifest.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert list_names(manifest) == ["a.mp4", "c #2.mp4", "d.mp4"]
    assert [s["error"] for s in list_sources(manifest)] == [None, None, "the file does not exist"]


@pytest.mark.parametrize("text", ["Dear Ann,\nhere are the talks.\n", "talk one\ntalk two\na.mp4\n"])
def test_text_that_names_no_videos_is_not_a_manifest(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "notes.txt").write_text(text)
    listing = list_videos(sorted(map(str, tmp_path.iterdir())))  # as a glob of the shell gives
    assert [Path(uri).name for uri in listing.sources["uri"].to_pylist()] == ["a.mp4"]
    assert (listing.manifests, listing.skipped) == ((), 1)
    with pytest.raises(InputError, match=r"notes\.txt is not a list of videos"):
        list_videos([str(tmp_path / "notes.txt")])
    (tmp_path / "notes.txt").write_text("a.mp4\ngone.mp4\ntalk one")
    assert list_videos([str(tmp_path / "notes.txt")]).manifests == (str(tmp_path / "notes.txt"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path\na.mp4\n", ["a.mp4"]),
        (" URI ,who\na.mp4,Ann\n\n,Bob\n", ["a.mp4"]),
        ('who,video\n"Ann, B.","b, c.mp4"\nshort row\n', ["b, c.mp4"]),
        ("file,path\na.mp4,b.mp4\n", ["a.mp4"]),
    ],
)
def test_csv_manifest_has_a_path_column(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "list.csv").write_text(text)
    assert list_names(tmp_path / "list.csv") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "no videos found"),
        ("comments.txt", b"# nothing\n\n", "no videos found"),
        ("empty.csv", b"", "no column named path, uri, video or file"),
        ("header.csv", b"path\n", "no videos found"),
        ("columns.csv", b"name,size\na.mp4,3\n", "no column named path, uri, video or file"),
        ("latin.txt", "Fünf.mp4".encode("latin-1"), "can't be read as UTF-8"),
        ("utf16.txt", "a.mp4".encode("utf-16"), "can't be read as UTF-8"),
    ],
)
def test_manifest_without_videos_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list_videos([str(tmp_path / name)])


def test_manifest_with_zero_bytes_is_an_error_or_failed_videos(tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_bytes("a.mp4\n".encode("utf-16-le"))
    try:
        sources = list_sources(manifest)
    except FerBatchError:
        return
    assert all(source["error"] for source in sources)


def test_missing_and_irregular_files_are_failed_videos(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "list.txt").write_text("gone.mp4\nvideos\n")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    gone, link, folder = list_sources(tmp_path / "list.txt", tmp_path)
    assert (gone["error"], gone["version"], gone["size_bytes"]) == ("the file does not exist", "missing", 0)
    assert link["error"] == "the file does not exist"
    assert folder["error"] == "not a regular file"


def test_file_named_several_times_is_one_video(tmp_path: Path) -> None:
    (video,) = touch(tmp_path, "video.mp4")
    (tmp_path / "link.mp4").symlink_to(video)
    (tmp_path / "list.txt").write_text("video.mp4\n./video.mp4\n")
    inputs = [str(video), str(tmp_path), str(tmp_path / "*.mp4"), str(tmp_path / "list.txt")]
    listing = list_videos(inputs)
    assert [s["uri"] for s in listing.sources.to_pylist()] == [os.path.realpath(video)]
    assert listing.duplicates == 6


def test_sources_are_sorted_by_uri(tmp_path: Path) -> None:
    paths = touch(tmp_path, "c.mp4", "a.mp4", "b/d.mp4")
    assert list_sources(*paths) == list_sources(*reversed(paths))
    assert list_names(*paths) == ["a.mp4", "d.mp4", "c.mp4"]


def test_changed_file_keeps_its_id_and_gets_a_new_version(tmp_path: Path) -> None:
    video, other = touch(tmp_path, "a.mp4", "b.mp4")
    before = list_sources(tmp_path)
    video.write_bytes(b"longer than before")
    after = list_sources(tmp_path)
    assert [s["video_id"] for s in before] == [s["video_id"] for s in after]
    assert before[0]["version"] != after[0]["version"]
    assert before[1] == after[1]
    assert len({s["video_id"] for s in before}) == 2
    assert after[0]["size_bytes"] == len(b"longer than before")
    assert all(len(s["video_id"]) == len(s["version"]) == 16 for s in (*before, *after))
    assert Path(after[1]["uri"]) == other.resolve()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (b"video.mp4", None),
        (b"two words & 100%.mp4", None),
        ("Fünf 漢字\u3000👩‍👩‍👧.mp4".encode(), None),
        (b"caf\xe9.mp4", "caf%E9.mp4"),
        ("Fünf\n.mp4".encode(), "F%C3%BCnf%0A.mp4"),
        (b"\x1b[2J.mp4", "%1B%5B2J.mp4"),
        (b"caf%E9\t.mp4", "caf%25E9%09.mp4"),
    ],
)
def test_uri_is_printable_and_converts_back_to_the_path(
    tmp_path: Path, name: bytes, written: str | None
) -> None:
    path = Path(os.fsdecode(os.fsencode(os.path.realpath(tmp_path)) + b"/" + name))
    try:
        path.write_bytes(b"video")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (source,) = list_sources(tmp_path)
    assert source["error"] is None
    assert source["uri"] == (f"file://{path.parent}/{written}" if written else str(path))
    assert source["uri"].encode().decode().splitlines() == [source["uri"]]
    assert uri_to_path(source["uri"]) == str(path)


def test_different_folders_and_bytes_are_different_videos(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"caf\xe9.mp4", b"caf\xe8.mp4", b"caf%E9.mp4", "café.mp4".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"video")
    touch(tmp_path, "folder/café.mp4")
    sources = list_sources(tmp_path)
    assert len({s["video_id"] for s in sources}) == len({s["uri"] for s in sources}) == 5


def test_cyclic_links_are_failed_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    assert list_names(tmp_path) == ["a.mp4", "b.mp4"]
    assert {s["error"] for s in list_sources(tmp_path)} == {"Too many levels of symbolic links"}


@pytest.mark.parametrize("pattern", ["", "**/*.mp4", "**"])
def test_folders_with_cyclic_links_are_searched_once(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "deep/video.mp4", ".hidden/video.mp4")
    for name in ("again", "and again", "deep/up"):
        (tmp_path / name).symlink_to(tmp_path)
    listing = list_videos([str(tmp_path / pattern)])
    assert {Path(s["uri"]).name for s in listing.sources.to_pylist()} == {"video.mp4"}
    assert listing.duplicates < 10


def test_pipe_device_and_socket_are_failed_videos(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.mp4"))
        sources = list_sources(tmp_path)
    assert [s["error"] for s in sources] == ["not a regular file"] * 3


@pytest.mark.parametrize("target", ["/proc/self/environ", "/proc/version", "/dev/zero"])
@pytest.mark.parametrize("name", ["a.mp4", "a.tar", "folder"])
def test_links_to_system_files_are_failed_videos_with_one_id(target: str, name: str, tmp_path: Path) -> None:
    """The links in /proc lead elsewhere in each process."""
    if name == "folder":
        (tmp_path / name).symlink_to(os.path.dirname(target))
        (tmp_path / "list.txt").write_text(f"folder/{os.path.basename(target)}")
        given = [tmp_path / "list.txt"]
    else:
        (tmp_path / name).symlink_to(target)
        given = [tmp_path / name]
    (source,) = list_sources(*given)
    assert source["error"].startswith(("not a regular file", "not a stored file"))
    assert source["uri"].startswith(f"{tmp_path}/{name}")


def test_pipe_as_a_manifest_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match="not a regular file"):
        list_videos([str(tmp_path / "list.txt")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0)
    with pytest.raises(InputError, match="private can't be read"):
        list_videos([str(tmp_path)])


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_archive_is_listed_like_a_folder(name: str, tmp_path: Path) -> None:
    files = {"b.mp4": b"b", "deep/a.MKV": b"aa", "notes.md": b"", "deep/inner.zip": b""}
    path = pack(tmp_path / name, files)
    for given in (path, tmp_path, tmp_path / "a.*"):
        listing = list_videos([str(given)])
        sources = listing.sources.to_pylist()
        assert [s["uri"] for s in sources] == [f"{path}!/b.mp4", f"{path}!/deep/a.MKV"]
        assert [s["size_bytes"] for s in sources] == [1, 2]
        assert all(s["offset"] is not None and s["error"] is None for s in sources)
        assert listing.skipped == 2
    assert list_names(f"{path}!/deep/a.MKV", path) == ["b.mp4", "a.MKV"]
    assert list_videos([f"{path}!/deep/a.MKV", str(path)]).duplicates == 1


def test_damage_in_an_archive_does_not_hide_its_other_members(tmp_path: Path) -> None:
    hostile_tar(tmp_path / "hostile.tar")
    whole = pack(tmp_path / "cut.tar", {"first.mp4": bytes(9_000), "second.mp4": bytes(9_000)})
    whole.write_bytes(whole.read_bytes()[:12_000])
    (tmp_path / "none.zip").write_bytes(b"no archive at all")
    (tmp_path / "list.txt").write_text("hostile.tar!/nothing.mp4\nother.tar.xz\n")
    inputs = [str(tmp_path), f"{tmp_path}/list.txt"]
    errors = {s["uri"].removeprefix(f"{tmp_path}/"): s["error"] for s in list_sources(*inputs)}
    for intact in ("hostile.tar!/good.mp4", "cut.tar!/first.mp4", "cut.tar!/second.mp4"):
        assert errors.pop(intact) is None
    assert "after 2 files" in errors["cut.tar"]
    assert "zip" in errors["none.zip"]
    assert "no such file" in errors["hostile.tar!/nothing.mp4"]
    assert ".tar.gz" in errors["other.tar.xz"]
    assert "leads out" in errors["hostile.tar!/../out.mp4"]
    assert len(errors) == 10
    assert all(errors.values())


def test_hostile_archives_are_failed_videos_of_their_own(tmp_path: Path) -> None:
    for number, attack in enumerate(hostile.TARS):
        hostile.hostile_tar(tmp_path / f"{number}.tar", attack)
    for number, attack in enumerate(hostile.ZIPS):
        hostile.hostile_zip(tmp_path / f"{number}.zip", attack)
    touch(tmp_path, "video.mp4")
    sources = list_sources(tmp_path)
    assert list_sources(tmp_path) == sources
    failed = [Path(s["uri"]).name for s in sources if s["error"]]
    assert len(failed) == len(set(failed)) == len(hostile.TARS) + len(hostile.ZIPS) - 1
    readable = [s["uri"] for s in sources if not s["error"]]
    assert f"{tmp_path}/video.mp4" in readable
    assert sum(uri.endswith("!/good.mp4") for uri in readable) == len(hostile.TARS)
    (tmp_path / "list.txt").write_text("0.tar!/x.mp4\n0.zip!/0.mp4\npipe.tar!/a.mp4\n0.tar!/good.mp4\n")
    os.mkfifo(tmp_path / "pipe.tar")
    errors = {Path(s["uri"]).name: s["error"] for s in list_sources(tmp_path / "list.txt")}
    assert errors.pop("good.mp4") is None
    assert errors["a.mp4"] == "its archive: not a regular file"
    assert all("its archive: cannot read the archive after" in errors[name] for name in ("x.mp4", "0.mp4"))


def test_each_archive_is_listed_once(tmp_path: Path) -> None:
    archives = [str(pack(tmp_path / f"{n}.zip", {"a.mp4": b"1", "b.mp4": b"2"})) for n in range(9)]
    lines = [f"{archive}!/{name}.mp4" for name in ("a", "b", "none") for archive in archives]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    calls: list[str] = []

    def read_archive(archive: str) -> pa.Table:
        calls.append(archive)
        return list_archive(archive)

    sources = list_videos([str(tmp_path / "list.txt")], read_archive).sources.to_pylist()
    assert sorted(calls) == archives
    assert [source["error"] for source in sources] == [None, None, "its archive has no such file"] * 9


def test_members_with_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"caf\udce9.mp4": b"1", "tab\t.mp4": b"2"})
    sources = list_sources(tmp_path)
    assert [s["uri"] for s in sources] == [
        f"file://{tmp_path}/a.tar%21/{name}.mp4" for name in ("caf%E9", "tab%09")
    ]
    assert uri_to_path(sources[0]["uri"]) == f"{tmp_path}/a.tar!/caf\udce9.mp4"


def test_changed_member_gets_a_new_version(tmp_path: Path) -> None:
    def version(content: bytes) -> str:
        pack(tmp_path / "a.zip", {"a.mp4": content})
        (source,) = list_sources(tmp_path)
        return str(source["version"])

    assert version(b"one") == version(b"one") != version(b"two")


def test_manifest_may_name_members_and_archives(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"one.mp4": b"1", "two.mp4": b"22"})
    pack(tmp_path / "b.zip", {"three.mp4": b"333"})
    (tmp_path / "list.csv").write_text("path,who\na.tar!/two.mp4,Ann\nb.zip,Bo\nnone.tar,Cy\n")
    sources = list_sources(tmp_path / "list.csv")
    assert [(s["uri"].removeprefix(f"{tmp_path}/"), s["size_bytes"], s["extra"]) for s in sources] == [
        ("a.tar!/two.mp4", 2, '{"who": "Ann"}'),
        ("b.zip!/three.mp4", 3, '{"who": "Bo"}'),
        ("none.tar", 0, '{"who": "Cy"}'),
    ]
    assert sources[2]["error"] == "the file does not exist"


def test_missing_explicit_member_is_refused(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", {"a.mp4": b"1"})
    with pytest.raises(InputError, match=r"there is no file .*b\.mp4"):
        list_videos([f"{tmp_path}/a.zip!/b.mp4"])
    with pytest.raises(InputError, match="its archive: the file does not exist"):
        list_videos([f"{tmp_path}/b.zip!/b.mp4"])


def test_store_is_listed_like_a_folder(store: Store, tmp_path: Path) -> None:
    for key in ("videos/b.mp4", "videos/deep/a.MKV", "videos/notes.md"):
        store.put(key, key.encode())
    store.put("videos/c.tar", pack(tmp_path / "c.tar", {"d.mp4": b"1234"}).read_bytes())
    uris = [f"s3://archive/videos/{name}" for name in ("b.mp4", "c.tar!/d.mp4", "deep/a.MKV")]
    for given in ("s3://archive/videos", "s3://archive/videos/", "s3://archive/videos/**"):
        listing = list_videos([given])
        assert listing.sources.column("uri").to_pylist() == uris
        assert listing.sources.column("size_bytes").to_pylist() == [12, 4, 17]
        assert listing.skipped == 1
    assert [list_uris(uri) for uri in uris] == [[uri] for uri in uris]
    assert list_uris("S3://archive/videos/b.mp4") == uris[:1]
    (tmp_path / "list.txt").write_text("s3://\nS3://archive/videos/b.mp4\n")
    errors = [source["error"] for source in list_sources(tmp_path / "list.txt")]
    assert errors == ["s3:// names no bucket or host: give s3://NAME/…", None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s3://archive/nothing", "there is no file s3://archive/nothing, and nothing below it"),
        ("s3:/archive/videos", "no file or folder s3:/archive/videos; an address is written s3://a"),
        ("s3://", "names no bucket or host"),
    ],
)
def test_invalid_address_is_refused(store: Store, given: str, message: str) -> None:
    store.put("videos/b.mp4", b"b")
    with pytest.raises(InputError, match=message):
        list_videos([given])


def test_paths_of_a_manifest_in_a_store_are_relative_to_it(store: Store) -> None:
    store.put("videos/a.mp4", b"a")
    store.put(
        "videos/list.csv", b"path,duration_s\n../videos/a.mp4,\ns3://archive/videos/none.mp4,\nb.mp4,90\n"
    )
    store.answers.clear()
    sources = list_videos(["s3://archive/videos/list.csv"]).sources.to_pylist()
    assert [(Path(s["uri"]).name, s["size_bytes"], s["error"]) for s in sources] == [
        ("a.mp4", 1, None),
        ("b.mp4", 0, None),
        ("none.mp4", 0, "the file does not exist"),
    ]
    assert store.answers["HEAD"] <= 3, "a file of known duration was queried"


@pytest.mark.parametrize("line", ["https://host/a.mp4?secret=abc", "https://user:abc@host/a.mp4"])
def test_address_with_a_secret_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    for given in (line, str(tmp_path / "list.txt")):
        with pytest.raises(InputError, match="contains a password or a query"):
            list_videos([given])


@pytest.mark.parametrize("line", [*MALFORMED, *(f"{name}://host/a.mp4" for name in OTHER_PROTOCOLS)])
def test_invalid_address_is_one_error_or_a_failed_video(tmp_path: Path, line: str) -> None:
    (video,) = touch(tmp_path, "a.mp4")
    with pytest.raises(InputError):
        list_videos([str(video), line])
    with pytest.raises(InputError):
        check_inputs_exist([line])
    try:
        (tmp_path / "list.jsonl").write_text(
            json.dumps({"path": "a.mp4"}) + "\n" + json.dumps({"path": line})
        )
        failed, good = sorted(
            list_sources(tmp_path / "list.jsonl"), key=lambda source: source["error"] is None
        )
    except InputError as error:
        assert "line 2" in str(error)
        return
    assert (good["uri"], good["error"]) == (str(video), None)
    assert not UNPRINTABLE.search(failed["uri"] + failed["error"])


@pytest.mark.parametrize(
    "name", ["a\0b.mp4", "\0", "x" * 10_000, "/" * 10_000, "a.tar!/" * 2_000, "a.tar!/\0"]
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_name_that_no_file_can_have_is_a_failed_video(tmp_path: Path, name: str, suffix: str) -> None:
    (video,) = touch(tmp_path, "a.mp4")
    rows = [{"path": name, "who": "Ann"}, {"path": "a.mp4"}]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    else:
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed, good = sorted(
        list_sources(tmp_path / f"list.{suffix}"), key=lambda source: source["error"] is None
    )
    assert (good["uri"], good["error"]) == (str(video), None)
    assert not UNPRINTABLE.search(failed["uri"])
    assert len(failed["uri"]) < 10_000


def test_file_address_is_a_path(tmp_path: Path) -> None:
    (video,) = touch(tmp_path, "two\twords.mp4")
    (tmp_path / "list.txt").write_text(video.as_uri())
    (source,) = list_sources(video.as_uri(), tmp_path / "list.txt", video)
    assert (source["uri"], source["error"]) == (video.resolve().as_uri(), None)


def test_named_picture_is_not_downloaded_to_list_it(tmp_path: Path) -> None:
    """It would be read in this process as a web page with links, and its links would be listed."""
    (tmp_path / "photo.jpg").write_bytes(b'<a href="photo.jpg/other.mp4">')
    with serve(tmp_path, Ranged) as url:
        assert [source["uri"] for source in list_sources(f"{url}/photo.jpg")] == [f"{url}/photo.jpg"]
