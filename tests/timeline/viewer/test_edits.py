"""Requests that name faces: only with --edit, the token, and from a page of this server."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fer_batch.run.people import PEOPLE_FILE
from fer_batch.storage.lease import hold_lease
from fer_batch.timeline.store import open_timeline
from tests.runs import video_id, write_run
from tests.timeline.conftest import TOKEN, serving
from tests.timeline.viewer.test_server import WRONG_TOKENS, get, get_json

VIDEO = "/talks/two.mp4"
NAME, UNDO = (f"/api/videos/{video_id(VIDEO)}/{act}" for act in ("name", "undo"))


def post(
    url: str, path: str, body: Any, headers: dict[str, str | None] | None = None, method: str = "POST"
) -> tuple[int, str]:
    """Send a request as a page of the server does, with other `headers`; return the status and the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    own = {"Origin": f"http://{urlsplit(url).netloc}", "Content-Type": "application/json"}
    sent = {name: value for name, value in (own | (headers or {})).items() if value is not None}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, urlsplit(url).path + path, content, sent)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def name(track_id: Any = 0, name: Any = "Ann", shown: Any = None) -> dict[str, Any]:
    return {"track_id": track_id, "name": name, "shown": shown}


def persons(out: Path) -> dict[int, str | None]:
    return dict(open_timeline(out).sql("SELECT DISTINCT track_id, person FROM tracks").fetchall())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", {VIDEO: [["happy"] * 5, ["sad"] * 5]})


@pytest.fixture
def url(out: Path) -> Iterator[str]:
    with serving(out, edit=True) as url:
        yield url


def read_state(url: str) -> Any:
    return get_json(url, f"/api/videos/{video_id(VIDEO)}/state")


def test_face_is_named_and_changes_are_undone(url: str, out: Path) -> None:
    assert (read_state(url)["edit"], read_state(url)["undo"]) == (True, None)
    assert post(url, NAME, name()) == (204, "")
    assert post(url, NAME, name(1, "Bo")) == (204, "")
    assert post(url, NAME, name(1, "Cy", "Bo")) == (204, "")
    assert post(url, NAME, name(1, "Cy", "Cy")) == (204, "")
    assert persons(out) == {0: "Ann", 1: "Cy"}
    assert get_json(url, "/api/persons") == ["Ann", "Cy"]
    described = []
    while change := read_state(url)["undo"]:
        described.append(change)
        assert post(url, UNDO, {}) == (204, "")
    assert described == ["Bo → Cy", "track 1 → Bo", "track 0 → Ann"]
    assert persons(out) == {0: None, 1: None}
    assert post(url, UNDO, {}) == (400, "There is no change to undo")


def test_without_edit_there_is_no_write_route(out: Path) -> None:
    with serving(out) as url:
        state = read_state(url)
        assert (state["edit"], state["undo"]) == (False, None)
        assert post(url, NAME, name())[0] == 404
        assert post(url, UNDO, {})[0] == 404
    assert not (out / PEOPLE_FILE).exists()


@pytest.mark.parametrize("path", [NAME, UNDO])
def test_requests_without_the_token_are_rejected(path: str, url: str, out: Path) -> None:
    server = url.removesuffix(f"/{TOKEN}")
    for address in (path, f"{path}?token={TOKEN}", *(f"/{wrong}{path}" for wrong in WRONG_TOKENS)):
        assert post(server, address, name(), {"Cookie": f"token={TOKEN}"})[0] == 403, address
    assert not (out / PEOPLE_FILE).exists()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_writes(method: str, url: str, out: Path) -> None:
    assert post(url, NAME, name(), method=method)[0] == 405
    assert not (out / PEOPLE_FILE).exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        *(
            ({"Origin": origin}, 403)
            for origin in (None, "null", "", "http://evil.example", "http://127.0.0.1")
        ),
        ({"Origin": "http://localhost:1", "Host": "localhost"}, 403),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, 400),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        (
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": "http://evil.example"},
            403,
        ),
        *(
            ({"Content-Type": kind}, 415)
            for kind in (None, "text/plain", "application/x-www-form-urlencoded")
        ),
    ],
)
def test_requests_of_other_sites_are_rejected(
    headers: dict[str, str | None], status: int, url: str, out: Path
) -> None:
    for path in (NAME, UNDO):
        assert post(url, path, name(), headers)[0] == status
    assert not (out / PEOPLE_FILE).exists()
    assert post(url, NAME, name(), {"Origin": "http://localhost:5", "Host": "localhost:5"})[0] == 204


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"[" * 9000, 400),
        (b"\xff", 400),
        (b" " * 10_001, 413),
        ({}, 400),
        (name(True), 400),
        (name("0"), 400),
        (name(0.0), 400),
        (name(10**30), 400),
        (name(7), 400),
        (name(name=None), 400),
        (name(name=["Ann"]), 400),
        (name(shown=5), 400),
        (name(shown="Bo"), 400),
        (name(name="x" * 101), 400),
        (name(name="a\nb"), 400),
    ],
)
def test_invalid_body_is_one_error(body: Any, status: int, url: str, out: Path) -> None:
    got, text = post(url, NAME, body)
    assert (got, "\n" in text, len(text) < 200) == (status, False, True)
    assert not (out / PEOPLE_FILE).exists()


def test_unknown_video_is_not_found(url: str) -> None:
    for path in (NAME, UNDO):
        assert post(url, path.replace(video_id(VIDEO), "0" * 16), name())[0] == 404


def test_other_writer_is_reported_and_nothing_is_lost(url: str, out: Path) -> None:
    assert post(url, NAME, name())[0] == 204
    with hold_lease(out, "analyze"):
        for path, body in ((NAME, name(0, "Bo", "Ann")), (UNDO, {})):
            status, text = post(url, path, body)
            assert status == 503
            assert "is in use: `fer-batch analyze` has written there since" in text
    assert persons(out) == {0: "Ann", 1: None}
    assert read_state(url)["undo"] == "track 0 → Ann"
    assert post(url, UNDO, {})[0] == 204


def test_change_by_another_viewer_is_not_overwritten(url: str, out: Path) -> None:
    assert post(url, NAME, name())[0] == 204
    with serving(out, edit=True) as other:
        assert read_state(other)["undo"] is None
        status, text = post(other, NAME, name(0, "Bo"))
        assert (status, "track 0 was without a person, and is now Ann" in text) == (400, True)
        assert post(other, NAME, name(0, "Bo", "Ann"))[0] == 204
    status, text = post(url, UNDO, {})
    assert (status, "cannot be undone" in text) == (400, True)
    assert (persons(out)[0], read_state(url)["undo"]) == ("Bo", None)


def test_requests_at_the_same_time_wait_for_each_other(url: str, out: Path) -> None:
    answers: list[tuple[int, str]] = []
    threads = [
        threading.Thread(target=lambda track=track: answers.append(post(url, NAME, name(track, f"P{track}"))))
        for track in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(204, "")] * 2
    assert persons(out) == {0: "P0", 1: "P1"}


def test_response_has_security_headers(url: str) -> None:
    _, headers, _ = get(url, NAME, {"Origin": "http://evil.example"}, "POST")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control")]
