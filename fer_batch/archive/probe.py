"""A listed file to what its container says: one row of `schema.PROBED`, whatever is wrong with it."""

from typing import Any

import pyarrow as pa

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.schema import PROBED
from fer_batch.vision.decode import read_info


def probe_videos(sources: pa.Table) -> pa.Table:
    """Listed files, rows of `schema.SOURCES`, to rows of `schema.PROBED`.

    A stage of its own, where nothing but the reader of videos is imported: a worker is at it in no time.
    """
    return pa.Table.from_pylist([probe_video(row) for row in sources.to_pylist()], schema=PROBED)


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
