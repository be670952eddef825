"""Probing: opening listed files to learn what their containers state."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.schema import PROBED_SCHEMA
from fer_batch.video.decode import decode_first
from fer_batch.video.key_frames import find_key_times
from fer_batch.video.source import Source


class Prober:
    """`probe_videos` as the service of a guarded process.

    This module imports little more than the reading of videos, so that a worker starts at once.
    """

    def __init__(self) -> None:
        self.heartbeat: Callable[[float], None] = lambda files: None
        """Called after each file with the number of files of a call so far."""
        self.keep_alive: Callable[[], None] = lambda: None
        """Called for each packet of a file."""

    def probe(self, sources: pa.Table) -> pa.Table:
        """Open listed files: rows of `schema.SOURCES_SCHEMA` to rows of `schema.PROBED_SCHEMA`.

        A failure ends in `status` ("no_video" or "failed") and `error`.
        """
        rows = []
        for source in sources.to_pylist():
            rows.append(_probe_video(source, self.keep_alive))
            self.heartbeat(len(rows))
        return pa.Table.from_pylist(rows, schema=PROBED_SCHEMA)


def probe_videos(sources: pa.Table) -> pa.Table:
    """Return `Prober.probe` of the sources, in this process."""
    return Prober().probe(sources)


def _probe_video(row: dict[str, Any], keep_alive: Callable[[], None]) -> dict[str, Any]:
    if row["error"]:
        return row | {"status": "failed"}
    try:
        source = Source(row["uri"], row["offset"])
        source.on_packet = keep_alive
        with source.container:
            info = decode_first(source)
            key_times_s = find_key_times(source, info)
    except NoVideoError as error:
        return row | {"status": "no_video", "error": str(error)}
    except DecodeError as error:
        return row | {"status": "failed", "error": str(error)}
    names = ("duration_s", "fps", "width", "height", "codec", "first_pts", "start_s")
    properties = {name: getattr(info, name) for name in names}
    return row | properties | {"status": "ok", "key_times_s": key_times_s}
