"""What each stage costs on a video, beside bare decoding of the same file in the same run."""

import resource
import statistics
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import InputError
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments, split_into_bundles
from fer_batch.model.recognize import check_checkpoint
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.run.results import write_result
from fer_batch.schema import RESULTS, from_bundle, to_bundle
from fer_batch.storage.media import open_medium
from fer_batch.timing import StageTimer

STAGES = ("decode", "detect", "track", "crop", "encode", "window", "write")


def bare_decoding(path: str | Path, offset: int | None = None) -> StageTimer:
    """Decode a video with FFmpeg's libraries on one thread and throw the frames away: the lap "bare".

    `path` and `offset` are as `open_medium` takes them. Packets that can't be decoded are left out, as they
    are when a video is analyzed.
    """
    timer = StageTimer()
    with av.open(open_medium(path, offset).place, mode="r") as container, suppress(av.FFmpegError):
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                packet.decode()
    timer.record("bare")
    return timer


def bench(
    sources: pa.Table,
    config: AnalyzeConfig,
    runs: int,
    on_video: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> list[dict[str, Any]]:
    """Measure each video in `runs` runs, bare decoding and all stages in turn; medians, a dict a video.

    Everything runs in this process, on one thread of torch, without Ray; "write" is the file of results, in
    a temporary folder. `on_video` gets each video's figures as soon as they are there:

    - `video`, `status`, `seconds`, `width`, `height`, `fps`, `codec`, `runs`, `moments`, `faces` and
      `faces_per_moment`; `error`, what is wrong with a "partial" one
    - `settings`: the configuration, the model by its id
    - `stages`: for each of `STAGES`, "rest" (what lies between them) and "total", `cpu_s` and `wall_s`, both
      per second of video; `bare_decoding` likewise; `ratio`, of the total to bare decoding
    - `peak_memory_bytes`: the largest resident memory of this process so far, with all libraries and the
      videos before.

    Raises InputError, before anything is measured, where a video can't be read.
    """
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = check_checkpoint(checkpoint)
    videos = probe_videos(sources)
    bad = [f"{video['uri']} ({video['error']})" for video in videos.to_pylist() if video["status"] != "ok"]
    if bad:
        raise InputError(f"can't be measured: {'; '.join(bad)}; leave {'them' if len(bad) > 1 else 'it'} out")
    stage = AnalyzeStage(config, card.crop_scale, checkpoint)
    answers = []
    settings = asdict(config) | {"checkpoint": card.model_id}
    for number in range(len(videos)):
        video = videos.slice(number, 1)
        plan = plan_segments(video, config, card.half_window_s, card.model_id, 1)
        figures = _measure(stage, video.to_pylist()[0], plan, runs) | {"settings": settings}
        on_video(figures)
        answers.append(figures)
    return answers


def _measure(stage: AnalyzeStage, video: dict[str, Any], plan: pa.Table, runs: int) -> dict[str, Any]:
    bundles = [to_bundle(bundle_id, rows) for bundle_id, rows in split_into_bundles(plan)]
    stage(to_bundle("warm up", plan.slice(0, 1)))
    ours, bare = [], []
    for _ in range(runs):
        bare.append(bare_decoding(video["uri"], video["offset"]))
        timer, rows = _run(stage, bundles)
        ours.append(timer)
    seconds = max(rows.column("read_s").to_pylist())
    if not seconds:
        raise InputError(f"{video['uri']} can't be measured: {rows.column('error')[0]}")
    moments = pc.list_flatten(rows.column("moments"))
    faces = pc.sum(pc.struct_field(moments, "faces")).as_py() or 0
    stages = {name: _median(ours, name, seconds) for name in (*STAGES, "rest", "total")}
    decoding = _median(bare, "bare", seconds)
    statuses = set(rows.column("status").to_pylist())
    return {
        "video": video["uri"],
        "status": "ok" if statuses == {"ok"} else "partial",
        "error": "; ".join(filter(None, rows.column("error").to_pylist())) or None,
        "seconds": seconds,
        **{name: video[name] for name in ("width", "height", "fps", "codec")},
        "runs": runs,
        "moments": len(moments),
        "faces": faces,
        "faces_per_moment": faces / max(len(moments), 1),
        "stages": stages,
        "bare_decoding": decoding,
        "ratio": {kind: stages["total"][kind] / decoding[kind] for kind in decoding},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _run(stage: AnalyzeStage, bundles: list[pa.Table]) -> tuple[StageTimer, pa.Table]:
    """Take bundles from files to results once; the stages are `STAGES`, "rest" and "total"."""
    timer, total = StageTimer(), StageTimer()
    stage.faces.timer, stage.recognize.recognizer.timer = StageTimer(), StageTimer()
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        total.restart()
        for bundle in bundles:
            answers = stage(bundle)
            timer.restart()
            write_result(Path(folder), answers)
            timer.record("write")
            parts.append(from_bundle(answers, RESULTS))
        total.record("total")
    timer.add(stage.faces.timer)
    timer.add(stage.recognize.recognizer.timer)
    for sums, whole in ((timer.wall_s, total.wall_s), (timer.cpu_s, total.cpu_s)):
        sums["rest"] = whole["total"] - sum(sums[name] for name in STAGES)
    timer.add(total)
    return timer, pa.concat_tables(parts)


def _median(runs: list[StageTimer], name: str, seconds: float) -> dict[str, float]:
    return {
        "cpu_s": statistics.median(timer.cpu_s[name] for timer in runs) / seconds,
        "wall_s": statistics.median(timer.wall_s[name] for timer in runs) / seconds,
    }
