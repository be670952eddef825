"""Make the pictures of the README and the tutorial from the packaged sample video.

    python -m fer_batch.docs.make_pictures

Requires the test dependencies (`.[test]`) and Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parent / "pictures"
CLIP = "two_faces.mp4"


def run_command(*words: object) -> None:
    """Run one fer-batch command."""
    subprocess.run([sys.executable, "-m", "fer_batch.cli.main", *map(str, words)], check=True)


def main() -> None:
    """Write all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results")
        run_command("demo", "--out", out)
        run_command("assign", out, "--seats", "Ann", "Bo")
        run_command("plot", out, CLIP, "-o", PICTURES / "ribbons.png")
        run_command("plot", out, "--kind", "shares", "--by-person", "-o", PICTURES / "shares.png")
        command = [sys.executable, "-m", "fer_batch.cli.main", "view", str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            _take_screenshot(server.stdout.readline().split()[0], PICTURES / "viewer.png")
            server.terminate()


def _take_screenshot(url: str, path: Path) -> None:
    """Take a screenshot of the viewer at 6.6 s of the only video, in a window of 1100×900 pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(url)
        page.get_by_role("link", name=CLIP).click()
        page.locator("video").evaluate("video => { video.controls = false; video.currentTime = 6.6 }")
        page.wait_for_timeout(1000)
        page.screenshot(path=path)


if __name__ == "__main__":
    main()
