"""Measure the cost of each stage on a video, compared with only decoding the same file."""

import resource
import statistics
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import InputError
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments, split_into_bundles
from fer_batch.pipeline.settings import load_card
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.run.results import write_bundle
from fer_batch.schema import RESULTS_SCHEMA, pack_bundle, unpack_bundles
from fer_batch.storage.media import open_media
from fer_batch.timing import StageTimer

STAGES = ("decode", "detect", "track", "crop", "encode", "window", "write")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time of one stage, in seconds per second of video; or the ratio of two such times."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class VideoBenchmark:
    """The measured cost of one video: medians of all runs."""

    video: str
    status: str
    """"ok", or "partial" with the reason in `error`."""
    error: str | None
    seconds: float
    width: int
    height: int
    fps: float
    codec: str
    runs: int
    moments: int
    """Number of sampled frames."""
    faces: int
    faces_per_moment: float
    settings: dict[str, Any]
    """The configuration; `checkpoint` is the id of the model."""
    stages: dict[str, Cost]
    """The cost of each of STAGES, of the "rest" between them, and the "total"."""
    bare_decoding: Cost
    ratio: Cost
    """The total divided by bare decoding."""
    peak_memory_bytes: int
    """Largest resident memory of this process so far, with all libraries and the previous videos."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def benchmark_videos(
    sources: pa.Table,
    config: AnalyzeConfig,
    runs: int,
    on_video: Callable[[VideoBenchmark], None] = lambda result: None,
) -> list[VideoBenchmark]:
    """Measure each video `runs` times: bare decoding and all stages alternate.

    `sources` has the rows of `schema.SOURCES_SCHEMA`. Everything runs in this process, on one thread of
    torch and without Ray; the result file is written to a temporary folder. `on_video` is called with the
    result of each video. Raises InputError, before any measurement, where a video cannot be read.
    """
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = load_card(checkpoint)
    videos = probe_videos(sources)
    bad = [f"{video['uri']} ({video['error']})" for video in videos.to_pylist() if video["status"] != "ok"]
    if bad:
        raise InputError(f"Cannot measure {'; '.join(bad)}: leave {'them' if len(bad) > 1 else 'it'} out")
    stage = AnalyzeStage(config, card.crop_scale, checkpoint)
    settings = asdict(config) | {"checkpoint": card.model_id}
    results = []
    for number in range(len(videos)):
        video = videos.slice(number, 1)
        plan = plan_segments(video, config, card.half_window_s, card.model_id, 1)
        result = _measure(stage, video.to_pylist()[0], plan, runs, settings)
        on_video(result)
        results.append(result)
    return results


def decode_bare(path: str | Path, offset: int | None = None) -> StageTimer:
    """Decode a video with FFmpeg's libraries on one thread, discard the frames, and time it as "bare".

    `path` and `offset` are those of `open_media`. Packets that cannot be decoded are skipped, as in an
    analysis.
    """
    timer = StageTimer()
    with av.open(open_media(path, offset).source, mode="r") as container, suppress(av.FFmpegError):
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                packet.decode()
    timer.record("bare")
    return timer


def _measure(
    stage: AnalyzeStage, video: dict[str, Any], plan: pa.Table, runs: int, settings: dict[str, Any]
) -> VideoBenchmark:
    bundles = [pack_bundle(bundle_id, rows) for bundle_id, rows in split_into_bundles(plan)]
    stage(pack_bundle("warm up", plan.slice(0, 1)))
    staged, bare = [], []
    for _ in range(runs):
        bare.append(decode_bare(video["uri"], video["offset"]))
        timer, rows = _run_stages(stage, bundles)
        staged.append(timer)
    seconds = max(rows.column("read_s").to_pylist())
    if not seconds:
        raise InputError(f"Cannot measure {video['uri']}: {rows.column('error')[0]}")
    moments = pc.list_flatten(rows.column("moments"))
    faces = pc.sum(pc.struct_field(moments, "faces")).as_py() or 0
    stages = {name: _median_cost(staged, name, seconds) for name in (*STAGES, "rest", "total")}
    total, decoding = stages["total"], _median_cost(bare, "bare", seconds)
    return VideoBenchmark(
        video=video["uri"],
        status="ok" if set(rows.column("status").to_pylist()) == {"ok"} else "partial",
        error="; ".join(filter(None, rows.column("error").to_pylist())) or None,
        seconds=seconds,
        width=video["width"],
        height=video["height"],
        fps=video["fps"],
        codec=video["codec"],
        runs=runs,
        moments=len(moments),
        faces=faces,
        faces_per_moment=faces / max(len(moments), 1),
        settings=settings,
        stages=stages,
        bare_decoding=decoding,
        ratio=Cost(cpu_s=total.cpu_s / decoding.cpu_s, wall_s=total.wall_s / decoding.wall_s),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _run_stages(stage: AnalyzeStage, bundles: list[pa.Table]) -> tuple[StageTimer, pa.Table]:
    """Run bundles through all stages once and time STAGES, "rest" and "total"; return the rows of RESULTS."""
    timer, total = StageTimer(), StageTimer()
    stage.timer, stage.recognize.recognizer.timer = StageTimer(), StageTimer()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        total.restart()
        for bundle in bundles:
            result = stage(bundle)
            timer.restart()
            write_bundle(Path(folder), result)
            timer.record("write")
            results.append(unpack_bundles(result, RESULTS_SCHEMA))
        total.record("total")
    timer.add(stage.timer)
    timer.add(stage.recognize.recognizer.timer)
    for sums, whole in ((timer.wall_s, total.wall_s), (timer.cpu_s, total.cpu_s)):
        sums["rest"] = whole["total"] - sum(sums[name] for name in STAGES)
    timer.add(total)
    return timer, pa.concat_tables(results)


def _median_cost(runs: list[StageTimer], name: str, seconds: float) -> Cost:
    return Cost(
        cpu_s=statistics.median(timer.cpu_s[name] for timer in runs) / seconds,
        wall_s=statistics.median(timer.wall_s[name] for timer in runs) / seconds,
    )
