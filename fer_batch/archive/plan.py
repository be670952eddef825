"""Videos to the work that they are: segments of a minute, in bundles of some ten."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fer_batch.config import AnalyzeConfig
from fer_batch.schema import PLAN

MAX_SEGMENTS = 64
"""In a bundle, so that a thousand clips of a second are still several bundles."""
BUNDLES_EACH = 8
"""For each worker, at least, so that the last one to finish is not alone for long."""
SHORTEST_TAIL_S = 1.0
"""A rest shorter than this belongs to the segment before it."""


SLOWEST_BYTES_S = 10.0
"""Bytes of a second of video, at least, in what is planned: less than even a still picture takes."""
LONGEST_S = 7 * 86_400.0
"""Planned of one video at most. What is beyond is in the last segment, which is read to the end anyway."""


def planned_s(video: dict[str, Any]) -> float | None:
    """Seconds of a row of `schema.PROBED` that are worth segments: a container may promise years."""
    promised: float | None = video["duration_s"]
    if promised is None or math.isnan(promised):
        return None
    return min(promised, video["size_bytes"] / SLOWEST_BYTES_S, LONGEST_S)


def segment_bounds(duration_s: float | None, segment_s: float) -> list[tuple[float, float]]:
    """The cores of a video: half-open ranges that tile `[0, duration_s)` seconds; one where it is unknown."""
    if duration_s is None or not math.isfinite(duration_s):
        return [(0.0, 0.0)]
    if duration_s <= segment_s + SHORTEST_TAIL_S:
        return [(0.0, max(duration_s, 0.0))]
    count = math.ceil((duration_s - SHORTEST_TAIL_S) / segment_s)
    edges = [k * segment_s for k in range(count)] + [duration_s]
    return list(itertools.pairwise(edges))


def overlaps(config: AnalyzeConfig, half_window_s: float, video_fps: float) -> tuple[float, float]:
    """Seconds that a segment reads before and after its core, so that no answer in it depends on where it
    was cut.

    Both: the model's half window and twice the time of a search more, which is how far apart two of the whole
    picture are. Before, also twice the gap that a track may survive, for the tracks to settle. Two moments on
    top of each.
    """
    moment_s = 1 / min(video_fps, math.inf if config.every_frame else config.fps)
    gap_s = max(config.max_gap_s, 1.5 * moment_s)
    after_s = half_window_s + max(2 * config.search_s, moment_s) + 2 * moment_s
    return after_s + 2 * gap_s, after_s


def plan_segments(
    videos: Sequence[dict[str, Any]], config: AnalyzeConfig, half_window_s: float, model_id: str, workers: int
) -> pa.Table:
    """Rows of `schema.PROBED` that are "ok" to rows of `schema.PLAN`, in order of video and time.

    Bundles hold up to `bundle_s` of video, less where there is so little that `workers` would not all have
    some. Same videos, settings, model and workers: same plan. A bundle's id is a hash of its segments and
    of all that its answers depend on.
    """
    segments = [
        s for video in videos if video["status"] == "ok" for s in _segments(video, config, half_window_s)
    ]
    total_s = sum(s["end_s"] - s["start_s"] for s in segments)
    budget_s = min(config.bundle_s, max(total_s / (BUNDLES_EACH * workers), 10.0))
    fingerprint = config.fingerprint(model_id)
    bundle: list[dict[str, Any]] = []
    filled_s = 0.0
    for segment in segments:
        length_s = segment["end_s"] - segment["start_s"]
        if bundle and (filled_s + length_s > budget_s or len(bundle) == MAX_SEGMENTS):
            _seal(bundle, fingerprint)
            bundle, filled_s = [], 0.0
        bundle.append(segment)
        filled_s += length_s
    _seal(bundle, fingerprint)
    return pa.Table.from_pylist(segments, schema=PLAN)


def _segments(video: dict[str, Any], config: AnalyzeConfig, half_window_s: float) -> list[dict[str, Any]]:
    before_s, after_s = overlaps(config, half_window_s, video["fps"])
    again = f".{video['attempt']}" if video.get("attempt") else ""
    bounds = segment_bounds(planned_s(video), config.segment_s)
    return [
        {
            "segment_id": f"{video['video_id']}/{video['version']}/{index:05d}{again}",
            "video_id": video["video_id"],
            "version": video["version"],
            "uri": video["uri"],
            "index": index,
            "segments": len(bounds),
            "start_s": max(core_start - before_s, 0.0),
            "end_s": core_end if index == len(bounds) - 1 else core_end + after_s,
            "core_start_s": core_start,
            "core_end_s": core_end,
            "first_pts": video["first_pts"],
        }
        for index, (core_start, core_end) in enumerate(bounds)
    ]


def _seal(bundle: list[dict[str, Any]], fingerprint: str) -> None:
    digest = hashlib.sha256(
        "\n".join([fingerprint, *(s["segment_id"] for s in bundle)]).encode()
    ).hexdigest()[:16]
    for segment in bundle:
        segment["bundle_id"] = digest
