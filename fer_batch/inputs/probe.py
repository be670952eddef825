"""A listed file to what its container says: one row of `schema.PROBED_SCHEMA`, whatever is wrong with it."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.schema import PROBED_SCHEMA
from fer_batch.video.reader import read_info


def probe_videos(sources: pa.Table, done: Callable[[int], None] = lambda files: None) -> pa.Table:
    """Listed files, rows of `schema.SOURCES_SCHEMA`, to rows of `schema.PROBED_SCHEMA`; `done` is told of
    each, how many.

    A stage of its own, where nothing but the reader of videos is imported: a worker is at it in no time.
    """
    rows = []
    for source in sources.to_pylist():
        rows.append(probe_video(source))
        done(len(rows))
    return pa.Table.from_pylist(rows, schema=PROBED_SCHEMA)


class Prober:
    """`probe_videos` as a guarded process is asked for it."""

    def __init__(self) -> None:
        self.heartbeat: Callable[[float], None] = lambda files: None
        """Called with the number of files that a call has done."""

    def probe(self, sources: pa.Table) -> pa.Table:
        """Rows of `schema.SOURCES_SCHEMA` to rows of `schema.PROBED_SCHEMA`."""
        return probe_videos(sources, self.heartbeat)


def probe_video(source: dict[str, Any]) -> dict[str, Any]:
    """Open one file; trouble ends in the row's `status` ("no_video" or "failed") and `error`."""
    row = source | {"status": "ok"}
    if source["error"]:
        return row | {"status": "failed"}
    try:
        info = read_info(source["uri"], source["offset"])
    except NoVideoError as error:
        return row | {"status": "no_video", "error": str(error)}
    except DecodeError as error:
        return row | {"status": "failed", "error": str(error)}
    return row | {
        "duration_s": info.duration_s,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "first_pts": info.first_pts,
    }
