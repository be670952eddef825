"""The live page in Chromium, with a fake camera that plays the sample."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.conftest import write_video
from tests.live.conftest import Serving
from tests.timeline.conftest import Seen, keep, look, until  # noqa: F401

Look = Callable[..., Seen]
SHOWN_BOXES = "[...document.querySelectorAll('.box')].filter((box) => !box.hidden).length"


@pytest.fixture(scope="module")
def camera(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as Motion JPEG, a format of Chromium's fake camera."""
    path = tmp_path_factory.mktemp("camera") / "sample.mjpeg"
    with av.open(str(sample)) as source, av.open(str(path), "w", format="mjpeg") as target:
        video = source.streams.video[0]
        stream = target.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuvj420p"
        stream.options = {"q:v": "3"}
        for frame in source.decode(video):
            target.mux(stream.encode(frame.reformat(format="yuvj420p")))
        target.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=["camera"])
def browser(request: pytest.FixtureRequest, camera: Path) -> Iterator[Any]:
    """The system's Chromium, headless, with the fake camera, or without any for the parameter "none"."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` brings it")
    fake = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
    arguments = ["--no-sandbox", *(fake if request.param == "camera" else [])]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


def read_status(page: Any) -> str:
    return str(page.inner_text("#status"))


def test_camera(url: str, look: Look, keep: Callable[[Any, str], None]) -> None:  # noqa: F811
    """Boxes, values, charts and the rate appear; the page is legible at both widths and in both themes."""
    page = look(permissions=["camera"]).open(f"{url}/")
    assert "Start to show the camera" in read_status(page)
    page.click("#start")
    until(page, f"{SHOWN_BOXES} === 2")
    until(page, "document.querySelector('#rate').textContent.endsWith('samples per second')")
    until(page, "[...document.querySelectorAll('.lane .best')].length >= 2")
    labels = page.locator(".box:not([hidden]) span").all_inner_texts()
    assert labels
    assert all(re.fullmatch(r"face \d+ · [a-z]+", label) for label in labels)
    assert page.locator(".lane:not([hidden]) canvas").count() >= 2
    assert "not a feeling" in page.inner_text("footer")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1600, 400):
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(500)
            keep(page, f"live_{width}_{scheme}")
    page.click("#start")
    until(page, f"{SHOWN_BOXES} === 0")
    assert read_status(page).startswith("Stopped.")
    assert page.evaluate("document.querySelector('video').srcObject") is None
    page.click("#start")
    until(page, f"{SHOWN_BOXES} === 2")


def test_denied_camera(url: str, look: Look) -> None:  # noqa: F811
    page = look().open(f"{url}/")
    page.click("#start")
    until(page, "document.querySelector('#status').textContent.includes('may not use the camera')")
    assert page.inner_text("#start") == "start"


@pytest.mark.parametrize("browser", ["none"], indirect=True)
def test_no_camera(url: str, look: Look) -> None:  # noqa: F811
    page = look(permissions=["camera"]).open(f"{url}/")
    page.click("#start")
    until(page, "document.querySelector('#status').textContent.includes('There is no camera')")


def test_file_without_faces_then_its_end(serving: Serving, look: Look, tmp_path: Path) -> None:  # noqa: F811
    black = write_video(tmp_path / "black.mp4", [np.zeros((180, 320, 3), np.uint8)] * 150, fps=25)
    with serving(black) as url:
        page = look(width=400).open(f"{url}/")
        assert "black.mp4" in read_status(page)
        page.click("#start")
        until(page, "document.querySelector('#status').textContent === 'No face in view.'")
        assert page.evaluate(SHOWN_BOXES) == 0
        until(page, "document.querySelector('#status').textContent === 'The file has ended.'")


def test_file_that_the_browser_cannot_play(serving: Serving, look: Look, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "notes.mp4"
    path.write_text("no video")
    with serving(path) as url:
        page = look().open(f"{url}/")
        page.click("#start")
        until(page, "document.querySelector('#status').textContent.includes('cannot play notes.mp4')")


def test_end_of_the_server_is_shown(serving: Serving, look: Look) -> None:  # noqa: F811
    with serving() as url:
        page = look(permissions=["camera"]).open(f"{url}/")
        page.click("#start")
        until(page, f"{SHOWN_BOXES} === 2")
    until(page, "document.querySelector('#status').textContent.includes('The server has ended')")
