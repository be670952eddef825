"""Estimate a run before it starts: the amount of video, the number of segments, the time and the requests."""

import heapq
import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.segments import SEGMENTS_PER_ROUND, plan_segments, planned_durations_s, probe_as_needed
from fer_batch.model.card import Card
from fer_batch.pipeline.guard import GuardedProbe, list_videos_guarded
from fer_batch.schema import PROBED_SCHEMA
from fer_batch.storage.stores import BLOCK_BYTES

BASE_COST_MS, MEGAPIXEL_COST_MS = 55.0, 32.0
"""CPU time of a second of video at five sampled frames a second: a constant, and a part for each megapixel of
a frame. Both are fitted to the measurements in `docs/benchmarks.md`."""
FIXED_SHARE = 0.5
"""Share of that time that does not depend on the number of sampled frames."""
ASSUMED_PIXELS, ASSUMED_FPS = 1920 * 1080, 25.0
"""Frame size and frame rate of a video that was not opened."""
ASSUMED_BYTES_PER_S = 400_000.0
"""Bytes of a second of video whose file size is unknown: 3 Mbit."""
EXTRA_BLOCKS = 2
"""Blocks that are read of each file in a store besides the segments: its index, and read-ahead."""
START_S = 20.0
"""Time from the start of a round until its workers are ready."""


@dataclass(frozen=True, kw_only=True)
class NodesEstimate:
    """The duration of a run on a number of nodes."""

    nodes: int
    cores: int
    """Cores of all nodes."""
    hours: float
    cost: float | None
    """None if the price of a node is unknown."""


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """The amount of video of a run, and its estimated cost."""

    videos: int
    statuses: dict[str, int]
    """Number of videos by status. Those with the status "ok" are analyzed."""
    unknown_length: int
    skipped_files: int
    """Files in the inputs that are no videos."""
    hours: float
    """Length of all videos whose length is known."""
    bytes: int
    segments: int
    bundles: int
    cpu_hours: float
    store_requests: int
    """Requests to stores, for probing and for reading."""
    store_bytes: int
    """Bytes that stores send."""
    nodes: list[NodesEstimate]
    failures: list[tuple[str, str, str]]
    """Status, address and error of each video that cannot be analyzed."""


def estimate_run(
    inputs: Sequence[str],
    config: AnalyzeConfig,
    card: Card,
    nodes: Sequence[int],
    cores: int,
    *,
    price: float | None = None,
    cpu_ms: float | None = None,
    allow_query: bool = False,
) -> RunEstimate:
    """List, probe and plan videos on this machine, write nothing, and estimate the cost.

    The duration is estimated for each number of nodes, which have `cores` cores each. `price` is that of a
    node for an hour. `cpu_ms` is the CPU time of a second of video in milliseconds; None estimates it from
    the size of the frames. `allow_query` is that of `list_videos`. Raises InputError as `list_videos` does.
    """
    listing = list_videos_guarded(inputs, Limits(), allow_query=allow_query)
    videos = probe_as_needed(listing.sources, config, _probe_locally)
    segments = plan_segments(videos, config, card.half_window_s, card.model_id, max(nodes) * cores)
    costs_ms = _costs_ms(videos, config) if cpu_ms is None else np.full(len(videos), cpu_ms)
    owner = pc.index_in(segments.column("video_id"), videos.column("video_id").combine_chunks()).to_numpy()
    lengths_s = pc.subtract(segments.column("end_s"), segments.column("start_s")).to_numpy()
    costs_s = lengths_s * costs_ms[owner] / 1000 if len(segments) else np.zeros(0)
    bundles = pa.table({"bundle": segments.column("bundle_id"), "cost_s": costs_s}).group_by("bundle")
    bundle_costs_s = bundles.aggregate([("cost_s", "sum")]).column("cost_s_sum").to_numpy()
    cpu_s, rounds = float(costs_s.sum()), math.ceil(len(segments) / SEGMENTS_PER_ROUND)
    hours = {count: estimate_wall_s(bundle_costs_s, count * cores, rounds) / 3600 for count in nodes}
    is_ok = pc.equal(videos.column("status"), "ok")
    failed = videos.filter(pc.invert(is_ok)).select(["status", "uri", "error"])
    store_requests, store_bytes = _estimate_store_reads(videos, segments)
    return RunEstimate(
        videos=len(videos),
        statuses=dict(Counter(videos.column("status").to_pylist())),
        unknown_length=videos.filter(is_ok).column("duration_s").null_count,
        skipped_files=listing.skipped,
        hours=float(np.nan_to_num(planned_durations_s(videos)).sum()) / 3600,
        bytes=sum(videos.column("size_bytes").to_pylist()),
        segments=len(segments),
        bundles=len(bundle_costs_s),
        cpu_hours=cpu_s / 3600,
        store_requests=store_requests,
        store_bytes=store_bytes,
        nodes=[
            NodesEstimate(
                nodes=count,
                cores=count * cores,
                hours=hours[count],
                cost=price and hours[count] * count * price,
            )
            for count in nodes
        ],
        failures=[tuple(row.values()) for row in failed.to_pylist()],
    )


def estimate_wall_s(bundle_costs_s: np.ndarray, workers: int, rounds: int) -> float:
    """Estimate the wall time of bundles, `(bundles,) float64` CPU seconds, in their order.

    Each worker takes the next bundle when it is free. So in the end some wait for the last bundles, and more
    workers than bundles are of no use. A round starts its workers, and when all of its bundles are done.
    """
    wall_s = 0.0
    for costs_s in np.array_split(bundle_costs_s, rounds) if rounds else ():
        free_s = [0.0] * min(workers, len(costs_s))
        for cost_s in costs_s.tolist():
            heapq.heapreplace(free_s, free_s[0] + cost_s)
        wall_s += START_S + max(free_s, default=0.0)
    return wall_s


def _probe_locally(sources: pa.Table) -> pa.Table:
    """Probe files in guarded processes of this machine, one for each core."""

    def probe_part(part: pa.Table) -> pa.Table:
        with GuardedProbe(Limits()) as probe:
            return probe(part)

    size = max(math.ceil(len(sources) / (os.cpu_count() or 1)), 1)
    parts = [sources.slice(first, size) for first in range(0, len(sources), size)]
    with ThreadPoolExecutor() as threads:
        return pa.concat_tables([PROBED_SCHEMA.empty_table(), *threads.map(probe_part, parts)])


def _costs_ms(videos: pa.Table, config: AnalyzeConfig) -> np.ndarray:
    """Estimate the CPU milliseconds of a second of each video, `(n,) float64`."""
    width, height = (videos.column(name).cast(pa.float64()) for name in ("width", "height"))
    pixels = pc.multiply(width, height).fill_null(ASSUMED_PIXELS).to_numpy()
    at_5_fps = BASE_COST_MS + MEGAPIXEL_COST_MS * pixels / 1e6
    rate = videos.column("fps").fill_null(ASSUMED_FPS).to_numpy() if config.every_frame else config.fps
    return np.asarray(at_5_fps * (FIXED_SHARE + (1 - FIXED_SHARE) * rate / 5), np.float64)


def _estimate_store_reads(videos: pa.Table, segments: pa.Table) -> tuple[int, int]:
    """Estimate the requests and bytes for the videos in stores.

    A file is opened once for each bundle with a segment of it. Each time its index and the segments are read,
    in blocks.
    """
    is_local = pc.match_substring_regex(videos.column("uri"), r"^(/|file://)")
    videos = videos.filter(pc.and_(pc.invert(is_local), pc.equal(videos.column("status"), "ok")))
    video_s = np.nan_to_num(planned_durations_s(videos))
    sizes = videos.column("size_bytes").to_numpy().astype(np.float64)
    sizes = np.where(sizes > 0, sizes, video_s * ASSUMED_BYTES_PER_S)
    index_bytes = np.minimum(sizes, EXTRA_BLOCKS * BLOCK_BYTES)
    probe_bytes = index_bytes[videos.column("codec").is_valid().to_numpy()]

    opened = segments.group_by(["video_id", "bundle_id"]).aggregate([("start_s", "min"), ("end_s", "max")])
    owner = pc.index_in(opened.column("video_id"), videos.column("video_id").combine_chunks())
    opened, owner = opened.filter(owner.is_valid()), owner.drop_null().to_numpy()
    lengths_s = pc.subtract(opened.column("end_s_max"), opened.column("start_s_min")).to_numpy()
    shares = np.minimum(lengths_s / np.maximum(video_s, 1e-9)[owner], 1)
    read_bytes = np.minimum(sizes[owner] * shares + index_bytes[owner], sizes[owner] * 1.2)
    read_bytes = np.where(lengths_s > 0, read_bytes, sizes[owner])

    requests = sum(float(np.sum(1 + np.ceil(part / BLOCK_BYTES))) for part in (probe_bytes, read_bytes))
    return round(requests), round(float(probe_bytes.sum() + read_bytes.sum()))
