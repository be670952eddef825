"""Labelled videos, in a folder for each class or as segments from Label Studio, to clips of face crops.

The pipeline of `analyze` detects, follows and crops the faces. Each video becomes one file, which is written
atomically, so that a killed extraction continues with the remaining videos.
"""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.exceptions
import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.data.clip_files import CLIP_SCHEMA, VideoClips, write_index
from fer_batch.data.folders import ClassFile, list_class_files
from fer_batch.data.labels import check_classes, normalize_label
from fer_batch.data.segments import list_segments, locate_segment
from fer_batch.data.splits import choose_held_out
from fer_batch.errors import DecodeError, InputError, NoVideoError, OutputError
from fer_batch.storage.atomic import convert_write_error, write_parquet
from fer_batch.terminal import count
from fer_batch.video.formats import VIDEO_SUFFIXES
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import SegmentFaces, extract_faces

MAX_RETRIES = 2
"""Retries of a video whose worker process died."""
HASHED_BYTES = 1 << 20
"""Bytes at each end of a video that its content hash covers."""


@dataclass(frozen=True, kw_only=True)
class ExtractionSummary:
    """Totals of an extraction of clips."""

    videos: int = 0
    """Videos with clips."""
    tracks: int = 0
    windows: int = 0
    """Number of clips."""
    issues: Counter[str] = field(default_factory=Counter)
    """Number of videos that are "failed", "partial" (the readable part is used), "no_faces",
    "twins_dropped" or "without_class"; absent keys count 0."""


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Settings that decide the content of the clips."""

    crop_scale: float
    """Side of a crop, relative to the height of the face box."""
    length: int
    """Sampled frames in a window."""
    rate_hz: float
    """Sampled frames per second."""


def extract_clips(
    path: Path,
    out: Path,
    settings: ClipSettings,
    *,
    classes: Sequence[str] | None = None,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> ExtractionSummary:
    """Cut the videos of `class/…` or `split/class/…` into clips in `out`, on the connected Ray cluster.

    `path` may also be an export of Label Studio (.json): then its labelled segments are cut into clips.

    Each track is cut into consecutive windows of `settings.length` sampled frames. Sampled frames without the
    face are left out, and windows with a single face are dropped. A repeated call processes only the
    remaining videos.

    The split of a video is the split of its folder. Without a folder for selection, 1 in 10 training videos
    becomes "select"; then 1 in 25 becomes "calibrate". The content hash decides, but a class keeps at least
    one training video. All segments of a video have the same split. Training videos with the same content as
    a video of another split are dropped.

    `on_video` receives the number of finished videos and of all videos. Raises InputError as
    `list_labelled_videos` does, and if no face is found in any video; OutputError if `out` cannot be written.
    """
    files, names, issues = list_labelled_videos(path, classes)
    path, out = path.absolute(), out.absolute()
    videos = [_describe_video(path, file, settings) for file in files]
    try:
        (out / "videos").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {out}: {error.strerror}; give another folder") from error
    problems = _extract_all(path, out, videos, settings, on_video)
    videos = _assign_splits([_add_result(video, out, problems.get(video.file)) for video in videos])
    write_index(out, dataclasses.asdict(settings), names, videos)
    issues.update(video.status for video in videos if video.status != "ok")
    if not any(video.windows for video in videos):
        errors = [f"{video.video}: {video.error}" for video in videos if video.error]
        raise InputError(
            f"--data clips={path}: no face was found in {count(len(videos), 'video')}"
            + (f"; {issues['failed']} failed, for example {errors[0]}" if errors else "")
        )
    return ExtractionSummary(
        videos=sum(video.windows > 0 for video in videos),
        tracks=sum(video.tracks for video in videos if video.windows),
        windows=sum(video.windows for video in videos),
        issues=issues,
    )


def list_labelled_videos(
    path: Path, classes: Sequence[str] | None = None
) -> tuple[list[ClassFile], tuple[str, ...], Counter[str]]:
    """List the videos of `class/…` or `split/class/…`, or the labelled segments of an export of Label Studio.

    Returns the videos, the classes (`classes`, or by default those of the folders), and the number of videos
    "without_class". Raises InputError if there are no videos, or videos of other classes.
    """
    option, counts = f"--data clips={path}", Counter[str]()
    if path.suffix.lower() == ".json":
        files = list_segments(option, path)
    else:
        files = list_class_files(option, path, VIDEO_SUFFIXES, counts)
    labels = {normalize_label(file.label) for file in files}
    names = tuple(sorted(labels) if classes is None else classes)
    check_classes(option, labels, names)
    return files, names, counts


def split_tracks(tracks: np.ndarray, times: np.ndarray, length: int, rate_hz: float) -> list[np.ndarray]:
    """Split tracks into windows; returns the indices of the faces in each window.

    `tracks` is `(n,) int`, and `times` is `(n,) float64` seconds. A window covers `length` cells of
    1 / `rate_hz` seconds; the first window of a track begins with its first face, and the others follow
    without gaps. Windows with fewer than two faces are dropped. The faces of a window are sorted by time, and
    the windows by track and time.
    """
    windows = []
    for track in np.unique(tracks):
        faces = np.flatnonzero(tracks == track)
        faces = faces[np.argsort(times[faces], kind="stable")]
        cells = np.floor((times[faces] + TIME_TOLERANCE_S) * rate_hz).astype(np.int64)
        number = (cells - cells[0]) // length
        windows += [w for n in np.unique(number) if len(w := faces[number == n]) > 1]
    return windows


def _describe_video(path: Path, file: ClassFile, settings: ClipSettings) -> VideoClips:
    is_segment = file.end_s is not None
    name = str(file.path if is_segment else file.path.relative_to(path))
    content = _hash_content(file.path)
    part = [normalize_label(file.label), file.start_s, file.end_s] if is_segment else []
    key = json.dumps([name, content, dataclasses.asdict(settings), *part])
    return VideoClips(
        video=name,
        label=normalize_label(file.label),
        split=file.split,
        file=f"videos/{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet",
        content=content,
        start_s=file.start_s,
        end_s=file.end_s,
    )


def _extract_all(
    path: Path,
    out: Path,
    videos: Sequence[VideoClips],
    settings: ClipSettings,
    on_video: Callable[[int, int], None],
) -> dict[str, str]:
    """Write the missing files, in parallel; returns the reasons of failures by file."""
    waiting = [video for video in videos if not (out / video.file).exists()]
    extract = ray.remote(_extract_video).options(num_cpus=1, max_retries=MAX_RETRIES)
    max_running = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, str] = {}
    problems: dict[str, str] = {}
    on_video(len(videos) - len(waiting), len(videos))
    while waiting or running:
        while waiting and len(running) < max_running:
            video = waiting.pop(0)
            running[extract.remote(path, out, video, settings)] = video.file
        (ended,), _ = ray.wait(list(running), num_returns=1)
        file = running.pop(ended)
        try:
            problem = ray.get(ended)
        except OutputError:
            raise
        except ray.exceptions.RayError as error:  # the worker process died in each try
            problem = str(error).strip().split("\n")[-1]
        if problem:
            problems[file] = problem
        on_video(len(videos) - len(waiting) - len(running), len(videos))
    return problems


def _extract_video(path: Path, out: Path, video: VideoClips, settings: ClipSettings) -> str | None:
    """Write the clips of one video; returns the reason if it cannot be read."""
    config = AnalyzeConfig(fps=settings.rate_hz)
    try:
        segment = locate_segment(path / video.video, video.start_s, video.end_s)
    except (DecodeError, NoVideoError) as error:
        return str(error)
    found = extract_faces(segment, config, _load_detector(config), settings.crop_scale)
    if not found.frames:
        return found.error or "no frame could be read"
    metadata = {"status": found.status, "error": found.error or ""}
    with convert_write_error(out / video.file):
        write_parquet(out / video.file, _build_table(found, video, settings), metadata)
    return None


def _build_table(found: SegmentFaces, video: VideoClips, settings: ClipSettings) -> pa.Table:
    tracks = np.array([face.track for face in found.faces], np.int64)
    times = np.array([face.time_s for face in found.faces], np.float64)
    rows = [
        {
            "video": video.video,
            "label": video.label,
            "track": int(tracks[window[0]]),
            "start_s": float(times[window[0]]),
            "frames": found.crops[window].tobytes(),
            "steps": len(window),
        }
        for window in split_tracks(tracks, times, settings.length, settings.rate_hz)
    ]
    return pa.Table.from_pylist(rows, schema=CLIP_SCHEMA)


@functools.cache
def _load_detector(config: AnalyzeConfig) -> FaceDetector:
    torch.set_num_threads(1)  # each worker has one CPU
    return FaceDetector(config.min_face, config.min_score, "cpu")


def _add_result(video: VideoClips, out: Path, problem: str | None) -> VideoClips:
    if problem is not None:
        return dataclasses.replace(video, status="failed", error=problem)
    file = pq.ParquetFile(out / video.file)
    metadata, windows = file.schema_arrow.metadata or {}, file.metadata.num_rows
    return dataclasses.replace(
        video,
        status=metadata[b"status"].decode() if windows else "no_faces",
        error=metadata[b"error"].decode() or None,
        windows=windows,
        tracks=len(pc.unique(file.read(columns=["track"])["track"])),
    )


def _assign_splits(videos: Sequence[VideoClips]) -> list[VideoClips]:
    """Give each video its split, and drop training videos that also occur in another split."""
    if not any(v.split == "select" and v.windows for v in videos):
        videos = _hold_out(videos, "select")
    held_out = {v.content for v in videos if v.split not in ("", "train")}
    assigned = []
    for video in videos:
        video = dataclasses.replace(video, split=video.split or "train")
        if video.split == "train" and video.windows and video.content in held_out:
            video = dataclasses.replace(video, status="twins_dropped", windows=0, tracks=0)
        assigned.append(video)
    return _hold_out(assigned, "calibrate")


def _hold_out(videos: Sequence[VideoClips], split: str) -> list[VideoClips]:
    """Move a part of the training videos to `split`, but keep the last training video of each class."""
    training = [v for v in videos if v.split in ("", "train") and v.windows]
    labels: dict[str, set[str]] = {}
    remaining: dict[str, set[str]] = {}
    for video in training:
        labels.setdefault(video.content, set()).add(video.label)
        remaining.setdefault(video.label, set()).add(video.content)
    candidates = [
        content for content, own in labels.items() if all(len(remaining[label]) > 1 for label in own)
    ]
    moved = set()
    for content, chosen in zip(candidates, choose_held_out(candidates, split), strict=True):
        if chosen and all(len(remaining[label]) > 1 for label in labels[content]):
            moved.add(content)
            for label in labels[content]:
                remaining[label].remove(content)
    files = {v.file for v in training if v.content in moved}
    return [dataclasses.replace(v, split=split) if v.file in files else v for v in videos]


def _hash_content(file: Path) -> str:
    """Hash the size and both ends of a file, which identifies copies of a video."""
    digest = hashlib.sha256()
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            digest.update(f"{size} ".encode() + opened.read(HASHED_BYTES))
            opened.seek(max(size - HASHED_BYTES, 0))
            digest.update(opened.read(HASHED_BYTES))
    except OSError as error:
        digest.update(str(error).encode())
    return digest.hexdigest()
