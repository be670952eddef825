"""Planning: videos to segments of up to a minute, and segments to bundles of up to ten minutes."""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA, conform_table

MAX_SEGMENTS_PER_BUNDLE = 64
"""Limit for collections of short clips, so that a thousand clips of a second are several bundles."""
MIN_BUNDLES_PER_WORKER = 16
"""Bundles are smaller for short collections, so that all workers finish at about the same time."""
MIN_BUNDLE_S = 10.0
"""Shortest bundle of a short collection."""
MIN_LAST_SEGMENT_S = 1.0
"""A shorter remainder of a video belongs to the segment before it."""
ASSUMED_MIN_FPS = 5.0
"""Frame rate that is assumed for a video that was not opened before it is planned. Most rates are higher."""
MIN_BYTES_PER_S = 1000.0
"""Least size of a second of video that is planned. Only still pictures without sound take less."""
SEGMENTS_PER_ROUND = 250_000
"""Approximate number of segments that are planned and then processed at a time. It bounds the memory of the
driver."""
MAX_PLANNED_S = 7 * 86_400.0
"""Longest planned part of a video. The last segment reads the rest anyway."""
KEY_MARGIN_S = 1.0
"""Seconds from a key frame to the segment that starts at it. Some indexes hold the time of decoding, which is
earlier than that of display, and the frames after a key frame may refer to some before it."""


def plan_segments(
    videos: pa.Table, config: AnalyzeConfig, half_window_s: float, model_id: str, workers: int
) -> pa.Table:
    """Return the plan of probed videos: rows of `schema.PLAN_SCHEMA` in the order of videos and times.

    `videos` has rows of `schema.PROBED_SCHEMA`. Those whose status is not "ok" are left out. Bundles hold up
    to `config.bundle_s` of video, or less if some of the `workers` would get none. Equal arguments give equal
    plans. A bundle's id is a hash of its segments and of all settings that change its results.

    Where key frames are far apart, segments start at key frames and are longer, because each start decodes
    all frames from the key frame before it. If one gets longer than a bundle, it becomes several segments in
    one bundle, which keeps the decoder open from one to the next.
    """
    videos = videos.filter(pc.equal(videos.column("status"), "ok"))
    fps = videos.column("fps").fill_null(ASSUMED_MIN_FPS).to_numpy()
    before_s, after_s = compute_padding(config, half_window_s, fps)
    durations_s = planned_durations_s(videos)
    cuts = _choose_all_cuts(videos, durations_s, before_s, config)
    cuts_s = {number: times_s for number, (times_s, _) in cuts.items()}
    video, core_starts_s, core_ends_s = split_into_cores(durations_s, config.segment_s, cuts_s)
    counts = np.bincount(video, minlength=videos.num_rows)
    firsts_of_videos = np.cumsum(counts) - counts
    index = np.arange(len(video)) - firsts_of_videos[video]
    is_last = index == counts[video] - 1
    starts_s = np.maximum(core_starts_s - before_s[video], 0)
    ends_s = np.where(is_last, core_ends_s, core_ends_s + after_s[video])
    video_columns = videos.select(["video_id", "version", "uri", "first_pts", "offset"]).take(pa.array(video))
    ids = _segment_ids(video_columns, index, videos.column("attempt").fill_null(0).to_numpy()[video])
    continues = np.zeros(len(video), bool)
    for number, (_, is_far) in cuts.items():
        second = firsts_of_videos[number] + 1
        continues[second : second + len(is_far)] = is_far
    firsts = _bundle_starts(ends_s - starts_s, config.bundle_s, workers)
    firsts = [first for first in firsts if not continues[first]]
    sizes = np.diff(np.append(firsts, len(video)))
    fingerprint = config.fingerprint(model_id)
    bundle_ids: list[str] = []
    for first, size in zip(firsts, sizes.tolist(), strict=True):
        content = "\n".join([fingerprint, *ids[first : first + size]])
        bundle_ids += [hashlib.sha256(content.encode()).hexdigest()[:16]] * size
    columns = {
        "segment_id": ids,
        "bundle_id": bundle_ids,
        "index": index,
        "segments": counts[video],
        "start_s": starts_s,
        "end_s": ends_s,
        "core_start_s": core_starts_s,
        "core_end_s": core_ends_s,
    }
    columns |= dict(zip(video_columns.column_names, video_columns.columns, strict=True))
    return pa.table({name: columns[name] for name in PLAN_SCHEMA.names}).cast(PLAN_SCHEMA)


def split_into_bundles(segments: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the id and the rows of each bundle of a plan."""
    first = 0
    for bundle_id, rows in itertools.groupby(segments.column("bundle_id").to_pylist()):
        count = len(list(rows))
        yield bundle_id, segments.slice(first, count)
        first += count


def probe_as_needed(
    sources: pa.Table, config: AnalyzeConfig, probe: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Return rows of `schema.PROBED_SCHEMA`, sorted by uri, for rows of `schema.SOURCES_SCHEMA`.

    `probe` opens the videos that `select_known` leaves out.
    """
    is_known = select_known(sources, config)
    known = sources.filter(is_known)
    known = conform_table(known.append_column("status", pa.repeat("ok", len(known))), PROBED_SCHEMA)
    return pa.concat_tables([known, probe(sources.filter(pc.invert(is_known)))]).sort_by("uri")


def select_known(sources: pa.Table, config: AnalyzeConfig) -> pa.Array | pa.ChunkedArray:
    """Return for each row of `schema.SOURCES_SCHEMA` whether the video can be planned without opening it.

    It can if a manifest states its duration. With `config.every_frame` no video can, as the frame rate then
    determines the padding of segments.
    """
    if config.every_frame:
        return pa.array(np.zeros(len(sources), bool))
    return pc.and_(sources.column("duration_s").is_valid(), sources.column("error").is_null())


def planned_durations_s(videos: pa.Table) -> np.ndarray:
    """Return the seconds of each video to plan, `(n,) float64`, from rows of `schema.PROBED_SCHEMA`.

    NaN is an unknown duration. Durations are limited by the file's size and by `MAX_PLANNED_S`, as containers
    may state years and manifests may be wrong.
    """
    stated_s = videos.column("duration_s").fill_null(np.nan).to_numpy()
    limits_s = videos.column("size_bytes").to_numpy() / MIN_BYTES_PER_S
    limits_s = np.where(limits_s == 0, np.inf, limits_s)  # stores may not state a file's size
    return np.where(np.isnan(stated_s), np.nan, np.minimum(np.minimum(stated_s, limits_s), MAX_PLANNED_S))


def split_into_cores(
    durations_s: np.ndarray, segment_s: float, cuts_s: Mapping[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the video, the start and the end in seconds of each core, in order.

    The cores of a video tile `[0, duration)`. A video of unknown duration has one empty core. `cuts_s` has
    the starts of the second and later cores of some videos, by their numbers. Cores of other videos are
    `segment_s` long.
    """
    durations_s = np.where(np.isfinite(durations_s), durations_s, np.nan)
    counts = np.ceil((np.nan_to_num(durations_s) - MIN_LAST_SEGMENT_S) / segment_s)
    counts = np.maximum(counts, 1).astype(np.int64)
    counts[~(durations_s > segment_s + MIN_LAST_SEGMENT_S)] = 1
    for number, cuts in cuts_s.items():
        counts[number] = len(cuts) + 1
    firsts = np.cumsum(counts) - counts
    video = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(len(video)) - firsts[video]
    starts_s = index * float(segment_s)
    for number, cuts in cuts_s.items():
        starts_s[firsts[number] + 1 : firsts[number] + counts[number]] = cuts
    is_last = index == counts[video] - 1
    ends_s = np.where(is_last, np.maximum(np.nan_to_num(durations_s), 0)[video], np.roll(starts_s, -1))
    return video, starts_s, ends_s


def _choose_all_cuts(
    videos: pa.Table, durations_s: np.ndarray, before_s: np.ndarray, config: AnalyzeConfig
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return the cuts of each video with distant key frames, and whether they are far from a key frame."""
    cuts = {}
    longest_s = max(config.segment_s, config.bundle_s)
    for number, key_times_s in enumerate(videos.column("key_times_s").to_pylist()):
        if key_times_s is not None:
            candidates_s = np.array(key_times_s) + before_s[number] + KEY_MARGIN_S
            times_s = choose_cuts(candidates_s, durations_s[number], config.segment_s, longest_s)
            cuts[number] = times_s, ~np.isin(times_s, candidates_s)
    return cuts


def choose_cuts(
    candidates_s: np.ndarray, duration_s: float, segment_s: float, longest_s: float
) -> np.ndarray:
    """Return the times at which to cut a video whose good places for cuts are few.

    Of the candidates, which are in order, that leave a part of half a segment or more, the nearest to a whole
    segment is chosen. Where the next one is farther than `longest_s`, the part has this length.
    """
    cuts_s = [0.0]
    while duration_s > cuts_s[-1] + segment_s + MIN_LAST_SEGMENT_S:
        last_s, latest_s = cuts_s[-1], duration_s - MIN_LAST_SEGMENT_S
        allowed_s = candidates_s[(candidates_s >= last_s + segment_s / 2) & (candidates_s <= latest_s)]
        nearest = np.abs(allowed_s - last_s - segment_s).argsort(kind="stable")[:1]
        cut_s = float(allowed_s[nearest[0]]) if len(nearest) else math.inf
        cut_s = min(cut_s, last_s + longest_s)
        if cut_s > latest_s:
            break
        cuts_s.append(cut_s)
    return np.array(cuts_s[1:])


def compute_padding(
    config: AnalyzeConfig, half_window_s: float, video_fps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the padding before and after a core, in seconds, that keeps results independent of the cuts.

    Both have the model's half window and twice the interval of searches, the distance between two searches
    of the whole picture. The padding before has twice the longest gap in a track as well, so that tracks
    agree. Each has two more sampled frames as a margin.
    """
    interval_s = 1 / np.minimum(video_fps, np.inf if config.every_frame else config.fps)
    gap_s = np.maximum(config.max_gap_s, 1.5 * interval_s)
    after_s = half_window_s + np.maximum(2 * config.search_s, interval_s) + 2 * interval_s
    return after_s + 2 * gap_s, after_s


def _segment_ids(videos: pa.Table, index: np.ndarray, attempts: np.ndarray) -> list[str]:
    """Return `VIDEO/VERSION/NUMBER` for each segment, with `.ATTEMPT` from the second attempt on."""
    names = videos.column("video_id").to_pylist(), videos.column("version").to_pylist()
    rows = zip(*names, index.tolist(), attempts.tolist(), strict=True)
    return [f"{video}/{version}/{number:05d}{f'.{n}' if n else ''}" for video, version, number, n in rows]


def _bundle_starts(lengths_s: np.ndarray, bundle_s: float, workers: int) -> list[int]:
    """Return the first segment of each bundle."""
    ends_s = np.cumsum(lengths_s)
    total_s = float(ends_s[-1]) if len(ends_s) else 0.0
    budget_s = min(bundle_s, max(total_s / (MIN_BUNDLES_PER_WORKER * workers), MIN_BUNDLE_S))
    budget_s += 1e-6  # sums are rounded
    firsts = []
    first, filled_s = 0, 0.0
    while first < len(ends_s):
        firsts.append(first)
        beyond = int(np.searchsorted(ends_s, filled_s + budget_s, side="right"))
        first = min(max(beyond, first + 1), first + MAX_SEGMENTS_PER_BUNDLE)
        filled_s = float(ends_s[first - 1])
    return firsts
