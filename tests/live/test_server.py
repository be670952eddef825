"""The server of the live page: streams, images, and protection from other sites."""

import json
import socket
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.live.server import MAX_FRAME_BYTES, MAX_IMAGE_BYTES, MAX_STREAMS, serve
from tests.cli.conftest import read_error  # noqa: F401
from tests.live.conftest import Serving, encode

BLACK = encode(np.zeros((90, 160, 3), np.uint8))


def post(url: str, content: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send an image; return the status and the JSON of the answer."""
    request = urllib.request.Request(f"{url}/api/image", content, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def get(url: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@contextmanager
def stream(url: str, **options: Any) -> Iterator[ClientConnection]:
    with connect(url.replace("http", "ws", 1) + "/api/stream", **options) as connection:
        yield connection


def ask(connection: ClientConnection, frame: bytes | str) -> dict[str, Any]:
    connection.send(frame)
    answer = json.loads(connection.recv(60))
    assert isinstance(answer, dict)
    return answer


def test_image_without_a_face(url: str) -> None:
    assert post(url, BLACK) == (200, {"time_s": 0.0, "faces": []})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_image_with_faces(kind: str, url: str, sample_frames: list[np.ndarray]) -> None:
    status, answer = post(url, encode(sample_frames[0], kind))
    assert status == 200
    assert [face["emotion"] for face in answer["faces"]] == ["neutral", "happy"]
    for face in answer["faces"]:
        assert face["confidence"] == face["probabilities"][face["emotion"]]
        assert len(face["box"]) == 4
        assert all(0 <= share <= 1 for share in face["box"])


def write_bomb(width: int, height: int) -> bytes:
    """Return a small PNG file that declares a large picture."""
    content = bytearray(encode(np.zeros((1, 1, 3), np.uint8), "PNG"))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no image", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
        (BLACK[:200], "not a readable picture"),
        (encode(np.zeros((2, 200, 3), np.uint8)), "ratio"),
        (write_bomb(10_000, 10_000), "the limit is"),
        (write_bomb(60_000, 60_000), "limit"),
    ],
    ids=range(7),
)
def test_unusable_image_is_answered_with_the_reason(content: bytes, reason: str, url: str) -> None:
    status, answer = post(url, content)
    assert status == 400
    assert answer.keys() == {"error"}
    assert reason in answer["error"]


def test_size_of_an_image_is_limited(url: str) -> None:
    status, answer = post(url, b"x" * (MAX_IMAGE_BYTES + 1))
    assert (status, answer) == (413, {"error": f"the image has more than {MAX_IMAGE_BYTES:,} bytes"})


def test_stream_answers_each_frame(url: str, sample_frames: list[np.ndarray]) -> None:
    with stream(url) as connection:
        assert ask(connection, BLACK)["faces"] == []
        answers = [ask(connection, encode(frame)) for frame in sample_frames[:9:3]]
        assert [[face["track"] for face in answer["faces"]] for answer in answers] == [[0, 1]] * 3
        times_s = [answer["time_s"] for answer in answers]
        assert times_s == sorted(set(times_s))


def test_unusable_frame_does_not_end_a_stream(url: str) -> None:
    with stream(url) as connection:
        for frame in (b"", b"no image", "text", write_bomb(2000, 1100)):
            assert ask(connection, frame).keys() == {"error"}
        assert ask(connection, BLACK)["faces"] == []


def test_streams_do_not_share_tracks(url: str, sample_frames: list[np.ndarray]) -> None:
    frame = encode(sample_frames[0])
    with stream(url) as first, stream(url) as second:
        tracks = [[face["track"] for face in ask(one, frame)["faces"]] for one in (first, second, first)]
    assert tracks == [[0, 1]] * 3


def test_size_of_a_frame_is_limited(url: str) -> None:
    with stream(url) as connection, pytest.raises(ConnectionClosed):
        ask(connection, b"x" * (MAX_FRAME_BYTES + 1))
    with stream(url) as connection:
        assert ask(connection, BLACK)["faces"] == []


def test_number_of_streams_is_limited(url: str) -> None:
    with ExitStack() as streams:
        for _ in range(MAX_STREAMS):
            assert ask(streams.enter_context(stream(url)), BLACK)["faces"] == []
        with stream(url) as one_more, pytest.raises(ConnectionClosed) as closed:
            one_more.recv(60)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    assert str(MAX_STREAMS) in closed.value.rcvd.reason


def test_frames_of_a_flood_are_not_held_in_memory(url: str) -> None:
    """The server reads one frame after the other; the network stops a client that does not wait."""
    sent = 0

    def flood(connection: ClientConnection) -> None:
        nonlocal sent
        try:
            while True:
                connection.send(BLACK + bytes(MAX_FRAME_BYTES - len(BLACK)))
                sent += 1
        except ConnectionClosed:
            pass

    with stream(url) as connection:
        thread = threading.Thread(target=flood, args=(connection,))
        thread.start()
        answers = [json.loads(connection.recv(60)) for _ in range(10)]
        assert sent < len(answers) + 20
    thread.join(60)
    assert all(answer["faces"] == [] for answer in answers)
    with stream(url) as connection:
        assert ask(connection, BLACK)["faces"] == []


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
def test_other_sites_are_rejected(origin: str, url: str) -> None:
    with pytest.raises(InvalidStatus) as refused, stream(url, origin=origin):
        pass
    assert refused.value.response.status_code == 403
    assert get(url, "/api/image", Origin=origin)[0] == 405
    with pytest.raises(json.JSONDecodeError):
        post(url, BLACK, Origin=origin)


def test_own_page_is_accepted(url: str) -> None:
    own = f"http://{urlsplit(url).netloc}"
    with stream(url, origin=own) as connection:
        assert ask(connection, BLACK)["faces"] == []
    assert post(url, BLACK, Origin=own)[0] == 200


def test_token_and_host_are_checked(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused, stream(url[:-1]):
        pass
    assert refused.value.response.status_code == 403
    for address in (url.rpartition("/")[0], url[:-1]):
        assert get(address, "/")[0] == 403
    assert get(url, "/", Host="evil.example")[0] == 400
    with (
        pytest.raises(InvalidStatus) as refused,
        stream(url, additional_headers={"Host": "evil.example"}),
    ):
        pass
    assert refused.value.response.status_code in (400, 403)


@pytest.mark.parametrize("path", ["/", "/page/live.js", "/page/style.css", "/api/model"])
def test_page_has_its_files_and_security_headers(path: str, url: str) -> None:
    status, headers, body = get(url, path)
    assert status == 200
    assert body
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/page/video.js", "/page/../server.py", "/media", "/api/videos"])
def test_nothing_else_is_served(path: str, url: str) -> None:
    assert get(url, path)[0] == 404


def test_file_is_sent_in_ranges(serving: Serving, sample: Path) -> None:
    with serving(sample) as url:
        assert json.loads(get(url, "/api/model")[2])["file"] == sample.name
        status, headers, body = get(url, "/media", Range="bytes=100-199")
    assert (status, body) == (206, sample.read_bytes()[100:200])
    assert headers["content-type"] == "video/mp4"


def test_serve_reports_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(port: int = 0, file: Path | None = None) -> None:
        serve(AnalyzeConfig(), port, lambda url: pytest.fail("it started"), file)

    with pytest.raises(InputError, match="is not a file"):
        start(file=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OutputError, match="--port"):
        start(taken.getsockname()[1])
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ConfigError, match=r"fer-batch\[live\]"):
        start()
