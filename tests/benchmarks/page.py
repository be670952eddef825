"""Measure the speed of the viewer in headless Chromium, for a video of two hours with five faces.

python -m tests.benchmarks.page --out DIR [--runs 5]

DIR/media gets the video and its tables (180,000 rows). DIR/page.json gets the medians of the runs: `paint`,
seconds from the request until the page is complete; `seek`, milliseconds from a click on a lane until the
player and the lanes show that time; `report`, size of the file in bytes, and seconds until it is written.
"""

import argparse
import json
import shutil
import statistics
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from playwright.sync_api import Page, sync_playwright

from fer_batch.timeline.store import open_timeline
from fer_batch.timeline.viewer.page import render_report
from tests.runs import video_id
from tests.timeline.conftest import serving, until, write_random_run

SECONDS, FPS, FACES = 7200, 5, 5
SEEKS = 20
PAINTED = """new MutationObserver(() => {
    if (!document.documentElement?.dataset.ready || window.painting) return;
    window.painting = true;
    requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now(); }));
}).observe(document, { subtree: true, attributes: true });"""
"""Record the time of the frame after the page has drawn itself."""
CLICKS = """() => {
    const { player, lanes } = fer.page;
    document.addEventListener("click", () => {
        const began = performance.now();
        const note = () => { window.taken = [performance.now() - began, lanes.time_s]; };
        window.taken = null;
        player.addEventListener("seeked", () => requestAnimationFrame(note), { once: true });
    }, true);
}"""
"""Record the time from a click until the player has its frame and the browser paints."""


def two_hours(path: Path) -> Path:
    """Write a still video: 360p, with a key frame every ten seconds."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = np.random.default_rng(0).integers(40, 200, (9, 16, 3))
    picture = np.kron(squares, np.ones((40, 40, 1))).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30", "g": str(10 * FPS)}
        for number in range(SECONDS * FPS):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def painted_s(page: Page, address: str) -> dict[str, float]:
    """Return the seconds until the first pixel, and until all lanes are painted."""
    page.add_init_script(PAINTED)
    page.goto(address)
    until(page, "window.painted")
    return page.evaluate(
        """() => ({
            first: performance.getEntriesByName("first-contentful-paint")[0].startTime / 1000,
            whole: window.painted / 1000 })"""
    )


def seeks_ms(page: Page) -> list[float]:
    """Return the milliseconds of clicks at times across the video."""
    until(page, "fer.page.player.readyState >= 2 && !fer.page.player.seeking")
    page.evaluate(CLICKS)
    lane = page.locator(".lane .u-over").first.bounding_box()
    assert lane is not None
    taken = []
    for share in np.random.default_rng(1).random(SEEKS):
        page.mouse.click(lane["x"] + lane["width"] * share, lane["y"] + 20)
        until(page, "window.taken")
        ms, time_s = page.evaluate("window.taken")
        assert abs(time_s - share * SECONDS) < SECONDS / lane["width"]
        taken.append(ms)
    return taken


def measure(out: Path, runs: int) -> dict[str, Any]:
    """Return all measurements."""
    video, run = two_hours(out / "media" / "two_hours.mp4").absolute(), out / "media" / "two_hours"
    if not (run / "snapshot.json").exists():
        write_random_run(run, str(video), faces=FACES, moments=SECONDS * FPS)
    timeline = open_timeline(run)
    rows = timeline.sql("SELECT count(*) FROM tracks").fetchall()[0][0]
    began = time.perf_counter()
    page_bytes = len(render_report(timeline, str(video)).encode())
    report_s = time.perf_counter() - began
    paints: list[dict[str, float]] = []
    seeks: list[float] = []
    with serving(run) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        address = f"{url}/video/{video_id(str(video))}"
        for _ in range(runs):
            page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
            paints.append(painted_s(page, address))
            seeks += seeks_ms(page)
            page.context.close()
        browser.close()
    return {
        "rows": rows,
        "paint": {name: statistics.median(one[name] for one in paints) for name in ("first", "whole")},
        "seek": {"median": statistics.median(seeks), "most": max(seeks)},
        "report": {"bytes": page_bytes, "seconds": report_s},
    }


def main() -> None:
    """Measure, print the results and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    figures = measure(options.out, options.runs)
    paint, seek, made = figures["paint"], figures["seek"], figures["report"]
    print(f"paint: {paint['whole']:.2f} s, the first pixel after {paint['first']:.2f} s (goal 1 s)")
    print(f"seek: {seek['median']:.0f} ms, at most {seek['most']:.0f} ms (goal 150 ms)")
    print(f"report: {made['bytes'] / 1e6:.2f} MB in {made['seconds']:.1f} s (goal 3 MB)")
    (options.out / "page.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
