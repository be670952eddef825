"""What inputs stand for: files, folders, globs and manifests to videos, each once."""

import os
import socket
from pathlib import Path

import pytest

from fer_batch.errors import FerBatchError, InputError
from fer_batch.inputs.listing import VIDEO_SUFFIXES, list_videos
from fer_batch.storage.media import uri_to_path
from tests.s3 import Store
from tests.storage.test_archives import hostile_tar, pack


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return paths


def names(*inputs: Path | str) -> list[str]:
    return [Path(source["uri"]).name for source in list_videos([str(i) for i in inputs]).sources.to_pylist()]


def test_no_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="no videos named"):
        list_videos([])


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no videos found in .*\.mp4"):
        list_videos([str(tmp_path)])


def test_a_folder_without_videos_says_how_much_it_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "cover.jpg")
    with pytest.raises(InputError, match="2 other files skipped"):
        list_videos([str(tmp_path)])


@pytest.mark.parametrize("given", ["", "nowhere", "nowhere/film.mp4", "film.mp4\0"])
def test_an_input_that_does_not_exist_is_refused(tmp_path: Path, given: str) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        list_videos([f"{tmp_path}/{given}" if given else given])


def test_a_glob_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing matches"):
        list_videos([str(tmp_path / "*.mp4")])


def test_a_folder_is_searched_to_its_depths_and_only_for_videos(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/deep/down/c.MKV", "a/readme.md", "a/list.csv", "no_suffix", ".mp4")
    listing = list_videos([str(tmp_path)])
    assert [Path(s["uri"]).name for s in listing.sources.to_pylist()] == ["c.MKV", "b.mp4"]
    assert listing.skipped == 4
    assert listing.duplicates == 0


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_each_video_suffix_counts_in_either_case(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert names(tmp_path) == [f"a{suffix}", f"b{suffix.upper()}"]


def test_a_file_named_outright_counts_whatever_its_suffix(tmp_path: Path) -> None:
    (recording,) = touch(tmp_path, "recording.dat")
    assert names(recording) == ["recording.dat"]


def test_a_name_that_looks_like_a_glob_but_exists_is_that_file(tmp_path: Path) -> None:
    film, _ = touch(tmp_path, "film [1080p]*.mp4", "film 1.mp4")
    assert names(film) == ["film [1080p]*.mp4"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("x*", None),
        ("*.mp4", ["a.mp4", "b.mp4"]),
        ("?.*", ["a.mp4", "b.mp4"]),
        ("**/*.mp4", ["a.mp4", "b.mp4", "c.mp4"]),
        ("sub*", ["c.mp4"]),
        ("[ab].mp4", ["a.mp4", "b.mp4"]),
    ],
)
def test_globs_find_videos_and_folders_of_videos(
    tmp_path: Path, pattern: str, found: list[str] | None
) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "b.txt", "sub/c.mp4")
    if found is None:
        with pytest.raises(InputError):
            names(tmp_path / pattern)
    else:
        assert names(tmp_path / pattern) == found


def test_a_text_manifest_names_a_path_a_line_relative_to_itself(tmp_path: Path) -> None:
    touch(tmp_path, "films/a.mp4", "films/#b.mp4", "films/c #2.mp4")
    lines = [
        "# of last summer",
        "",
        "   # and more",
        " films/a.mp4 ",
        str(tmp_path / "films/c #2.mp4"),
        "films/d.mp4",
    ]
    manifest = tmp_path / "list.txt"
    manifest.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    listing = list_videos([str(manifest)])
    assert [Path(s["uri"]).name for s in listing.sources.to_pylist()] == ["a.mp4", "c #2.mp4", "d.mp4"]
    assert [s["error"] for s in listing.sources.to_pylist()] == [None, None, "the file does not exist"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("path\na.mp4\n", ["a.mp4"]),
        (" URI ,who\na.mp4,Ann\n\n,nobody\n", ["a.mp4"]),
        ('who,video\n"Ann, B.","b, c.mp4"\nshort row\n', ["b, c.mp4"]),
        ("file,path\na.mp4,b.mp4\n", ["a.mp4"]),
    ],
)
def test_a_csv_manifest_has_its_paths_in_a_named_column(tmp_path: Path, text: str, found: list[str]) -> None:
    (tmp_path / "list.csv").write_text(text)
    assert names(tmp_path / "list.csv") == found


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
def test_a_manifest_that_names_nothing_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list_videos([str(tmp_path / name)])


def test_a_manifest_with_zero_bytes_in_it_ends_in_a_message_or_a_failed_video(tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_bytes("a.mp4\n".encode("utf-16-le"))
    try:
        sources = list_videos([str(manifest)]).sources.to_pylist()
    except FerBatchError:
        return
    assert all(source["error"] for source in sources)


def test_a_missing_file_in_a_manifest_is_a_failed_video_and_not_an_error(tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    manifest.write_text("gone.mp4\n")
    (source,) = list_videos([str(manifest)]).sources.to_pylist()
    assert (source["error"], source["version"], source["size_bytes"]) == (
        "the file does not exist",
        "missing",
        0,
    )


def test_a_folder_in_a_manifest_is_a_failed_video(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    manifest = tmp_path / "list.txt"
    manifest.write_text("films\n")
    (source,) = list_videos([str(manifest)]).sources.to_pylist()
    assert source["error"] == "not a regular file"


def test_a_link_to_nowhere_in_a_folder_is_a_failed_video(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").symlink_to(tmp_path / "gone.mp4")
    (source,) = list_videos([str(tmp_path)]).sources.to_pylist()
    assert source["error"] == "the file does not exist"


def test_a_file_that_is_named_several_ways_is_one_video(tmp_path: Path) -> None:
    (film,) = touch(tmp_path, "film.mp4")
    (tmp_path / "link.mp4").symlink_to(film)
    (tmp_path / "list.txt").write_text("film.mp4\n./film.mp4\n")
    inputs = [str(film), str(tmp_path), str(tmp_path / "*.mp4"), str(tmp_path / "list.txt")]
    listing = list_videos(inputs)
    assert [s["uri"] for s in listing.sources.to_pylist()] == [os.path.realpath(film)]
    assert listing.duplicates == 6


def test_sources_come_in_order_of_their_uri_whatever_the_order_of_inputs(tmp_path: Path) -> None:
    paths = [str(p) for p in touch(tmp_path, "c.mp4", "a.mp4", "b/d.mp4")]
    forward, backward = list_videos(paths), list_videos(paths[::-1])
    assert forward.sources.equals(backward.sources)
    uris = forward.sources.column("uri").to_pylist()
    assert uris == sorted(uris)


def test_a_video_keeps_its_id_and_a_change_changes_its_version(tmp_path: Path) -> None:
    film, other = touch(tmp_path, "film.mp4", "other.mp4")
    before = list_videos([str(tmp_path)]).sources.to_pylist()
    film.write_bytes(b"longer than before")
    after = list_videos([str(tmp_path)]).sources.to_pylist()
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
        (b"film.mp4", None),
        (b"two words & 100%.mp4", None),
        ("Fünf 漢字\u3000👩‍👩‍👧.mp4".encode(), None),
        (b"caf\xe9.mp4", "caf%E9.mp4"),
        ("Fünf\n.mp4".encode(), "F%C3%BCnf%0A.mp4"),
        (b"\x1b[2J.mp4", "%1B%5B2J.mp4"),
        (b"caf%E9\t.mp4", "caf%25E9%09.mp4"),
    ],
)
def test_every_name_has_a_uri_that_can_be_printed_and_leads_back(
    tmp_path: Path, name: bytes, written: str | None
) -> None:
    path = Path(os.fsdecode(os.fsencode(os.path.realpath(tmp_path)) + b"/" + name))
    try:
        path.write_bytes(b"film")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (source,) = list_videos([str(tmp_path)]).sources.to_pylist()
    assert source["error"] is None
    assert source["uri"] == (f"file://{path.parent}/{written}" if written else str(path))
    assert source["uri"].encode().decode().splitlines() == [source["uri"]]
    assert uri_to_path(source["uri"]) == str(path)


def test_names_that_differ_in_their_bytes_are_different_videos(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"caf\xe9.mp4", b"caf\xe8.mp4", b"caf%E9.mp4", "café.mp4".encode()):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"film")
    sources = list_videos([str(tmp_path)]).sources.to_pylist()
    assert len({s["video_id"] for s in sources}) == len({s["uri"] for s in sources}) == 4


# What is no file to read


def test_links_that_lead_round_and_round_are_failed_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    listing = list_videos([str(tmp_path)])
    assert [Path(s["uri"]).name for s in listing.sources.to_pylist()] == ["a.mp4", "b.mp4"]
    assert {s["error"] for s in listing.sources.to_pylist()} == {"Too many levels of symbolic links"}


@pytest.mark.parametrize("pattern", ["", "**/*.mp4", "**"])
def test_folders_linked_into_themselves_are_searched_once(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "deep/film.mp4", ".hidden/film.mp4")
    for name in ("again", "and again", "deep/up"):
        (tmp_path / name).symlink_to(tmp_path)
    listing = list_videos([str(tmp_path / pattern)])
    assert {Path(s["uri"]).name for s in listing.sources.to_pylist()} == {"film.mp4"}
    assert listing.duplicates < 10


def test_a_pipe_a_device_and_a_socket_are_failed_videos_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.mp4"))
        sources = list_videos([str(tmp_path)]).sources.to_pylist()
    assert [s["error"] for s in sources] == ["not a regular file"] * 3


def test_a_manifest_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match="not a regular file"):
        list_videos([str(tmp_path / "list.txt")])


def test_two_files_of_one_name_are_two_videos(tmp_path: Path) -> None:
    touch(tmp_path, "one/film.mp4", "two/film.mp4")
    sources = list_videos([str(tmp_path)]).sources.to_pylist()
    assert len({s["video_id"] for s in sources}) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0)
    with pytest.raises(InputError, match="private can't be read"):
        list_videos([str(tmp_path)])


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_is_as_a_folder_of_what_it_holds(name: str, tmp_path: Path) -> None:
    files = {"b.mp4": b"b", "deep/a.MKV": b"aa", "notes.md": b"", "deep/inner.zip": b""}
    path = pack(tmp_path / name, files)
    for given in (path, tmp_path, tmp_path / "a.*"):
        listing = list_videos([str(given)])
        found = listing.sources.to_pylist()
        assert [s["uri"] for s in found] == [f"{path}!/b.mp4", f"{path}!/deep/a.MKV"]
        assert [s["size_bytes"] for s in found] == [1, 2]
        assert all(s["offset"] is not None and s["error"] is None for s in found)
        assert listing.skipped == 2
    assert names(f"{path}!/deep/a.MKV", path) == ["b.mp4", "a.MKV"]
    assert list_videos([f"{path}!/deep/a.MKV", str(path)]).duplicates == 1


def test_what_is_wrong_in_an_archive_ends_as_a_row_and_the_rest_is_there(tmp_path: Path) -> None:
    hostile_tar(tmp_path / "hostile.tar")
    whole = pack(tmp_path / "cut.tar", {"first.mp4": bytes(9_000), "second.mp4": bytes(9_000)})
    whole.write_bytes(whole.read_bytes()[:12_000])
    (tmp_path / "none.zip").write_bytes(b"no archive at all")
    (tmp_path / "list.txt").write_text("hostile.tar!/nothing.mp4\nother.tar.xz\n")
    inputs = [str(tmp_path), f"{tmp_path}/list.txt"]
    errors = {
        s["uri"].removeprefix(f"{tmp_path}/"): s["error"] for s in list_videos(inputs).sources.to_pylist()
    }
    assert errors.pop("hostile.tar!/good.mp4") is None
    assert errors.pop("cut.tar!/first.mp4") is None
    assert errors.pop("cut.tar!/second.mp4") is None
    assert "after 2 files" in errors["cut.tar"]
    assert "zip" in errors["none.zip"]
    assert "no such file" in errors["hostile.tar!/nothing.mp4"]
    assert ".tar.gz" in errors["other.tar.xz"]
    assert "leads out" in errors["hostile.tar!/../out.mp4"]
    assert len(errors) == 10
    assert all(errors.values())


def test_a_member_has_another_version_when_it_has_changed(tmp_path: Path) -> None:
    def version(content: bytes) -> str:
        pack(tmp_path / "a.zip", {"a.mp4": content})
        (source,) = list_videos([str(tmp_path)]).sources.to_pylist()
        return str(source["version"])

    assert version(b"one") == version(b"one") != version(b"two")


def test_a_manifest_names_members_and_archives(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"one.mp4": b"1", "two.mp4": b"22"})
    pack(tmp_path / "b.zip", {"three.mp4": b"333"})
    (tmp_path / "list.csv").write_text("path,who\na.tar!/two.mp4,Ann\nb.zip,Bo\nnone.tar,Cy\n")
    found = list_videos([str(tmp_path / "list.csv")]).sources.to_pylist()
    assert [(s["uri"].removeprefix(f"{tmp_path}/"), s["size_bytes"], s["extra"]) for s in found] == [
        ("a.tar!/two.mp4", 2, '{"who": "Ann"}'),
        ("b.zip!/three.mp4", 3, '{"who": "Bo"}'),
        ("none.tar", 0, '{"who": "Cy"}'),
    ]
    assert found[2]["error"] == "the file does not exist"


def test_a_member_that_is_not_there_is_refused_where_it_is_named_by_itself(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", {"a.mp4": b"1"})
    with pytest.raises(InputError, match=r"there is no file .*b\.mp4"):
        list_videos([f"{tmp_path}/a.zip!/b.mp4"])
    with pytest.raises(InputError, match="its archive: No such file"):
        list_videos([f"{tmp_path}/b.zip!/b.mp4"])


def test_a_store_is_listed_as_folders_are(store: Store, tmp_path: Path) -> None:
    for key in ("films/b.mp4", "films/deep/a.MKV", "films/notes.md"):
        store.put(key, key.encode())
    store.put("films/c.tar", pack(tmp_path / "c.tar", {"d.mp4": b"1234"}).read_bytes())
    every = ["s3://archive/films/b.mp4", "s3://archive/films/c.tar!/d.mp4", "s3://archive/films/deep/a.MKV"]
    for given in ("s3://archive/films", "s3://archive/films/", "s3://archive/films/**"):
        listing = list_videos([given])
        assert listing.sources.column("uri").to_pylist() == every
        assert listing.sources.column("size_bytes").to_pylist() == [11, 4, 16]
        assert listing.skipped == 1
    for uri in every:
        assert list_videos([uri]).sources.column("uri").to_pylist() == [uri]
    assert list_videos(["S3://archive/films/b.mp4"]).sources["uri"].to_pylist() == every[:1]
    with pytest.raises(InputError, match="there is no file s3://archive/nothing, and nothing below it"):
        list_videos(["s3://archive/nothing"])
    with pytest.raises(
        InputError, match=r"no file or folder s3:/archive/films; an address is written s3://a"
    ):
        list_videos(["s3:/archive/films"])
    with pytest.raises(InputError, match="names no bucket or host"):
        list_videos(["s3://"])
    (tmp_path / "list.txt").write_text("s3://\nS3://archive/films/b.mp4\n")
    errors = list_videos([str(tmp_path / "list.txt")]).sources["error"].to_pylist()
    assert errors == ["s3:// names no bucket or host: give s3://NAME/…", None]


def test_a_manifest_in_a_store_names_files_there(store: Store) -> None:
    store.put("films/a.mp4", b"a")
    store.put("films/list.csv", b"path,duration_s\n../films/a.mp4,\ns3://archive/films/none.mp4,\nb.mp4,90\n")
    store.answers.clear()
    found = list_videos(["s3://archive/films/list.csv"]).sources.to_pylist()
    assert [(Path(s["uri"]).name, s["size_bytes"], s["error"]) for s in found] == [
        ("a.mp4", 1, None),
        ("b.mp4", 0, None),
        ("none.mp4", 0, "the file does not exist"),
    ]
    assert store.answers["HEAD"] <= 3, "a file of a told length was asked for"


def test_a_manifest_with_a_secret_in_an_address_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("https://host/a.mp4?X-Amz-Signature=abc\n")
    with pytest.raises(InputError, match="password or signature"):
        list_videos([str(tmp_path / "list.txt")])
