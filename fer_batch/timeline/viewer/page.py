"""A video's timeline for a browser: packed for the page that `view` serves, or one file that stands alone."""

import base64
import hashlib
import html
import re
import zlib
from importlib.resources import files
from pathlib import Path

from fer_batch.errors import OutputError
from fer_batch.storage.folder import check_outside_run
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name
from fer_batch.timeline.viewer.payload import pack_video

ASSETS = files("fer_batch.timeline.viewer").joinpath("assets")
SCRIPTS = ("vendor/uPlot.iife.min.js", "data.js", "points.js", "lanes.js", "facts.js")
"""What each page of a video runs, in this order."""
STYLES = ("vendor/uPlot.min.css", "style.css")


def asset(name: str) -> str:
    """The text of a file of the page."""
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def render_report(timeline: Database, video: str | Path) -> str:
    """A page of one video that needs nothing else: no network, no server, and no picture of anyone in it.

    `video` is its id, uri, file name or manifest id. Raises QueryError where there is none, or several.
    """
    video_id = timeline.video_id(video)
    found = timeline.sql("SELECT uri FROM videos WHERE video_id = $id", {"id": video_id}).fetchall()
    content = zlib.compress(pack_video(timeline, video_id, boxes=False), 9)
    scripts = [asset(name) for name in (*SCRIPTS, "report.js")]
    styles = [asset(name) for name in STYLES]
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(file_name(str(found[0][0]))),
        "STYLES": "".join(f"<style>{style}</style>\n" for style in styles),
        "SCRIPTS": "".join(f"<script>{script}</script>\n" for script in scripts),
        "DATA": base64.b64encode(content).decode(),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], asset("report.html"))


def _hashes(texts: list[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def write_report(timeline: Database, video: str | Path, target: Path) -> int:
    """Write the report of a video to a file that ends in .html; return its size in bytes.

    Raises OutputError if the file cannot be written or lies in the run folder.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"Cannot write a report to {target}: its name must end in .html")
    check_outside_run(target, timeline.out)
    page = render_report(timeline, video).encode()
    try:
        target.write_bytes(page)
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror}") from error
    return len(page)
