"""HTML pages: the files that pages consist of, and reports of a video or of a run in a single file."""

import base64
import hashlib
import html
import re
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fer_batch.errors import OutputError
from fer_batch.storage.atomic import write_bytes
from fer_batch.storage.folder import check_outside_run
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name
from fer_batch.timeline.viewer.archive import pack_archive
from fer_batch.timeline.viewer.payload import pack_video

ASSETS = files("fer_batch.timeline.viewer").joinpath("assets")
SCRIPTS = ("vendor/uPlot.iife.min.js", "data.js", "strip.js", "points.js", "chart.js", "lanes.js", "facts.js")
"""The scripts of each page of a video, in the order in which they run."""
ARCHIVE_SCRIPTS = ("data.js", "strip.js", "facts.js", "archive-report.js")
STYLES = ("vendor/uPlot.min.css", "style.css")


def read_asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def render_report(database: Database, video: str | Path) -> str:
    """Render a video (named by its id, path or file name) as one HTML page.

    The page needs no network and no server, and holds no picture of anyone.
    """
    video_id = database.video_id(video)
    database = database.narrow([video_id])
    ((uri,),) = database.sql("SELECT uri FROM videos WHERE video_id = $id", {"id": video_id}).fetchall()
    return _render_page(
        file_name(str(uri)), pack_video(database, video_id, boxes=False), (*SCRIPTS, "report.js")
    )


def render_archive_report(database: Database) -> str:
    """Render all videos of a run as one HTML page, like `render_report`."""
    return _render_page(database.out.name, pack_archive(database), ARCHIVE_SCRIPTS)


def write_report(database: Database, video: str | Path, target: Path) -> int:
    """See `Timeline.write_report`."""
    _check_target(database, target)
    return _write_page(target, render_report(database, video))


def write_archive_report(database: Database, target: Path) -> int:
    """See `Timeline.write_archive_report`."""
    _check_target(database, target)
    return _write_page(target, render_archive_report(database))


def _render_page(title: str, data: bytes, script_names: Sequence[str]) -> str:
    scripts = [read_asset(name) for name in script_names]
    styles = [read_asset(name) for name in STYLES]
    policy = (
        f"default-src 'none'; script-src {_hash_sources(scripts)}; style-src {_hash_sources(styles)}; "
        "img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    values = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(title),
        "STYLES": "".join(f"<style>{style}</style>\n" for style in styles),
        "SCRIPTS": "".join(f"<script>{script}</script>\n" for script in scripts),
        "DATA": base64.b64encode(zlib.compress(data, 9)).decode(),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: values[match[1]], read_asset("report.html"))


def _check_target(database: Database, target: Path) -> None:
    if target.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"Cannot write a report to {target}: its name must end in .html")
    check_outside_run(target, database.out)


def _write_page(target: Path, page: str) -> int:
    content = page.encode()
    try:
        write_bytes(target, content)
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror}") from error
    return len(content)


def _hash_sources(texts: list[str]) -> str:
    """Return the sources of a Content-Security-Policy that allow exactly these inline texts."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
