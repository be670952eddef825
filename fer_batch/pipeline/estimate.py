"""What a run would be, before there is one: how much video, in how many parts, and about how long."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import Listing, list_videos
from fer_batch.inputs.segments import plan_segments, planned_durations_s, probe_as_needed
from fer_batch.model.weights import Card
from fer_batch.pipeline.guard import GuardedProbe
from fer_batch.schema import PROBED
from fer_batch.storage.stores import BLOCK

BASE_MS, MEGAPIXEL_MS = 55.0, 32.0
"""CPU time of a second of video at five moments a second, and of each megapixel of its frames more: fitted to
the table of figures in README."""
DECODING = 0.5
"""The share of it that does not grow with the number of moments."""
EXTRA_BLOCKS = 2
"""Read of a file in a store beside what is looked at: its index, and what was fetched ahead."""
USUAL_BYTES_S = 400_000.0
"""Of a second of video whose size nobody has told: 3 Mbit."""
START_S = 20.0
"""Until the first worker is at work."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What is listed, and what would be planned of it."""

    listing: Listing
    videos: pa.Table
    """Rows of `schema.PROBED`."""
    segments: pa.Table
    """Rows of `schema.PLAN`."""
    video_s: float
    """Seconds of all videos whose length is known."""
    cpu_s: float
    """CPU time that looking at them takes, about."""
    longest_s: float
    """That of the bundle that takes longest: no number of workers is faster."""
    store_requests: int
    """What stores are asked, about, where videos lie in some: to probe those of unknown length, and to look
    at all."""
    store_bytes: int
    """What they answer, about."""


def preview(
    inputs: Sequence[str],
    config: AnalyzeConfig,
    card: Card,
    workers: int,
    cpu_ms: float | None = None,
    limits: Limits | None = None,
) -> Preview:
    """List, probe and plan videos for so many workers, on this machine alone, and write nothing.

    `cpu_ms` is the CPU time of a second of video, in milliseconds; None to estimate it from the size of
    frames. Raises InputError as `list_videos`.
    """
    listing = list_videos(inputs)
    videos = probe_as_needed(
        listing.sources, config, lambda unknown: _probe_here(unknown, limits or Limits())
    )
    segments = plan_segments(videos, config, card.half_window_s, card.model_id, workers)
    lengths_s = np.nan_to_num(planned_durations_s(videos))
    cost_ms = np.full(len(videos), cpu_ms) if cpu_ms is not None else _cpu_ms(videos, config)
    place = pc.index_in(segments.column("video_id"), videos.column("video_id").combine_chunks()).to_numpy()
    spans_s = pc.subtract(segments.column("end_s"), segments.column("start_s")).to_numpy()
    costs_s = spans_s * cost_ms[place] / 1000 if len(segments) else np.zeros(0)
    requests, answered = _from_stores(videos, segments)
    by_bundle = pa.table({"bundle": segments.column("bundle_id"), "s": costs_s}).group_by("bundle")
    return Preview(
        listing=listing,
        videos=videos,
        segments=segments,
        video_s=float(lengths_s.sum()),
        cpu_s=float(costs_s.sum()),
        longest_s=float(pc.max(by_bundle.aggregate([("s", "sum")]).column("s_sum")).as_py() or 0.0),
        store_requests=requests,
        store_bytes=answered,
    )


def _from_stores(videos: pa.Table, segments: pa.Table) -> tuple[int, int]:
    """Requests and bytes that reading videos in stores takes: of each file its index, and what is looked at,
    in blocks; a file is opened once for each bundle that has a part of it.
    """
    here = pc.match_substring_regex(videos.column("uri"), r"^(/|file://)")
    videos = videos.filter(pc.and_(pc.invert(here), pc.equal(videos.column("status"), "ok")))
    sizes = videos.column("size_bytes").to_numpy().astype(np.float64)
    sizes = np.where(sizes > 0, sizes, np.nan_to_num(planned_durations_s(videos)) * USUAL_BYTES_S)
    head = np.minimum(sizes, EXTRA_BLOCKS * BLOCK)
    probed = head[videos.column("codec").is_valid().to_numpy()]
    opened = segments.group_by(["video_id", "bundle_id"]).aggregate([("start_s", "min"), ("end_s", "max")])
    place = pc.index_in(opened.column("video_id"), videos.column("video_id").combine_chunks())
    opened, place = opened.filter(place.is_valid()), place.drop_null().to_numpy()
    spans_s = pc.subtract(opened.column("end_s_max"), opened.column("start_s_min")).to_numpy()
    lengths_s = np.maximum(np.nan_to_num(planned_durations_s(videos)), 1e-9)[place]
    read = np.minimum(sizes[place] * np.minimum(spans_s / lengths_s, 1) + head[place], sizes[place] * 1.2)
    read = np.where(spans_s > 0, read, sizes[place])
    requests = sum(float(np.sum(1 + np.ceil(part / BLOCK))) for part in (probed, read))
    return round(requests), round(float(probed.sum() + read.sum()))


def duration_s(found: Preview, workers: int) -> float:
    """Seconds that a run takes with so many workers, about."""
    return START_S + max(found.cpu_s / workers, found.longest_s)


def _probe_here(sources: pa.Table, limits: Limits) -> pa.Table:
    """As `archive.probe.probe_videos`, in guarded processes of this machine, one a core."""

    def probed(part: pa.Table) -> pa.Table:
        probe = GuardedProbe(limits)
        try:
            return probe(part)
        finally:
            probe.child.close()

    each = max(math.ceil(len(sources) / (os.cpu_count() or 1)), 1)
    parts = [sources.slice(first, each) for first in range(0, len(sources), each)]
    with ThreadPoolExecutor() as threads:
        return pa.concat_tables([PROBED.empty_table(), *threads.map(probed, parts)])


def _cpu_ms(videos: pa.Table, config: AnalyzeConfig) -> np.ndarray:
    """CPU milliseconds of a second of each video, `(n,) float64`; what was not opened is taken for 1080p."""
    width, height = (videos.column(name).cast(pa.float64()) for name in ("width", "height"))
    pixels = pc.multiply(width, height)
    at_five = BASE_MS + MEGAPIXEL_MS * pixels.fill_null(1920 * 1080).to_numpy() / 1e6
    rate = videos.column("fps").fill_null(25.0).to_numpy() if config.every_frame else config.fps
    return np.asarray(at_five * (DECODING + (1 - DECODING) * rate / 5), np.float64)
