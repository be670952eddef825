"""Labelled videos, a folder for each class, to clips of face crops in Parquet, and from there to training.

The faces are found, followed and cut as `analyze` does it. A finished video is one file, written whole or
not at all, so that an extraction that was killed goes on where it was; `clips.json` says, once all are done,
which files there are and what stands in them.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
import ray.exceptions
import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.data.datasets import Clips
from fer_batch.data.images import SIZE, ClassFile, class_files
from fer_batch.data.labels import canonical, check_classes, held_out
from fer_batch.errors import InputError, OutputError
from fer_batch.inputs.listing import VIDEO_SUFFIXES
from fer_batch.storage.atomic import write_json, write_parquet
from fer_batch.video.segment import Segment
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import SegmentFaces, extract_faces

CLIPS = pa.schema(
    [
        pa.field("video", pa.string()),
        pa.field("label", pa.string()),
        pa.field("track", pa.int32()),
        pa.field("start_s", pa.float64()),
        pa.field("frames", pa.large_binary()),
        pa.field("steps", pa.int32()),
    ]
)
"""A face for the length of a window: `frames` is `(steps, 48, 48) uint8` grey."""
SHARD = pa.schema(
    [pa.field("frames", pa.large_binary()), pa.field("label", pa.int64()), pa.field("steps", pa.int32())]
)
"""The same as training takes it: `label` is an index into the classes."""
MADE = ("videos", "tracks", "windows")
"""What `extract_clips` counts that there is; all else is amiss."""
RETRIES = 2
"""Of a video that took its process down."""
SAMPLED_BYTES = 1 << 20


def labelled_videos(
    path: Path, classes: Sequence[str] | None = None
) -> tuple[list[ClassFile], tuple[str, ...], Counter[str]]:
    """The videos of `class/…` or `split/class/…`, the classes, and how many videos are "without_class".

    The classes are those asked for, else those that occur. Raises InputError where there are no videos, or
    some of other classes.
    """
    option, counts = f"--data clips={path}", Counter[str]()
    files = class_files(option, path, VIDEO_SUFFIXES, counts)
    found = {canonical(file.label) for file in files}
    names = tuple(sorted(found) if classes is None else classes)
    check_classes(option, found, names)
    return files, names, counts


def extract_clips(
    path: Path,
    out: Path,
    crop_scale: float,
    *,
    length: int,
    rate_hz: float,
    classes: Sequence[str] | None = None,
    on_video: Callable[[int, int], None] = lambda done, videos: None,
) -> dict[str, int]:
    """Cut the videos of `class/…` or `split/class/…` to clips in `out`, on the Ray that is connected.

    Each face that is followed gives windows of `length` moments at `rate_hz`, one after the other, none of
    which shares a moment with another; moments without the face are left out of them, windows of one
    face-moment altogether. `crop_scale` is the model's card's. A video's split is that of its folder; where
    none is for selection, 1 in 10 training videos becomes "select", and then 1 in 25 "calibrate", by hash of
    the file (`held_out`); a class's only video stays for training. Training videos whose content is that of
    one in another split are left out. The same call again does only what is not done.

    Returns counts: "videos", "tracks" and "windows" that there are, and what is amiss: "failed", "partial"
    (what could be read is used), "no_faces", "twins_dropped", "without_class"; those that are 0 are not
    there. The reasons stand in `clips.json`. `on_video` gets how many of how many videos are done. Raises
    InputError as `labelled_videos` and where no face was found in any, OutputError where `out` can't be
    written.
    """
    files, names, counts = labelled_videos(path, classes)
    option, path, out = f"--data clips={path}", path.absolute(), out.absolute()
    settings = {"crop_scale": crop_scale, "length": length, "rate_hz": rate_hz}
    videos: list[dict[str, Any]] = []
    for file in files:
        name, content = str(file.path.relative_to(path)), _content(file.path)
        key = hashlib.sha256(json.dumps([name, content, settings]).encode()).hexdigest()[:16]
        videos.append(
            {
                "video": name,
                "label": canonical(file.label),
                "split": file.split,
                "file": f"videos/{key}.parquet",
                "content": content,
            }
        )
    try:
        (out / "videos").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} can't be made: {error.strerror}; name another folder") from error
    problems = _extract_all(path, out, videos, settings, on_video)
    failed = {"status": "failed", "windows": 0, "tracks": 0}
    for video in videos:
        problem = problems.get(video["file"])
        video.update(_made(out / video["file"]) if problem is None else failed | {"error": problem})
    _divide(videos)
    write_json(out / "clips.json", {"settings": settings, "classes": names, "videos": videos})
    counts.update(video["status"] for video in videos if video["status"] != "ok")
    for video in videos:
        if video["windows"]:
            counts.update({"videos": 1, "tracks": video["tracks"], "windows": video["windows"]})
    if not counts["windows"]:
        reasons = [f"{v['video']}: {v['error']}" for v in videos if v["error"]]
        raise InputError(
            f"{option}: no face could be followed in any of {len(videos)} videos"
            + (f"; {counts['failed']} failed, such as {reasons[0]}" if reasons else "")
        )
    return counts


def extracted(folder: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """How many clips each split has of each class, and the classes that were asked for or occur."""
    videos, classes = _index(folder)
    counts: dict[str, dict[str, int]] = {}
    for video in videos:
        if video["windows"]:
            of_split = counts.setdefault(video["split"], {})
            of_split[video["label"]] = of_split.get(video["label"], 0) + video["windows"]
    return counts, classes


def clips_dataset(folder: Path, split: str, classes: Sequence[str] | None = None) -> ray.data.Dataset:
    """The clips of a split as rows of `SHARD`, streamed from the files, however many there are.

    `classes` are those that `label` counts, by default those of the extraction. Raises InputError where
    `folder` holds no finished extraction, or nothing of that split, or another class.
    """
    files, names = _files(folder, split, classes)
    number: Any = functools.partial(_numbered, classes=names)
    clips = ray.data.read_parquet([str(f) for f in files], num_cpus=0.25).select_columns(
        ["frames", "label", "steps"]
    )
    return clips.map_batches(number, batch_format="pyarrow", batch_size=None, num_cpus=0.1)


def clips_in_memory(folder: Path, split: str, classes: Sequence[str] | None = None) -> Clips:
    """The clips of a split, all at once; arguments and errors as of `clips_dataset`."""
    files, names = _files(folder, split, classes)
    table = _numbered(pa.concat_tables([pq.read_table(f, schema=CLIPS) for f in files]), names)
    count = len(table)
    return Clips(
        frames=np.frombuffer(b"".join(table["frames"].to_pylist()), np.uint8).reshape(-1, SIZE, SIZE),
        starts=np.concatenate([[0], np.cumsum(table["steps"].to_numpy())]).astype(np.int64),
        labels=table["label"].to_numpy().astype(np.int64),
        splits=np.full(count, split),
        classes=tuple(names),
        votes=np.zeros((count, len(names)), np.float32),
        subjects=np.full(count, ""),
    )


def track_windows(tracks: np.ndarray, times: np.ndarray, length: int, rate_hz: float) -> list[np.ndarray]:
    """Which faces, by index, make up each window: `length` places of 1 / `rate_hz` seconds from the moment on
    where its track begins or its last window ended.

    `tracks` is `(n,) int`, `times` `(n,) float64` seconds. Windows hold two faces or more, in order of time,
    and come in order of track and time.
    """
    windows = []
    for track in np.unique(tracks):
        faces = np.flatnonzero(tracks == track)
        faces = faces[np.argsort(times[faces], kind="stable")]
        places = np.floor((times[faces] + TIME_TOLERANCE_S) * rate_hz).astype(np.int64)
        number = (places - places[0]) // length
        windows += [w for n in np.unique(number) if len(w := faces[number == n]) > 1]
    return windows


def _extract_all(
    path: Path,
    out: Path,
    videos: list[dict[str, Any]],
    settings: dict[str, Any],
    on_video: Callable[[int, int], None],
) -> dict[str, str]:
    """Write the files that are not there yet; returns why some can't be made, by file."""
    todo = [video for video in videos if not (out / video["file"]).exists()]
    extract = ray.remote(_extract).options(num_cpus=1, max_retries=RETRIES)
    at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, str] = {}
    problems: dict[str, str] = {}
    on_video(len(videos) - len(todo), len(videos))
    while todo or running:
        while todo and len(running) < at_once:
            video = todo.pop(0)
            task = extract.remote(
                path / video["video"], out / video["file"], video["video"], video["label"], settings
            )
            running[task] = video["file"]
        (ended,), _ = ray.wait(list(running), num_returns=1)
        file = running.pop(ended)
        try:
            problem = ray.get(ended)
        except OutputError:
            raise
        except ray.exceptions.RayError as error:  # it took its process down, each time
            problem = str(error).strip().split("\n")[-1]
        if problem:
            problems[file] = problem
        on_video(len(videos) - len(todo) - len(running), len(videos))
    return problems


def _extract(uri: Path, file: Path, video: str, label: str, settings: dict[str, Any]) -> str | None:
    """One video to its file of clips; returns why it can't be read, where it can't."""
    config = AnalyzeConfig(fps=settings["rate_hz"])
    seen = extract_faces(Segment.whole(uri), config, _detector(config), settings["crop_scale"])
    if not seen.frames:
        return seen.error or "no frame could be read"
    notes = {"status": seen.status, "error": seen.error or ""}
    try:
        write_parquet(file, _rows(seen, video, label, settings), notes)
    except OSError as error:
        raise OutputError(f"{file} can't be written: {error.strerror}") from error
    return None


def _rows(seen: SegmentFaces, video: str, label: str, settings: dict[str, Any]) -> pa.Table:
    tracks = np.array([face.track for face in seen.faces], np.int64)
    times = np.array([face.time_s for face in seen.faces], np.float64)
    rows = [
        {
            "video": video,
            "label": label,
            "track": int(tracks[window[0]]),
            "start_s": float(times[window[0]]),
            "frames": seen.crops[window].tobytes(),
            "steps": len(window),
        }
        for window in track_windows(tracks, times, settings["length"], settings["rate_hz"])
    ]
    return pa.Table.from_pylist(rows, schema=CLIPS)


@functools.cache
def _detector(config: AnalyzeConfig) -> FaceDetector:
    torch.set_num_threads(1)  # workers share the cores between them
    return FaceDetector(config.min_face, config.min_score, "cpu")


def _made(file: Path) -> dict[str, Any]:
    """What a file of clips says of its video."""
    read = pq.ParquetFile(file)
    notes = read.schema_arrow.metadata or {}
    windows = read.metadata.num_rows
    return {
        "status": notes[b"status"].decode() if windows else "no_faces",
        "error": notes[b"error"].decode() or None,
        "windows": windows,
        "tracks": len(pc.unique(read.read(columns=["track"])["track"])),
    }


def _divide(videos: list[dict[str, Any]]) -> None:
    """Give each video its split; those of Training that stand in another split as well have no windows."""
    if not any(v["split"] == "select" and v["windows"] for v in videos):
        _hold_out(videos, "select")
    elsewhere = {v["content"] for v in videos if v["split"] not in ("", "train")}
    for video in videos:
        video["split"] = video["split"] or "train"
        if video["split"] == "train" and video["windows"] and video["content"] in elsewhere:
            video.update({"status": "twins_dropped", "windows": 0, "tracks": 0})
    _hold_out(videos, "calibrate")


def _hold_out(videos: list[dict[str, Any]], split: str) -> None:
    """Training videos become `split`, but for the last of a class, without which it could not be learned."""
    training = [v for v in videos if v["split"] in ("", "train") and v["windows"]]
    left: dict[str, set[str]] = {}
    for video in training:
        left.setdefault(video["label"], set()).add(video["content"])
    spare = [v for v in training if len(left[v["label"]]) > 1]
    for video, chosen in zip(spare, held_out([v["content"] for v in spare], split), strict=True):
        others = left[video["label"]] - {video["content"]}
        if chosen and others:
            video["split"], left[video["label"]] = split, others


def _content(file: Path) -> str:
    """Hash of a file's size, first and last MiB: enough to know copies of a video from one another."""
    digest = hashlib.sha256()
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            digest.update(f"{size} ".encode() + opened.read(SAMPLED_BYTES))
            opened.seek(max(size - SAMPLED_BYTES, 0))
            digest.update(opened.read(SAMPLED_BYTES))
    except OSError as error:
        digest.update(str(error).encode())
    return digest.hexdigest()


def _files(folder: Path, split: str, classes: Sequence[str] | None) -> tuple[list[Path], list[str]]:
    """The files of a split, by the hashes that they are named by, and the classes that their labels count."""
    videos, made = _index(folder)
    names = list(made if classes is None else classes)
    chosen = [v for v in videos if v["split"] == split and v["windows"]]
    if not chosen:
        splits = sorted({v["split"] for v in videos if v["windows"]})
        raise InputError(f"{folder} has no clips of the split {split!r}; it has {', '.join(splits)}")
    check_classes(str(folder), {v["label"] for v in chosen}, names)
    # By hash, so that classes come mixed to those who stream them.
    return [folder / file for file in sorted(v["file"] for v in chosen)], names


def _index(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The videos and classes of a finished extraction."""
    try:
        index = json.loads((folder / "clips.json").read_text())
        return index["videos"], index["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no finished extraction of clips: {error}") from error


def _numbered(clips: pa.Table, classes: Sequence[str]) -> pa.Table:
    """A table of `CLIPS` to one of `SHARD`."""
    value_set = pa.array([canonical(name) for name in classes], pa.string())
    label = pc.index_in(clips["label"], value_set=value_set).cast(pa.int64())
    return pa.table([clips["frames"].cast(pa.large_binary()), label, clips["steps"]], schema=SHARD)
