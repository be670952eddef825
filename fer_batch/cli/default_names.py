"""Names of output files that the user does not name."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_batch.timeline.store import Timeline


def choose_free_name(stem: str, suffix: str = "") -> Path:
    """Return a name in the current folder that no file or folder has: STEM, STEM-2, STEM-3 …"""
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    names = (Path(name + suffix) for name in itertools.chain([stem], numbered))
    return next(name for name in names if not name.exists() and not name.is_symlink())


def name_run(timeline: "Timeline") -> str:
    """Return the name of a run's folder, as a part of a file name."""
    return timeline.out.name or "run"


def name_video(timeline: "Timeline", video: str) -> str:
    """Return the name of a video without its suffix, as a part of a file name."""
    from fer_batch.timeline.names import unique_file_names

    video_id = timeline.video_id(video)
    rows = timeline.narrow([video_id]).sql(
        "SELECT video_id, uri FROM videos WHERE video_id = $video", {"video": video_id}
    )
    return unique_file_names(dict(rows.fetchall()))[video_id]
