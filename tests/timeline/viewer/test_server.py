"""The server of a run: byte ranges of its videos, and protection from other sites."""

import http.client
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import OutputError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import add_planning_round
from fer_batch.run.record import create_run
from fer_batch.schema import EMOTIONS, PROBED_SCHEMA, conform_table
from fer_batch.timeline.viewer.server import create_app
from tests.runs import CARD, Tracks, add_videos, video_id, write_run, write_video_results
from tests.s3 import Store
from tests.timeline.conftest import TOKEN, serving

ARCHIVE: dict[str, Tracks | None] = {
    "/talks/monday.mp4": [["happy"] * 5, ["sad", "sad"]],
    "/talks/tuesday.mp4": [["happy", "sad", "sad"]],
    "/talks/50%_off ünï.mp4": [["angry"]],
    "/clips/empty.mp4": [],
    "/clips/broken monday.mp4": None,
}

Answer = tuple[int, dict[str, str], bytes]


def get(url: str, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    """Send a request without normalization; return the status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, urlsplit(url).path + path, headers=dict(headers or {}))
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    body = answer.read()
    connection.close()
    return answer.status, headers, body


def get_json(url: str, path: str, **values: Any) -> Any:
    status, _, body = get(url, f"{path}?{urlencode(values)}")
    assert status == 200
    return json.loads(body)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(write_run(tmp_path_factory.mktemp("serve") / "run", ARCHIVE)) as url:
        yield url


@pytest.fixture(scope="module")
def talk(watched: Path) -> Iterator[str]:
    with serving(watched) as url:
        yield url


def media_of(watched: Path) -> tuple[str, bytes]:
    video = watched.parent / "talk.mp4"
    return f"/media/{video_id(str(video))}", video.read_bytes()


RANGES = [
    (None, 200, (0, None)),
    ("bytes=0-", 206, (0, None)),
    ("bytes=0-0", 206, (0, 1)),
    ("bytes=100-199", 206, (100, 200)),
    ("bytes=-7", 206, (-7, None)),
    ("bytes=100-99999999", 206, (100, None)),
    ("bytes=-99999999", 206, (0, None)),
    ("bytes=99999999-", 416, None),
    ("bytes=99999999-999999999", 416, None),
]


def check_range(url: str, path: str, content: bytes, byte_range: str | None, status: int, part: Any) -> None:
    for method in ("GET", "HEAD"):
        got, headers, body = get(url, path, {"Range": byte_range} if byte_range else {}, method)
        assert got == status
        if part is None:
            assert headers["content-range"].endswith(f"*/{len(content)}")
            continue
        wanted = content[slice(*part)]
        assert headers["content-length"] == str(len(wanted))
        assert headers["accept-ranges"] == "bytes"
        assert body == (wanted if method == "GET" else b"")
        if status == 206:
            first = content.index(wanted) if len(wanted) > 1 else 0
            assert headers["content-range"] == f"bytes {first}-{first + len(wanted) - 1}/{len(content)}"


def test_byte_ranges_of_a_file(talk: str, watched: Path) -> None:
    for wanted, status, part in RANGES:
        check_range(talk, *media_of(watched), wanted, status, part)


@pytest.fixture(scope="module", params=["clips.zip", "packed.zip", "clips.tar", "clips.tar.gz"])
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Any:
    """The address of a server of a video in an archive, and the video's path there."""
    folder = tmp_path_factory.mktemp("member")
    archive = folder / request.param
    if archive.suffix == ".zip":
        kind = zipfile.ZIP_DEFLATED if "packed" in archive.name else zipfile.ZIP_STORED
        with zipfile.ZipFile(archive, "w", kind) as file:
            file.writestr("readme.txt", "no video")
            file.write(sample, "day/two.mp4")
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
            tar.add(sample, "day/two.mp4")
    out = folder / "run"
    uri = write_listed(out, str(archive))
    with serving(out) as url:
        found = get_json(url, "/api/videos")["videos"]
        assert [video["uri"] for video in found] == [uri]
        yield url, f"/media/{found[0]['video_id']}"


def write_listed(out: Path, named: str) -> str:
    """Write a run of one video, planned as `analyze` does, and return its uri."""
    sources = list_videos([named]).sources
    (source,) = sources.to_pylist()
    out.mkdir()
    create_run(out, AnalyzeConfig(), CARD)
    rows = conform_table(sources, PROBED_SCHEMA)
    rows = rows.set_column(rows.schema.get_field_index("status"), PROBED_SCHEMA.field("status"), [["ok"]])
    rows = rows.set_column(
        rows.schema.get_field_index("duration_s"), PROBED_SCHEMA.field("duration_s"), [[1.0]]
    )
    plan = plan_segments(rows, AnalyzeConfig(), CARD.half_window_s, CARD.model_id, workers=1)
    add_planning_round(out, rows, plan)
    write_video_results(out, plan, {source["uri"]: [["happy"] * 5]})
    finalize(out)
    return str(source["uri"])


def test_byte_ranges_of_an_archive_member(member: tuple[str, str], sample: Path) -> None:
    for wanted, status, part in RANGES:
        check_range(*member, sample.read_bytes(), wanted, status, part)


def test_archive_member_is_read_concurrently(member: tuple[str, str], sample: Path) -> None:
    content = sample.read_bytes()
    wrong: list[int] = []

    def read(first: int) -> None:
        _, _, body = get(*member, {"Range": f"bytes={first}-"})
        if body != content[first:]:
            wrong.append(first)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(0, 80_000, 10_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_video_in_a_store_is_sent(store: Store, sample: Path, tmp_path: Path) -> None:
    uri = store.put("talks/two.mp4", sample.read_bytes())
    write_listed(tmp_path / "run", uri)
    with serving(tmp_path / "run") as url:
        (video,) = get_json(url, "/api/videos")["videos"]
        path = f"/media/{video['video_id']}"
        assert get_json(url, f"/api/videos/{video['video_id']}/state")["trouble"] is None
        for wanted, status, part in RANGES:
            check_range(url, path, sample.read_bytes(), wanted, status, part)


def test_run_in_a_store_is_served(store: Store, watched: Path) -> None:
    from fer_batch.storage.folder import open_folder

    for path in watched.rglob("*"):
        if path.is_file():
            store.put(f"run/{path.relative_to(watched)}", path.read_bytes())
    with serving(open_folder("s3://archive/run")) as url:
        (video,) = get_json(url, "/api/videos")["videos"]
        assert video["name"] == "talk.mp4"
        status, _, body = get(url, f"/api/videos/{video['video_id']}/data")
        assert (status, body[4:5]) == (200, b"{")


@pytest.mark.parametrize(
    "path",
    [
        "/media/",
        "/media/0000000000000000",
        "/media//etc/passwd",
        "/media/..%2f..%2fetc%2fpasswd",
        "/media/../run.json",
        "/media/%2Ftalks%2Fmonday.mp4",
        "/media/talk.mp4",
        "/page/",
        "/page/../page.py",
        "/page/..%2fpage.py",
        "/page/%2e%2e/page.py",
        "/page//etc/passwd",
        "/page/report.html",
        "/page/vendor/LICENSE",
        "/run.json",
        "/video/0000000000000000",
        "/video/%3Cscript%3E",
        "/api/videos/0000000000000000/data",
        "/api",
        "/etc/passwd",
        "/api/videos/x/state",
        "/page/style.css/",
        "/media/" + "a" * 5000,
    ],
)
def test_other_paths_are_not_found(path: str, talk: str, watched: Path) -> None:
    status, _, body = get(talk, path)
    assert status == 404
    assert len(body) < 100
    assert b"root:" not in body


@pytest.mark.parametrize("path", ["/", "/api/run", "/api/videos", "/page/style.css", "MEDIA"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 400) for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example")),
        *((host, 400) for host in ("", "0.0.0.0", "[::1]")),
        *((host, 200) for host in ("localhost", "127.0.0.1", "localhost:9000", "LOCALHOST")),
    ],
)
def test_only_names_of_this_machine_are_accepted(
    path: str, host: str, status: int, talk: str, watched: Path
) -> None:
    got, _, body = get(talk, path.replace("MEDIA", media_of(watched)[0]), {"Host": host})
    assert got == status
    assert status == 200 or len(body) < 100


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("none", "navigate", 200),
        ("same-origin", "cors", 200),
        ("cross-site", "navigate", 200),
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("same-site", "cors", 403),
        ("cross-site", "cors", 403),
    ],
)
def test_requests_of_other_sites_are_rejected(site: str, mode: str, status: int, talk: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Origin": "http://evil.example"}
    assert get(talk, "/api/videos", headers)[0] == status


@pytest.mark.parametrize("site", ["http://evil.example", "http://127.0.0.1:1", "https://SELF", "null"])
def test_posts_of_other_origins_are_rejected(site: str, talk: str) -> None:
    host = urlsplit(talk).netloc
    origins = {site.replace("SELF", host): 403, f"http://{host}": 405}
    for origin, status in origins.items():
        assert get(talk, "/api/videos", {"Origin": origin}, method="POST")[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/api/run", 200),
        ("/page/style.css", 200),
        ("MEDIA", 200),
        ("/nothing", 404),
        ("/api/videos?first=x", 400),
    ],
)
def test_every_response_has_security_headers(path: str, status: int, talk: str, watched: Path) -> None:
    got, headers, _ = get(
        talk, path.replace("MEDIA", media_of(watched)[0]), {"Origin": "http://evil.example"}
    )
    assert got == status
    assert not [name for name in headers if name.startswith("access-control")]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_rejected(method: str, talk: str, watched: Path) -> None:
    for path in ("/", "/api/videos", media_of(watched)[0]):
        assert get(talk, path, method=method)[0] == 405


def test_media_type_is_never_a_page(tmp_path: Path) -> None:
    kinds = {"a.mp4": "video/mp4", "a.webm": "video/webm"}
    kinds |= dict.fromkeys(["a.html", "a.svg", "a", "a.xml"], "application/octet-stream")
    for name in kinds:
        (tmp_path / name).write_text("<html><script>alert(1)</script>")
    with serving(write_run(tmp_path / "run", {str(tmp_path / name): [] for name in kinds})) as url:
        for name, kind in kinds.items():
            status, headers, _ = get(url, f"/media/{video_id(str(tmp_path / name))}")
            assert status == 200
            assert headers["content-type"] == kind


def names(url: str, **filters: Any) -> list[str]:
    return [video["name"] for video in get_json(url, "/api/videos", **filters)["videos"]]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"words": "nothing such"}, []),
        ({}, ["broken monday.mp4", "empty.mp4", "50%_off ünï.mp4", "monday.mp4", "tuesday.mp4"]),
        ({"words": "MONDAY"}, ["broken monday.mp4", "monday.mp4"]),
        ({"words": "monday talks"}, ["monday.mp4"]),
        ({"words": "ÜNÏ"}, ["50%_off ünï.mp4"]),
        ({"words": "%"}, ["50%_off ünï.mp4"]),
        ({"words": "' OR 1=1 --"}, []),
        ({"status": "ok"}, ["50%_off ünï.mp4", "monday.mp4", "tuesday.mp4"]),
        ({"status": "failed"}, ["broken monday.mp4"]),
        ({"status": "no_faces", "words": "monday"}, []),
        ({"emotion": "happy"}, ["monday.mp4", "tuesday.mp4"]),
        ({"emotion": "sad"}, ["tuesday.mp4", "monday.mp4"]),
        ({"emotion": "sad", "words": "monday"}, ["monday.mp4"]),
        ({"emotion": "fear"}, []),
        ({"emotion": "' OR 1=1 --"}, []),
        ({"person": "no one"}, []),
        ({"first": 1, "count": 2}, ["empty.mp4", "50%_off ünï.mp4"]),
        ({"first": 99}, []),
        ({"count": -1}, []),
    ],
)
def test_list_is_filtered(filters: dict[str, Any], found: list[str], archive: str) -> None:
    assert names(archive, **filters) == found


def test_emotion_filter_adds_share(archive: str) -> None:
    videos = get_json(archive, "/api/videos", emotion="sad")["videos"]
    assert [video["share"] for video in videos] == pytest.approx([2 / 3, 2 / 7])


def test_strips_show_emotions_over_time(archive: str) -> None:
    ids = [video_id(uri) for uri in ARCHIVE]
    strips = get_json(archive, "/api/strips", ids=",".join([*ids, "0000000000000000", "'"]))
    assert strips.keys() == set(ids)
    assert get_json(archive, "/api/strips") == {}
    monday, empty = strips[video_id("/talks/monday.mp4")], strips[video_id("/clips/empty.mp4")]
    cells, happy = monday["cells"], EMOTIONS.index("happy")
    assert set(cells) == {happy}
    assert np.flatnonzero(monday["counts"]).tolist() == [happy, EMOTIONS.index("sad")]
    assert (monday["counts"][happy], sum(monday["counts"])) == (5, 7)
    assert set(empty["cells"]) == {254}


def test_changed_tables_are_served(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    with serving(out) as url:
        before = get_json(url, "/api/run")
        assert names(url) == ["a.mp4"]
        for number in range(3):
            add_videos(out, {f"/b{number}.mp4": [["sad"]]})
            assert names(url) == ["a.mp4", *(f"b{n}.mp4" for n in range(number + 1))]
        assert get_json(url, "/api/run")["state"] != before["state"]
        status, _, _ = get(url, f"/api/videos/{video_id('/b2.mp4')}/data")
        assert status == 200


def test_assigned_persons_are_served(tmp_path: Path) -> None:
    from fer_batch.cli.main import main

    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"], ["sad"]], "/b.mp4": [["happy"]]})
    with serving(out) as url:
        assert get_json(url, "/api/persons") == []
        (tmp_path / "people.csv").write_text("video,track_id,person\na.mp4,1,Ann <b>\n")
        assert main(["assign", str(out), "--list", str(tmp_path / "people.csv")]) == 0
        assert get_json(url, "/api/persons") == ["Ann <b>"]
        assert names(url, person="Ann <b>") == ["a.mp4"]
        assert names(url, person="Ann <b>", emotion="happy") == []


def replace_by_link(video: Path) -> None:
    secret = video.with_name("secret")
    secret.write_bytes(video.read_bytes())
    os.utime(secret, ns=(0, video.stat().st_mtime_ns))
    video.unlink()
    video.symlink_to(secret)


def replace_by_hard_link(video: Path) -> None:
    secret = video.with_name("secret")
    secret.write_bytes(bytes(video.stat().st_size))
    video.unlink()
    os.link(secret, video)


def append(video: Path) -> None:
    """Change the size alone."""
    modified_ns = video.stat().st_mtime_ns
    with video.open("ab") as file:
        file.write(b"more")
    os.utime(video, ns=(0, modified_ns))


def replace_by_folder(video: Path) -> None:
    video.unlink()
    video.mkdir()


def replace_by_pipe(video: Path) -> None:
    video.unlink()
    os.mkfifo(video)


UNPLAYABLE = [
    (Path.unlink, 404, "longer exists"),
    (replace_by_folder, 404, "regular"),
    (replace_by_pipe, 404, "regular"),
    (replace_by_link, 409, "a link has replaced it"),
    (replace_by_hard_link, 409, "changed since it was analyzed"),
    (append, 409, "changed since it was analyzed"),
]


@pytest.mark.parametrize(("damage", "code", "reason"), UNPLAYABLE)
@pytest.mark.parametrize("is_open", [False, True])
def test_changed_file_is_not_sent(
    damage: Any, code: int, reason: str, is_open: bool, tmp_path: Path, sample: Path
) -> None:
    video = Path(shutil.copy(sample, tmp_path / "talk.mp4"))
    with serving(write_run(tmp_path / "run", {str(video): [["happy"] * 5]})) as url:
        path = f"/media/{video_id(str(video))}"
        if is_open:
            assert get(url, path)[0] == 200
        damage(video)
        state = get_json(url, f"/api/videos/{video_id(str(video))}/state")
        status, _, body = get(url, path)
    assert status == code
    assert state["trouble"] == body.decode()
    assert reason in state["trouble"]


def test_file_without_samples_is_not_sent(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:")
    with serving(write_run(tmp_path / "run", {str(secret): None})) as url:
        status, _, body = get(url, f"/media/{video_id(str(secret))}")
        state = get_json(url, f"/api/videos/{video_id(str(secret))}/state")
    assert (status, body.decode()) == (404, state["trouble"])
    assert b"root:" not in body


def repack(archive: Path, sample: Path) -> None:
    """Write the archive with another member of the same name and size at the same place."""
    with tarfile.open(archive, "w") as tar:
        member = tar.gettarinfo(sample, "day/two.mp4")
        member.mtime = 1
        tar.addfile(member, io.BytesIO(bytes(member.size)))


def link_archive(archive: Path, sample: Path) -> None:
    archive.rename(archive.with_name("secret.tar"))
    archive.symlink_to("secret.tar")


@pytest.mark.parametrize("damage", [repack, link_archive])
def test_changed_member_is_not_sent(damage: Any, tmp_path: Path, sample: Path) -> None:
    archive = tmp_path / "clips.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(sample, "day/two.mp4")
    write_listed(tmp_path / "run", str(archive))
    with serving(tmp_path / "run") as url:
        (video,) = get_json(url, "/api/videos")["videos"]
        damage(archive, sample)
        assert get(url, f"/media/{video['video_id']}")[0] == 409


def test_changed_file_in_a_store_is_not_sent(store: Store, sample: Path, tmp_path: Path) -> None:
    uri = store.put("talks/two.mp4", sample.read_bytes())
    write_listed(tmp_path / "run", uri)
    store.put("talks/two.mp4", bytes(sample.stat().st_size))
    with serving(tmp_path / "run") as url:
        (video,) = get_json(url, "/api/videos")["videos"]
        assert get(url, f"/media/{video['video_id']}")[0] == 409


@pytest.mark.parametrize("is_changed", [False, True])
def test_version_of_a_manifest_does_not_hide_changes(is_changed: bool, tmp_path: Path, sample: Path) -> None:
    video = Path(shutil.copy(sample, tmp_path / "talk.mp4"))
    (tmp_path / "list.csv").write_text("path,version\ntalk.mp4,v1\n")
    write_listed(tmp_path / "run", str(tmp_path / "list.csv"))
    if is_changed:
        append(video)
    with serving(tmp_path / "run") as url:
        (found,) = get_json(url, "/api/videos")["videos"]
        assert get(url, f"/media/{found['video_id']}")[0] == (409 if is_changed else 200)


WRONG_TOKENS = [
    "",
    "x",
    TOKEN[:-1],
    TOKEN + "x",
    TOKEN.upper(),
    "%00",
    "%ff",
    "..",
    f"x/../{TOKEN}",
    f"/{TOKEN}",
]


@pytest.mark.parametrize(
    "path", ["/", "/api/run", "/api/videos", "/page/style.css", "MEDIA", "/nothing", "*"]
)
def test_requests_without_the_token_are_rejected(path: str, talk: str, watched: Path) -> None:
    server, path = talk.removesuffix(f"/{TOKEN}"), path.replace("MEDIA", media_of(watched)[0])
    addresses = [path, f"{path}?token={TOKEN}", *(f"/{wrong}{path}" for wrong in WRONG_TOKENS)]
    for address in addresses:
        status, headers, body = get(server, address, {"Cookie": f"token={TOKEN}"})
        assert (status, len(body) < 100) == (403, True), address
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("make", [None, Path.mkdir, Path.touch])
def test_folder_without_a_run_raises_output_error(make: Any, tmp_path: Path) -> None:
    if make:
        make(tmp_path / "out")
    with pytest.raises(OutputError, match="out"):
        create_app(tmp_path / "out", TOKEN)
