"""Make the pictures of README and the tutorial anew from the packaged sample.

    python -m fer_batch.docs.make_pictures

It needs what the tests need (`.[test]`), and Chromium for the pictures of the pages.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parent / "pictures"
CLIP = "two_faces.mp4"


def fer_batch(*words: object) -> None:
    """Run a command of ours."""
    subprocess.run([sys.executable, "-m", "fer_batch.cli.main", *map(str, words)], check=True)


def main() -> None:
    """Write all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place, "results")
        fer_batch("demo", "--out", out)
        fer_batch("assign", out, "--seats", "Ann", "Bo")
        fer_batch("plot", out, CLIP, "-o", PICTURES / "ribbons.png")
        fer_batch("plot", out, "--kind", "shares", "--by-person", "-o", PICTURES / "shares.png")
        command = [sys.executable, "-m", "fer_batch.cli.main", "view", str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            _screenshot(server.stdout.readline().split()[0], PICTURES / "viewer.png")
            server.terminate()


def _screenshot(url: str, path: Path) -> None:
    """The viewer's page of the only video, two seconds into it, in a window of 1100 × 900."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(url)
        page.get_by_role("link", name=CLIP).click()
        page.locator("video").evaluate("video => { video.controls = false; video.currentTime = 2 }")
        page.wait_for_timeout(1000)
        page.screenshot(path=path)


if __name__ == "__main__":
    main()
