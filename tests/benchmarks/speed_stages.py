"""Speed of the stages in this process: relative to bare decoding, to plain MTCNN and to a guarded process."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from media import clip, enlarged, repeated

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.bench import benchmark_videos
from fer_batch.pipeline.child import WorkerProcess
from fer_batch.pipeline.guard import GuardedStage
from fer_batch.pipeline.stages import AnalyzeStage, FacesStage
from fer_batch.schema import FACES_SCHEMA, pack_bundle, unpack_bundles
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.vision.track import compute_iou

CARD = load_checkpoint()[1]
CONFIG = AnalyzeConfig()
SAME_FACE_IOU = 0.5
Boxes = np.ndarray
"""Boxes `(n, 4)` in pixels, xyxy."""
Measurement = dict[str, Any]
"""The `value` of a row, and details."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The inputs of all rows."""

    media: Path
    """Folder of the created videos."""
    videos: Path
    """Folder of real videos for the recall."""
    runs: int


def measure_over_bare(setup: Setup, name: str, height: int, preset: str = "veryfast") -> Measurement:
    """Benchmark a video of 20 s; the value is its CPU time relative to bare decoding.

    x264's preset "medium" makes a video with B-frames, of which `--fast` skips some.
    """
    bframes, fast = (3, "nonref") if preset == "medium" else (0, None)
    video = enlarged(setup.media, clip(name), height, 20, preset=preset, bframes=bframes)
    return benchmark(setup, video, AnalyzeConfig(fast=fast))


def measure_360p(setup: Setup) -> Measurement:
    """CPU milliseconds for a sampled frame with decoding, one face."""
    result = benchmark(setup, clip("woman_pexels.mp4"), CONFIG)
    cpu_s = result["stages"]["total"]["cpu_s"] * result["seconds"]
    return result | {"value": 1000 * cpu_s / result["moments"]}


def benchmark(setup: Setup, video: Path, config: AnalyzeConfig) -> Measurement:
    """Return the benchmark of one video."""
    (result,) = benchmark_videos(list_videos([str(video)]).sources, config, setup.runs)
    return result.to_dict() | {"value": result.ratio.cpu_s}


def measure_crowd(setup: Setup) -> Measurement:
    """CPU time of `MTCNN.detect` on each sampled frame relative to our detection; faces from 40 px."""
    video = clip("crowd_1080p.mp4")
    frames, height = read_rgb_samples(video), av.open(str(video)).streams.video[0].height
    mtcnn = create_mtcnn(40)
    config = AnalyzeConfig(min_face=40 / height)
    stage, bundle = FacesStage(config, CARD.crop_scale), pack_video(video, config)
    detect_s, total_s, mtcnn_s, mtcnn_faces = [], [], [], 0
    stage(bundle)
    for _ in range(setup.runs):
        began, before = time.process_time(), stage.timer.cpu_s["detect"]
        rows = unpack_bundles(stage(bundle), FACES_SCHEMA)
        detect_s.append(stage.timer.cpu_s["detect"] - before)
        total_s.append(time.process_time() - began)
        began = time.process_time()
        mtcnn_faces = sum(len(detect_with_mtcnn(mtcnn, image)[0]) for image in frames.values())
        mtcnn_s.append(time.process_time() - began)
    detect, total, plain = (statistics.median(times_s) for times_s in (detect_s, total_s, mtcnn_s))
    return {
        "value": plain / detect,
        "over_all_of_ours": plain / total,
        "ms_a_moment": {"plain": 1000 * plain / len(frames), "detect": 1000 * detect / len(frames)},
        "moments": len(frames),
        "faces": {"plain": mtcnn_faces, "ours": len(pc.list_flatten(rows.column("faces")))},
    }


def measure_recall(setup: Setup) -> Measurement:
    """Share of the faces of facenet-pytorch's MTCNN that our detector also finds, at IoU 0.5.

    MTCNN has its default thresholds, runs on every sampled frame, and detects faces from 5 % of the height.
    """
    stage = FacesStage(CONFIG, CARD.crop_scale)
    videos, all_ious = {}, []
    for uri in list_videos([str(setup.videos)]).sources.column("uri").to_pylist():
        counts, ious = compare_with_mtcnn(stage, Path(uri))
        videos[Path(uri).name] = counts | {"iou": float(np.mean(ious)) if ious else None}
        all_ious += ious
    names = ("theirs", "sure", "ours", "both", "both_sure")
    sums = {name: sum(counts[name] for counts in videos.values()) for name in names}
    return {
        "value": sums["both"] / sums["theirs"],
        "precision": sums["both"] / sums["ours"],
        "mean_iou": float(np.mean(all_ious)),
        "recall_of_sure": sums["both_sure"] / sums["sure"],
        "faces": sums,
        "videos": videos,
    }


def compare_with_mtcnn(stage: FacesStage, video: Path) -> tuple[dict[str, Any], list[float]]:
    """Count the faces of one video that MTCNN, our detector and both find; return also the IoUs."""
    faces = pc.list_flatten(unpack_bundles(stage(pack_video(video, CONFIG)), FACES_SCHEMA).column("faces"))
    boxes_of_frame: dict[int, list[list[float]]] = {}
    for face in faces.to_pylist():
        box = [face[f"box_{corner}"] for corner in ("x0", "y0", "x1", "y1")]
        boxes_of_frame.setdefault(face["frame_index"], []).append(box)
    frames = read_rgb_samples(video)
    mtcnn = create_mtcnn(0.05 * next(iter(frames.values())).shape[0])
    counts, ious = dict.fromkeys(("theirs", "sure", "ours", "both", "both_sure"), 0), []
    for index, image in frames.items():
        height, width = image.shape[:2]
        theirs, scores = detect_with_mtcnn(mtcnn, image)
        ours = np.array(boxes_of_frame.get(index, []), float).reshape(-1, 4) * [width, height, width, height]
        is_sure = scores >= CONFIG.min_score
        shared = match_boxes(theirs, ours)
        counts["theirs"] += len(theirs)
        counts["sure"] += int(is_sure.sum())
        counts["ours"] += len(ours)
        counts["both"] += len(shared)
        counts["both_sure"] += sum(bool(is_sure[i]) for i in shared)
        ious += shared.values()
    return counts, ious


def measure_memory(setup: Setup) -> Measurement:
    """Peak memory in GB of a worker and its guarded process for an hour of 1080p, and its growth."""
    video = repeated(setup.media, enlarged(setup.media, clip("woman_pexels.mp4"), 1080, 20), seconds=3600)
    pq.write_table(plan_videos([video], CONFIG), planned := setup.media / "hour.parquet")
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(planned), str(CARD.crop_scale)]
    peaks = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {
        "value": peaks[-1] / 1e9,
        "peak_bytes_after_each_bundle": peaks,
        "growth_bytes": peaks[-1] - peaks[0],
    }


def measure_guard(setup: Setup) -> Measurement:
    """CPU time of the stages in a guarded process, with both processes, relative to this process."""
    bundle = pack_video(enlarged(setup.media, clip("woman_pexels.mp4"), 720, 20), CONFIG)
    arguments = (CONFIG, CARD.crop_scale, None)
    plain, guarded = AnalyzeStage(*arguments), GuardedStage("AnalyzeStage", arguments, Limits())
    plain(bundle)
    guarded(bundle)
    plain_s, guarded_s = [], []
    for _ in range(setup.runs):
        began = time.process_time()
        plain(bundle)
        plain_s.append(time.process_time() - began)
        began, before = time.process_time(), read_cpu_s(guarded.child)
        guarded(bundle)
        guarded_s.append(time.process_time() - began + read_cpu_s(guarded.child) - before)
    guarded.child.close()
    return {
        "value": statistics.median(guarded_s) / statistics.median(plain_s),
        "cpu_s": {"guarded": guarded_s, "here": plain_s},
    }


def read_cpu_s(child: WorkerProcess) -> float:
    """Return the CPU seconds of a child so far."""
    assert child.process is not None
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_bytes_read(setup: Setup) -> Measurement:
    """Bytes read for all segments of a file of 1 GB, relative to its size."""
    video = repeated(setup.media, clip("crowd_1080p.mp4"), size_bytes=10**9)
    before = count_bytes_read()
    segments = Segment.from_table(plan_videos([video], CONFIG))
    moments = sum(1 for segment in segments for _ in SegmentReader(segment, CONFIG.fps))
    read, size = count_bytes_read() - before, video.stat().st_size
    return {"value": read / size, "read_bytes": read, "file_bytes": size, "moments": moments}


def count_bytes_read() -> int:
    """Return the bytes that this process has read so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


def plan_videos(videos: list[Path], config: AnalyzeConfig) -> pa.Table:
    """Plan the segments of videos for one worker."""
    probed = probe_videos(list_videos([str(video) for video in videos]).sources)
    return plan_segments(probed, config, CARD.half_window_s, CARD.model_id, 1)


def pack_video(video: Path, config: AnalyzeConfig) -> pa.Table:
    """Return a whole video as one bundle."""
    return pack_bundle(video.name, plan_videos([video], config))


def read_rgb_samples(video: Path) -> dict[int, np.ndarray]:
    """Return the sampled frames at 5 fps by index: `(H, W, 3) uint8` RGB from PyAV."""
    sampled = {frame.index for frame in SegmentReader(Segment.whole(video), 5.0)}
    with av.open(str(video)) as container:
        frames = enumerate(container.decode(video=0))
        return {index: frame.to_ndarray(format="rgb24") for index, frame in frames if index in sampled}


def create_mtcnn(min_face_size: float) -> Any:
    """Return the cascade of facenet-pytorch with its defaults."""
    from facenet_pytorch import MTCNN

    return MTCNN(keep_all=True, min_face_size=min_face_size, device="cpu")


def detect_with_mtcnn(mtcnn: Any, image: np.ndarray) -> tuple[Boxes, np.ndarray]:
    """Return the boxes and the scores `(n,)` of facenet-pytorch's MTCNN."""
    boxes, scores = mtcnn.detect(image)
    return (np.zeros((0, 4)), np.zeros(0)) if boxes is None else (boxes.astype(float), scores.astype(float))


def match_boxes(boxes: Boxes, others: Boxes) -> dict[int, float]:
    """Match boxes of the same face, the best IoU first; return the IoU by number in `boxes`."""
    iou = compute_iou(boxes, others)
    matches: dict[int, float] = {}
    while iou.size and iou.max() >= SAME_FACE_IOU:
        i, j = (int(k) for k in np.unravel_index(iou.argmax(), iou.shape))
        matches[i] = float(iou[i, j])
        iou[i], iou[:, j] = 0, 0
    return matches
