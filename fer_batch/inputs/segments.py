"""Videos to the work that they are: segments of a minute, in bundles of some ten."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA, conform_table

MAX_SEGMENTS_PER_BUNDLE = 64
"""In a bundle, so that a thousand clips of a second are still several bundles."""
MIN_BUNDLES_PER_WORKER = 16
"""For each worker, at least, so that the last one to finish is not alone for long."""
MIN_LAST_SEGMENT_S = 1.0
"""A rest shorter than this belongs to the segment before it."""
ASSUMED_MIN_FPS = 5.0
"""Frames a second that a video is taken to have at least which was not opened before it is planned."""
MIN_BYTES_PER_S = 10.0
"""Bytes of a second of video, at least, in what is planned: less than even a still picture takes."""
MAX_PLANNED_S = 7 * 86_400.0
"""Planned of one video at most. What is beyond is in the last segment, which is read to the end anyway."""


def probe_as_needed(
    sources: pa.Table, config: AnalyzeConfig, probe: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Rows of `schema.SOURCES_SCHEMA` to rows of `schema.PROBED_SCHEMA`, in order of their uri.

    `probe` opens those of which no manifest says how long they are; all where every frame is looked at, as
    the rate of frames then decides how far segments overlap.
    """
    if config.every_frame:
        told = pa.array(np.zeros(len(sources), bool))
    else:
        told = pc.and_(sources.column("duration_s").is_valid(), sources.column("error").is_null())
    known = sources.filter(told).append_column("status", pa.repeat("ok", pc.sum(told).as_py() or 0))
    return pa.concat_tables(
        [conform_table(known, PROBED_SCHEMA), probe(sources.filter(pc.invert(told)))]
    ).sort_by("uri")


def planned_durations_s(videos: pa.Table) -> np.ndarray:
    """Seconds that are worth segments, `(n,) float64`, of rows of `schema.PROBED_SCHEMA`: a container may
    promise years, and a manifest be wrong. NaN where nothing says how long a video is.
    """
    promised = videos.column("duration_s").fill_null(np.nan).to_numpy()
    most = videos.column("size_bytes").to_numpy() / MIN_BYTES_PER_S
    most = np.where(most == 0, np.inf, most)  # a store need not say how large a file is
    return np.where(np.isnan(promised), np.nan, np.minimum(np.minimum(promised, most), MAX_PLANNED_S))


def split_into_cores(lengths_s: np.ndarray, segment_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cores of videos of these lengths, in order: which video each is of, its start and its end, in
    seconds.

    They tile each `[0, length)`; what is no length is one core without one.
    """
    lengths_s = np.where(np.isfinite(lengths_s), lengths_s, np.nan)
    counts = np.maximum(np.ceil((np.nan_to_num(lengths_s) - MIN_LAST_SEGMENT_S) / segment_s), 1).astype(
        np.int64
    )
    counts[~(lengths_s > segment_s + MIN_LAST_SEGMENT_S)] = 1
    video = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(len(video)) - np.repeat(np.cumsum(counts) - counts, counts)
    last = index == counts[video] - 1
    ends_s = np.where(last, np.maximum(np.nan_to_num(lengths_s), 0)[video], (index + 1) * segment_s)
    return video, index * segment_s, ends_s


def compute_padding(
    config: AnalyzeConfig, half_window_s: float, video_fps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds that a segment reads before and after its core, so that no answer in it depends on where it
    was cut.

    Both: the model's half window and twice the time of a search more, which is how far apart two of the whole
    picture are. Before, also twice the gap that a track may survive, for the tracks to settle. Two moments on
    top of each.
    """
    moment_s = 1 / np.minimum(video_fps, np.inf if config.every_frame else config.fps)
    gap_s = np.maximum(config.max_gap_s, 1.5 * moment_s)
    after_s = half_window_s + np.maximum(2 * config.search_s, moment_s) + 2 * moment_s
    return after_s + 2 * gap_s, after_s


def plan_segments(
    videos: pa.Table, config: AnalyzeConfig, half_window_s: float, model_id: str, workers: int
) -> pa.Table:
    """Rows of `schema.PROBED_SCHEMA` that are "ok" to rows of `schema.PLAN_SCHEMA`, in order of video and
    time.

    Bundles hold up to `bundle_s` of video, less where there is so little that `workers` would not all have
    some. Same videos, settings, model and workers: same plan. A bundle's id is a hash of its segments and
    of all that its answers depend on.
    """
    videos = videos.filter(pc.equal(videos.column("status"), "ok"))
    video, core_starts_s, core_ends_s = split_into_cores(planned_durations_s(videos), config.segment_s)
    fps = videos.column("fps").fill_null(ASSUMED_MIN_FPS).to_numpy()
    before_s, after_s = compute_padding(config, half_window_s, fps)
    counts = np.bincount(video, minlength=videos.num_rows)
    index = np.arange(len(video)) - (np.cumsum(counts) - counts)[video]
    last = index == counts[video] - 1
    starts_s = np.maximum(core_starts_s - before_s[video], 0)
    ends_s = np.where(last, core_ends_s, core_ends_s + after_s[video])
    named = videos.select(["video_id", "version", "uri", "first_pts", "offset"]).take(pa.array(video))
    ids = _segment_ids(named, index, videos.column("attempt").fill_null(0).to_numpy()[video])
    firsts = _bundles(ends_s - starts_s, config.bundle_s, workers)
    sizes = np.diff(np.append(firsts, len(video)))
    fingerprint = config.fingerprint(model_id)
    bundle_ids = [
        _bundle_id(fingerprint, ids[first : first + size])
        for first, size in zip(firsts.tolist(), sizes.tolist(), strict=True)
    ]
    columns: dict[str, Any] = {
        "segment_id": ids,
        "bundle_id": pa.array(bundle_ids, pa.string()).take(
            pa.array(np.repeat(np.arange(len(sizes)), sizes))
        ),
        "index": index,
        "segments": counts[video],
        "start_s": starts_s,
        "end_s": ends_s,
        "core_start_s": core_starts_s,
        "core_end_s": core_ends_s,
    }
    columns |= {name: named.column(name) for name in named.column_names}
    return pa.table({name: columns[name] for name in PLAN_SCHEMA.names}).cast(PLAN_SCHEMA)


def split_into_bundles(segments: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Planned segments by the bundle that they are in: those of one follow each other."""
    first = 0
    for bundle_id, rows in itertools.groupby(segments.column("bundle_id").to_pylist()):
        count = len(list(rows))
        yield bundle_id, segments.slice(first, count)
        first += count


def _segment_ids(named: pa.Table, index: np.ndarray, attempts: np.ndarray) -> list[str]:
    """`VIDEO/VERSION/NUMBER`, and `.ATTEMPT` where it is not the first."""
    rows = zip(
        named.column("video_id").to_pylist(),
        named.column("version").to_pylist(),
        index.tolist(),
        attempts.tolist(),
        strict=True,
    )
    return [f"{video}/{version}/{number:05d}{f'.{n}' if n else ''}" for video, version, number, n in rows]


def _bundles(lengths_s: np.ndarray, bundle_s: float, workers: int) -> np.ndarray:
    """Where bundles begin in the segments of these lengths."""
    ends_s = np.cumsum(lengths_s)
    total_s = float(ends_s[-1]) if len(ends_s) else 0.0
    budget_s = (
        min(bundle_s, max(total_s / (MIN_BUNDLES_PER_WORKER * workers), 10.0)) + 1e-6
    )  # sums are rounded
    firsts = []
    first, filled_s = 0, 0.0
    while first < len(ends_s):
        firsts.append(first)
        beyond = int(np.searchsorted(ends_s, filled_s + budget_s, side="right"))
        first = min(max(beyond, first + 1), first + MAX_SEGMENTS_PER_BUNDLE)
        filled_s = float(ends_s[first - 1])
    return np.array(firsts, np.int64)


def _bundle_id(fingerprint: str, segment_ids: list[str]) -> str:
    return hashlib.sha256("\n".join([fingerprint, *segment_ids]).encode()).hexdigest()[:16]
