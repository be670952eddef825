"""Measure the speed and compare it with alternatives: interleaved runs, medians.

python tests/benchmarks/speed.py --out DIR [ROW...] [--runs 5] [--all] [--videos FOLDER]

Without names it measures the rows that take a few minutes; --all measures every row (one or two hours, 4 GB
of disk). DIR/media gets the videos, made of ../shared/media/clean or of the packaged sample. DIR/speed.json
keeps the latest result of each row, and DIR/speed.png shows all.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from media import CLEAN, clip, copies, enlarged, kept, repeated

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.bench import benchmark_videos
from fer_batch.pipeline.child import WorkerProcess
from fer_batch.pipeline.guard import GuardedStage
from fer_batch.pipeline.stages import AnalyzeStage, FacesStage
from fer_batch.run.results import write_bundle
from fer_batch.runtime import ray_session
from fer_batch.schema import (
    EMOTIONS,
    FACES_SCHEMA,
    MOMENTS_SCHEMA,
    PLAN_SCHEMA,
    SCHEMA_VERSION,
    VIDEOS_SCHEMA,
    conform_table,
    pack_bundle,
    probability_column,
    tracks_schema,
    unpack_bundles,
)
from fer_batch.timeline.store import open_timeline
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment

CARD = load_checkpoint()[1]
SAME_FACE_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Where:
    """The inputs of all rows."""

    media: Path
    """Folder of the created videos."""
    videos: Path
    """Folder of real videos for the recall."""
    runs: int


Figures = dict[str, Any]
"""The `value` of a row, and details."""


def hd(where: Where) -> Figures:
    """CPU time relative to bare decoding, one face."""
    return over_bare(where, enlarged(where.media, clip("woman_pexels.mp4"), 1080, 20))


def hd_two(where: Where) -> Figures:
    """CPU time relative to bare decoding, two faces."""
    return over_bare(where, enlarged(where.media, clip("heads_female-and-male.mp4"), 1080, 20))


def p720(where: Where) -> Figures:
    """CPU time relative to bare decoding, one face."""
    return over_bare(where, enlarged(where.media, clip("woman_pexels.mp4"), 720, 20))


def hd_fast(where: Where) -> Figures:
    """CPU time with --fast relative to bare decoding of all frames; x264's preset medium."""
    video = enlarged(where.media, clip("woman_pexels.mp4"), 1080, 20, preset="medium", bframes=3)
    return over_bare(where, video, fast="nonref")


def p360(where: Where) -> Figures:
    """CPU milliseconds for a sampled frame with decoding, one face."""
    figures = over_bare(where, clip("woman_pexels.mp4"))
    cpu_s = figures["stages"]["total"]["cpu_s"] * figures["seconds"]
    return figures | {"value": 1000 * cpu_s / figures["moments"]}


def over_bare(where: Where, video: Path, **settings: Any) -> Figures:
    """Benchmark one video; the value is the ratio of CPU time to bare decoding."""
    (result,) = benchmark_videos(list_videos([str(video)]).sources, AnalyzeConfig(**settings), where.runs)
    return result.to_dict() | {"value": result.ratio.cpu_s}


def crowd(where: Where) -> Figures:
    """CPU time of `MTCNN.detect` on each sampled frame relative to our detection; faces from 40 px."""
    video = clip("crowd_1080p.mp4")
    frames, height = rgb_samples(video), av.open(str(video)).streams.video[0].height
    plain = mtcnn(40)
    config = AnalyzeConfig(min_face=40 / height)
    stage, bundle = FacesStage(config, CARD.crop_scale), whole(video, config)
    ours, theirs, found = [], [], 0
    stage(bundle)
    for _ in range(where.runs):
        began, before = time.process_time(), stage.timer.cpu_s["detect"]
        rows = unpack_bundles(stage(bundle), FACES_SCHEMA)
        ours.append((stage.timer.cpu_s["detect"] - before, time.process_time() - began))
        began = time.process_time()
        found = sum(len(detected(plain, image)[0]) for image in frames.values())
        theirs.append(time.process_time() - began)
    detect, total = (statistics.median(column) for column in zip(*ours, strict=True))
    plain_s = statistics.median(theirs)
    return {
        "value": plain_s / detect,
        "over_all_of_ours": plain_s / total,
        "ms_a_moment": {"plain": 1000 * plain_s / len(frames), "detect": 1000 * detect / len(frames)},
        "moments": len(frames),
        "faces": {"plain": found, "ours": len(pc.list_flatten(rows.column("faces")))},
    }


def recall(where: Where) -> Figures:
    """Share of the faces of facenet-pytorch's MTCNN that our detector also finds, at IoU 0.5.

    MTCNN has its default thresholds, runs on every sampled frame, and detects faces from 5 % of the height.
    """
    config = AnalyzeConfig()
    stage = FacesStage(config, CARD.crop_scale)
    videos = {}
    for uri in list_videos([str(where.videos)]).sources.column("uri").to_pylist():
        video = Path(uri)
        faces = pc.list_flatten(unpack_bundles(stage(whole(video, config)), FACES_SCHEMA).column("faces"))
        ours: dict[int, list[list[float]]] = {}
        for face in faces.to_pylist():
            ours.setdefault(face["frame_index"], []).append(
                [face[f"box_{k}"] for k in ("x0", "y0", "x1", "y1")]
            )
        plain, counts = None, dict.fromkeys(("theirs", "sure", "ours", "both", "both_sure"), 0)
        ious: list[float] = []
        for index, image in rgb_samples(video).items():
            height, width = image.shape[:2]
            plain = plain or mtcnn(0.05 * height)
            boxes, scores = detected(plain, image)
            mine = np.array(ours.get(index, []), float).reshape(-1, 4) * [width, height, width, height]
            shared = pairs(boxes, mine)
            counts["theirs"] += len(boxes)
            counts["sure"] += int((scores >= config.min_score).sum())
            counts["ours"] += len(mine)
            counts["both"] += len(shared)
            counts["both_sure"] += sum(bool(scores[i] >= config.min_score) for i, _ in shared)
            ious += shared.values()
        videos[video.name] = counts | {"iou": float(np.mean(ious)) if ious else None, "ious": ious}
    ious = [iou for one in videos.values() for iou in one.pop("ious")]
    sums = {
        name: sum(one[name] for one in videos.values())
        for name in ("theirs", "sure", "ours", "both", "both_sure")
    }
    return {
        "value": sums["both"] / sums["theirs"],
        "precision": sums["both"] / sums["ours"],
        "mean_iou": float(np.mean(ious)),
        "recall_of_sure": sums["both_sure"] / sums["sure"],
        "faces": sums,
        "videos": videos,
    }


def workers(where: Where) -> Figures:
    """Wall time of one worker relative to two, with their start; 40 clips."""
    folder = copies(where.media, clip("woman_pexels.mp4"), 40)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(where.runs):
        for cpus, runs in seconds.items():
            with ray_session(num_cpus=cpus), tempfile.TemporaryDirectory() as out:
                runs.append(analyzed(folder, Path(out))[0])
    one, two = (statistics.median(runs) for runs in seconds.values())
    return {"value": one / two, "seconds": {"one": one, "two": two}}


def nodes(where: Where) -> Figures:
    """Wall time of one node relative to two, with one CPU each; 40 clips of a minute."""
    folder = copies(where.media, repeated(where.media, clip("woman_pexels.mp4"), seconds=55), 40)
    command = [sys.executable, str(Path(__file__).with_name("nodes.py"))]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(where.runs):
        for count, runs in seconds.items():
            ended = subprocess.run([*command, str(count), str(folder)], capture_output=True, check=True)
            runs.append(float(ended.stdout.split()[-1]))
    one, two = (statistics.median(runs) for runs in seconds.values())
    return {"value": one / two, "seconds": {"one": seconds[1], "two": seconds[2]}}


def actor(where: Where) -> Figures:
    """CPU time of 10 minutes of video on one actor, with all of Ray, relative to the same stages here.

    The start of the actor is excluded: the time is the difference between 20 and 10 minutes of video.
    """
    video = clip("woman_pexels.mp4")
    config = AnalyzeConfig()
    folders = [repeated(where.media / f"{n}", video, seconds=600) for n in range(2)]
    stage = AnalyzeStage(config, CARD.crop_scale, None)
    stage(whole(video, config))
    ours, theirs = [], []
    for _ in range(where.runs):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as results:
            for bundle in bundles(folders[0], config):
                write_bundle(Path(results), stage(bundle))
        ours.append(time.process_time() - began)
        costs = []
        for inputs in (folders[:1], folders):
            with tree_cpu() as spent, ray_session(num_cpus=1), tempfile.TemporaryDirectory() as out:
                analyzed(inputs, Path(out))
            costs.append(spent())
        theirs.append(costs[1] - costs[0])
    return {
        "value": statistics.median(theirs) / statistics.median(ours),
        "cpu_s": {"actor": theirs, "here": ours},
    }


def start(where: Where) -> Figures:
    """Seconds from the command to the first result file, with warm files."""
    folder = copies(where.media, clip("woman_pexels.mp4"), 40)
    seconds = []
    for _ in range(where.runs):
        with tempfile.TemporaryDirectory() as out:
            command = [
                sys.executable,
                "-m",
                "fer_batch.cli.main",
                "analyze",
                str(folder),
                "--out",
                f"{out}/run",
            ]
            began = time.monotonic()
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
                while not list(Path(out).glob("run/results/[!.]*.parquet")) and run.poll() is None:
                    time.sleep(0.05)
                seconds.append(time.monotonic() - began)
                run.terminate()
    return {"value": statistics.median(seconds), "seconds": seconds}


def memory(where: Where) -> Figures:
    """Peak memory in GB of a worker and its guarded process for an hour of 1080p, and its growth."""
    video = repeated(where.media, enlarged(where.media, clip("woman_pexels.mp4"), 1080, 20), seconds=3600)
    pq.write_table(plan(video, AnalyzeConfig()), planned := where.media / "hour.parquet")
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(planned), str(CARD.crop_scale)]
    peaks = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {
        "value": peaks[-1] / 1e9,
        "peak_bytes_after_each_bundle": peaks,
        "growth_bytes": peaks[-1] - peaks[0],
    }


def guard(where: Where) -> Figures:
    """CPU time of the stages in a guarded process, with both processes, relative to this process."""
    config = AnalyzeConfig()
    bundle = whole(enlarged(where.media, clip("woman_pexels.mp4"), 720, 20), config)
    arguments = (config, CARD.crop_scale, None)
    plain, guarded = AnalyzeStage(*arguments), GuardedStage("AnalyzeStage", arguments, Limits())
    plain(bundle)
    guarded(bundle)
    ours, theirs = [], []
    for _ in range(where.runs):
        began = time.process_time()
        plain(bundle)
        ours.append(time.process_time() - began)
        began, before = time.process_time(), _cpu_s(guarded.child)
        guarded(bundle)
        theirs.append(time.process_time() - began + _cpu_s(guarded.child) - before)
    guarded.child.close()
    return {
        "value": statistics.median(theirs) / statistics.median(ours),
        "cpu_s": {"guarded": theirs, "here": ours},
    }


def _cpu_s(child: WorkerProcess) -> float:
    assert child.process is not None
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def short_clips(where: Where) -> Figures:
    """Speed of 300 clips of 3 s relative to one video of this length; two workers, Ray already running."""
    clips = copies(where.media, enlarged(where.media, clip("woman_pexels.mp4"), 360, 3), 300)
    long = repeated(where.media, enlarged(where.media, clip("woman_pexels.mp4"), 360, 20), seconds=900)
    rates: dict[str, list[float]] = {"clips": [], "long": []}
    with ray_session(num_cpus=2):
        for _ in range(where.runs):
            for name, inputs in (("clips", clips), ("long", long)):
                with tempfile.TemporaryDirectory() as out:
                    wall_s, video_s = analyzed(inputs, Path(out))
                rates[name].append(video_s / wall_s)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"value": medians["clips"] / medians["long"], "times_realtime": medians}


def bytes_read(where: Where) -> Figures:
    """Bytes read for all segments of a file of 1 GB, relative to its size."""
    video = repeated(where.media, clip("crowd_1080p.mp4"), size_bytes=10**9)
    config = AnalyzeConfig()
    before = _rchar()
    count = 0
    for segment in Segment.from_table(plan(video, config)):
        count += sum(1 for _ in SegmentReader(segment, config.fps))
    read, size = _rchar() - before, video.stat().st_size
    return {"value": read / size, "read_bytes": read, "file_bytes": size, "moments": count}


def _rchar() -> int:
    """Return the bytes that this process has read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


def query(where: Where) -> Figures:
    """Seconds for the shares of 1,000 videos, from 10 million rows of `tracks`."""
    timeline = open_timeline(kept(where.media / "ten_million", ten_million_rows))
    shares = """
        SELECT video_id, emotion, count(*) / sum(count(*)) OVER (PARTITION BY video_id) AS share
        FROM tracks GROUP BY video_id, emotion"""
    return time_queries({"shares": lambda: timeline.sql(shares)}, where.runs)


def run_queries(where: Where) -> Figures:
    """Seconds of the slowest query over all of 10 million rows of `tracks`."""
    timeline = open_timeline(kept(where.media / "ten_million", ten_million_rows))
    events = pa.table({"video": [f"{v:016x}" for v in range(1000)], "start_s": [10.0] * 1000})
    events = events.append_column("end_s", pa.array([70.0] * 1000))
    return time_queries(
        {
            "shares": lambda: timeline.shares(by=[]),
            "shares by video": timeline.shares,
            "shares by minute": lambda: timeline.shares(every_s=60),
            "episodes": timeline.episodes,
            "peaks": timeline.peaks,
            "peaks of happy": lambda: timeline.peaks("happy"),
            "turning points": timeline.turning_points,
            "co-occurrence": timeline.co_occurrence,
            "co-occurrence by pair": lambda: timeline.co_occurrence(by="pair"),
            "baseline": timeline.baseline,
            "baseline of a video": lambda: timeline.baseline(video=f"{1:016x}"),
            "smooth": timeline.smooth,
            "smooth of a video": lambda: timeline.smooth(video=f"{1:016x}"),
            "resample": timeline.resample,
            "resample by track": lambda: timeline.resample(by="track"),
            "join": lambda: timeline.join_events(events),
            "summary": lambda: timeline.sql("FROM summary"),
        },
        where.runs,
    )


def overlaid(where: Where) -> Figures:
    """Seconds of 720p video with two faces that the overlay draws in one second."""
    video = enlarged(where.media, clip("heads_female-and-male.mp4"), 720, 20)
    clocks, cpus = [], []
    with tempfile.TemporaryDirectory() as folder:
        with ray_session(num_cpus=2):
            analyzed(video, Path(folder))
        timeline = open_timeline(Path(folder) / "run")
        for _ in range(where.runs):
            began, before = time.perf_counter(), time.process_time()
            done = timeline.write_overlay(video.name, Path(folder) / "annotated.mp4")
            clocks.append(time.perf_counter() - began)
            cpus.append(time.process_time() - before)
    length_s = done.frames / 25
    return {
        "value": length_s / statistics.median(clocks),
        "seconds": clocks,
        "cpu_ms_a_frame": 1000 * statistics.median(cpus) / done.frames,
    }


def time_queries(relations: dict[str, Callable[[], Any]], runs: int) -> Figures:
    """Return the seconds of the slowest query until all its rows are read, after one warm-up."""
    seconds: dict[str, float] = {}
    rows = {}
    for name, relation in relations.items():
        took = []
        for _ in range(runs + 1):
            began = time.perf_counter()
            rows[name] = len(relation().to_arrow_table())
            took.append(time.perf_counter() - began)
        seconds[name] = statistics.median(took[1:])
        print(f"  {name}: {seconds[name]:.2f} s, {rows[name]:,} rows", flush=True)
    return {"value": max(seconds.values()), "seconds": seconds, "rows": rows}


def ten_million_rows(out: Path) -> None:
    """Write tables as `finalize` does: 1,000 videos with 1,000 sampled frames of 10 faces, in 8 buckets."""
    from deltalake import DeltaTable, write_deltalake

    from fer_batch.run.snapshot import write_snapshot

    rng, schema = np.random.default_rng(0), tracks_schema(EMOTIONS)
    tables = {
        name: DeltaTable.create(str(out / name), kind, mode="ignore", partition_by=["bucket"])
        for name, kind in (("tracks", schema), ("moments", MOMENTS_SCHEMA), ("videos", VIDEOS_SCHEMA))
    }
    for bucket in range(8):
        videos = np.repeat([f"{v:016x}" for v in range(bucket, 1000, 8)], 10_000)
        n = len(videos)
        probs = rng.dirichlet(np.full(len(EMOTIONS), 0.3), n).astype(np.float32)
        track = np.tile(np.repeat(np.arange(10), 1000), n // 10_000)
        known = {
            "video_id": videos,
            "uri": np.char.add(np.char.add("/archive/talks/", videos), ".mp4"),
            "track_id": track,
            "time_s": np.tile(np.arange(1000) / 5, n // 1000),
            "frame_index": np.tile(np.arange(1000) * 5, n // 1000),
            "emotion": np.array(EMOTIONS)[probs.argmax(1)],
            "confidence": probs.max(1),
            **{probability_column(name): probs[:, k] for k, name in enumerate(EMOTIONS)},
            "model_id": np.full(n, CARD.model_id),
            "bucket": np.full(n, bucket),
        }
        columns = [pa.array(known.get(f.name, rng.random(n, np.float32))).cast(f.type) for f in schema]
        ids = np.unique(videos)
        rows = {
            "tracks": pa.table(columns, schema=schema),
            "moments": pa.table(
                {
                    "video_id": np.repeat(ids, 1000),
                    "time_s": np.tile(np.arange(1000) / 5, len(ids)),
                    "frame_index": np.tile(np.arange(1000) * 5, len(ids)),
                    "faces": np.full(1000 * len(ids), 10, np.int16),
                    "bucket": np.full(1000 * len(ids), bucket, np.int32),
                }
            ),
            "videos": conform_table(
                pa.table(
                    {
                        "video_id": ids,
                        "uri": [f"/archive/talks/{video}.mp4" for video in ids],
                        **{name: np.full(len(ids), 200.0) for name in ("duration_s", "read_s")},
                        "moments": np.full(len(ids), 1000),
                        "bucket": np.full(len(ids), bucket, np.int32),
                    }
                ),
                VIDEOS_SCHEMA,
            ),
        }
        for name, part in rows.items():
            write_deltalake(tables[name], part, mode="overwrite", predicate=f"bucket = {bucket}")
    (out / "run.json").write_text(
        json.dumps({"schema_version": SCHEMA_VERSION, "settings": {}, "classes": EMOTIONS})
    )
    write_snapshot(out, tables)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table."""

    work: str
    measure: Callable[[Where], Figures]
    floor: float
    goal: float
    unit: str = "×"
    long: bool = False
    """Whether the row is measured only by name or with --all."""


ROWS = {
    "1080p": Row(work="1080p25, one face: CPU over bare decoding", measure=hd, floor=2.0, goal=1.3),
    "1080p-two": Row(work="1080p25, two faces: CPU over bare decoding", measure=hd_two, floor=2.0, goal=1.3),
    "720p": Row(work="720p25, one face: CPU over bare decoding", measure=p720, floor=3.0, goal=1.7),
    "fast": Row(
        work="1080p with B-frames, --fast: CPU over bare decoding", measure=hd_fast, floor=1.3, goal=0.9
    ),
    "360p": Row(work="360p, one face: CPU a sampled frame", measure=p360, floor=25, goal=12, unit="ms"),
    "crowd": Row(work="crowd, 1080p: faster than plain MTCNN", measure=crowd, floor=4, goal=8),
    "recall": Row(work="recall against full MTCNN", measure=recall, floor=0.97, goal=1.0, unit="", long=True),
    "workers": Row(work="two workers against one, 40 clips", measure=workers, floor=1.7, goal=1.9, long=True),
    "nodes": Row(work="two nodes against one, 40 minutes", measure=nodes, floor=1.7, goal=1.9, long=True),
    "actor": Row(work="an actor of Ray against none: CPU", measure=actor, floor=1.15, goal=1.05, long=True),
    "guard": Row(work="a guarded process against none: CPU", measure=guard, floor=1.03, goal=1.0),
    "start": Row(work="start to first result on disk", measure=start, floor=30, goal=12, unit="s"),
    "memory": Row(
        work="peak memory, an hour of 1080p", measure=memory, floor=1.5, goal=1.0, unit="GB", long=True
    ),
    "clips": Row(
        work="300 clips of 3 s against one long video", measure=short_clips, floor=0.7, goal=0.9, long=True
    ),
    "bytes": Row(
        work="bytes read over a file's size, 1 GB", measure=bytes_read, floor=1.5, goal=1.15, long=True
    ),
    "query": Row(
        work="emotion shares over 10 million rows", measure=query, floor=1.0, goal=0.3, unit="s", long=True
    ),
    "overlay": Row(work="overlay of 720p, two faces, over realtime", measure=overlaid, floor=2.0, goal=5.0),
    "questions": Row(
        work="each question over 10 million rows",
        measure=run_queries,
        floor=2.0,
        goal=1.0,
        unit="s",
        long=True,
    ),
}


def plan(inputs: Path | list[Path], config: AnalyzeConfig) -> pa.Table:
    """Plan the segments of videos for one worker."""
    paths = [str(path) for path in (inputs if isinstance(inputs, list) else [inputs])]
    probed = probe_videos(list_videos(paths).sources)
    return plan_segments(probed, config, CARD.half_window_s, CARD.model_id, 1)


def bundles(inputs: Path | list[Path], config: AnalyzeConfig) -> Iterator[pa.Table]:
    """Yield the bundles of videos."""
    rows = plan(inputs, config)
    first = 0
    for bundle_id, members in itertools.groupby(rows.column("bundle_id").to_pylist()):
        count = len(list(members))
        yield pack_bundle(bundle_id, rows.slice(first, count))
        first += count


def whole(video: Path, config: AnalyzeConfig) -> pa.Table:
    """Return a whole video as one bundle."""
    return pack_bundle(video.name, plan(video, config).cast(PLAN_SCHEMA))


def analyzed(inputs: Path | list[Path], out: Path) -> tuple[float, float]:
    """Analyze on the connected Ray; return wall seconds and seconds of video."""
    from fer_batch.pipeline.analyze import analyze

    paths = [str(path) for path in (inputs if isinstance(inputs, list) else [inputs])]
    began = time.perf_counter()
    summary = analyze(paths, out / "run")
    return time.perf_counter() - began, summary.seconds


def rgb_samples(video: Path) -> dict[int, np.ndarray]:
    """Return the sampled frames at 5 fps by index: `(H, W, 3) uint8` RGB from PyAV."""
    wanted = {frame.index for frame in SegmentReader(Segment.whole(video), 5.0)}
    with av.open(str(video)) as container:
        frames = enumerate(container.decode(video=0))
        return {index: frame.to_ndarray(format="rgb24") for index, frame in frames if index in wanted}


def mtcnn(min_face_size: float) -> Any:
    """Return the cascade of facenet-pytorch with its defaults."""
    from facenet_pytorch import MTCNN

    return MTCNN(keep_all=True, min_face_size=min_face_size, device="cpu")


def detected(plain: Any, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes `(n, 4)` in pixels, xyxy, and scores `(n,)` of facenet-pytorch's MTCNN."""
    boxes, scores = plain.detect(image)
    return (np.zeros((0, 4)), np.zeros(0)) if boxes is None else (boxes.astype(float), scores.astype(float))


def pairs(boxes: np.ndarray, others: np.ndarray) -> dict[tuple[int, int], float]:
    """Match boxes `(n, 4)` and `(m, 4)` of the same face, the best IoU first; return the IoU of each pair."""
    corners = (
        np.maximum(boxes[:, None, :2], others[None, :, :2]),
        np.minimum(boxes[:, None, 2:], others[None, :, 2:]),
    )
    both = np.clip(corners[1] - corners[0], 0, None).prod(2)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others)]
    iou = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
    found: dict[tuple[int, int], float] = {}
    while iou.size and iou.max() >= SAME_FACE_IOU:
        i, j = (int(k) for k in np.unravel_index(iou.argmax(), iou.shape))
        found[i, j] = float(iou[i, j])
        iou[i], iou[:, j] = 0, 0
    return found


@contextmanager
def tree_cpu() -> Iterator[Callable[[], float]]:
    """Measure the CPU seconds of this process and its descendants, sampled once a second."""
    spent: dict[int, float] = {}
    stop = threading.Event()

    def look() -> None:
        stats = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has ended
            stats[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
        for pid, (_, ticks) in stats.items():
            above = pid
            while above in stats and above != os.getpid():
                above = stats[above][0]
            if above == os.getpid():
                spent[pid] = ticks / os.sysconf("SC_CLK_TCK")

    def watch() -> None:
        while not stop.wait(1):
            look()

    look()
    before = sum(spent.values())
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: sum(spent.values()) - before
    finally:
        stop.set()
        thread.join()


def plot(figures: dict[str, Figures], path: Path) -> None:
    """Plot value and goal of each row relative to its floor, on a logarithmic axis: right is better."""
    import matplotlib.pyplot as plt

    names = [name for name in ROWS if name in figures]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(names) + 1.5), layout="constrained")
    for height, name in enumerate(reversed(names)):
        row, value = ROWS[name], figures[name]["value"]
        sign = 1 if row.goal > row.floor else -1
        ours, goal = (value / row.floor) ** sign, (row.goal / row.floor) ** sign
        axes.plot([goal], [height], "D", color="tab:gray", label="goal" if not height else None)
        color = "tab:red" if ours < 1 else "tab:orange" if ours < goal else "tab:green"
        axes.plot([1, ours], [height, height], "-", color=color)
        axes.plot([ours], [height], "o", color=color)
        axes.annotate(f" {value:.3g} {row.unit}", (ours, height + 0.2), fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    labels = [
        f"{ROWS[n].work} ({ROWS[n].floor:g} → {ROWS[n].goal:g} {ROWS[n].unit})" for n in reversed(names)
    ]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("times better than the floor; diamonds are the goals")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure rows, print a line for each, and write speed.json and speed.png."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also the rows that take long")
    parser.add_argument(
        "--videos", type=Path, default=CLEAN if CLEAN.exists() else clip("").parent, help="for recall"
    )
    options = parser.parse_args()
    if unknown := set(options.rows) - ROWS.keys():
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    where = Where(media=options.out / "media", videos=options.videos, runs=options.runs)
    written = options.out / "speed.json"
    figures = json.loads(written.read_text()) if written.exists() else {}
    for name in options.rows or [name for name, row in ROWS.items() if options.all or not row.long]:
        row = ROWS[name]
        value = row.measure(where)
        figures[name] = {"work": row.work, "floor": row.floor, "goal": row.goal, "unit": row.unit, **value}
        print(
            f"{name}: {value['value']:.3g} {row.unit} (floor {row.floor:g}, goal {row.goal:g})  {row.work}",
            flush=True,
        )
        written.write_text(json.dumps(figures, indent=1) + "\n")
        plot(figures, options.out / "speed.png")


if __name__ == "__main__":
    main()
