"""A listed file to what its container says: one row of `schema.PROBED`, whatever is wrong with it."""

from dataclasses import asdict
from typing import Any

from fer_batch.archive.listing import Source
from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.vision.decode import read_info


def probe_video(source: Source) -> dict[str, Any]:
    """Open one file; trouble ends in the row's `status` ("no_video" or "failed") and `error`."""
    row = asdict(source) | {"status": "ok"}
    if source.error:
        return row | {"status": "failed"}
    try:
        info = read_info(source.uri)
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
