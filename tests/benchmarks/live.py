"""Measure the samples per second of the live page in headless Chromium, for a fake camera with one face.

python -m tests.benchmarks.live --out DIR [--seconds 20]

DIR/live.json gets the `samples_per_s` that the page received, the CPU milliseconds of the server per sample
(`server_ms`), and the load of the machine before the measurement. The server and the browser share its cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
from playwright.sync_api import sync_playwright

from tests.conftest import SAMPLE
from tests.timeline.conftest import until

WIDTH_PX = 320
"""The left part of the sample has one face."""
WARM_UP_S = 5


def write_camera(path: Path) -> Path:
    """Write the left part of the sample as Motion JPEG, a format of Chromium's fake camera."""
    with av.open(str(SAMPLE)) as source, av.open(str(path), "w", format="mjpeg") as target:
        height = source.streams.video[0].height
        stream = target.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, height, "yuvj420p"
        stream.options = {"q:v": "3"}
        for frame in source.decode(video=0):
            part = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24")[:, :WIDTH_PX].copy(), "rgb24")
            target.mux(stream.encode(part.reformat(format="yuvj420p")))
        target.mux(stream.encode(None))
    return path


def read_cpu_s(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(camera: Path, seconds: float) -> dict[str, Any]:
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "fer_batch.cli.main", "live"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        assert server.stdout is not None
        fake = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"]
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", *fake])
        page = browser.new_context(permissions=["camera"]).new_page()
        answers: list[str] = []

        def record(text: str) -> None:
            answers.append(text)

        page.on("websocket", lambda socket: socket.on("framereceived", record))
        page.goto(server.stdout.readline().split()[0])
        page.click("#start")
        until(page, "document.querySelectorAll('.box').length > 0")
        page.wait_for_timeout(1000 * WARM_UP_S)
        began_s, cpu_s = time.monotonic(), read_cpu_s(server.pid)
        answers.clear()
        page.wait_for_timeout(1000 * seconds)
        count, elapsed_s = len(answers), time.monotonic() - began_s
        cpu_s = read_cpu_s(server.pid) - cpu_s
        faces = [len(json.loads(answer)["faces"]) for answer in answers]
        browser.close()
        server.terminate()
    return {
        "samples_per_s": round(count / elapsed_s, 1),
        "server_ms": round(1000 * cpu_s / count, 1),
        "with_one_face": faces.count(1) / count,
        "load": round(load, 1),
        "cpus": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    result = measure(write_camera(options.out / "camera.mjpeg"), options.seconds)
    (options.out / "live.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
