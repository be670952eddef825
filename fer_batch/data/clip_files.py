"""Clips that were extracted from labelled videos: the files on disk, and how training reads them.

A folder of clips has one Parquet file for each video (`CLIP_SCHEMA`), and an index, `clips.json`, which is
written last.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from fer_batch.config import CROP_SIZE_PX
from fer_batch.data.clips import Clips
from fer_batch.data.labels import check_classes, normalize_label
from fer_batch.errors import InputError
from fer_batch.storage.atomic import write_json

CLIP_SCHEMA = pa.schema(
    [
        pa.field("video", pa.string()),
        pa.field("label", pa.string()),
        pa.field("track", pa.int32()),
        pa.field("start_s", pa.float64()),
        pa.field("frames", pa.large_binary()),
        pa.field("steps", pa.int32()),
    ]
)
"""One face for the length of a window: `frames` is `(steps, 48, 48) uint8` grey."""
TRAINING_SCHEMA = pa.schema(
    [pa.field("frames", pa.large_binary()), pa.field("label", pa.int64()), pa.field("steps", pa.int32())]
)
"""Columns that training reads: `label` is an index into the classes."""
INDEX_NAME = "clips.json"


@dataclass(frozen=True, kw_only=True)
class VideoClips:
    """A labelled video, or a labelled part of one, in the index, and the file with its clips."""

    video: str
    """Path of the video, relative to the folder of videos, or absolute for labelled segments."""
    label: str
    """Normalized name of the class."""
    split: str
    """"train", "select", "calibrate" or "test"; "" until it is assigned."""
    file: str
    """Path of the Parquet file, relative to the folder of clips."""
    content: str
    """Hash of the video's content."""
    status: str = ""
    """"ok", "partial", "no_faces", "twins_dropped" or "failed"."""
    error: str | None = None
    windows: int = 0
    """Number of clips."""
    tracks: int = 0
    start_s: float | None = None
    end_s: float | None = None
    """The labelled part, in seconds since the start of the file; None for the whole video."""


def write_index(
    folder: Path, settings: Mapping[str, float], classes: Sequence[str], videos: Sequence[VideoClips]
) -> None:
    """Write the index, which marks the extraction as finished."""
    rows = [dataclasses.asdict(video) for video in videos]
    write_json(folder / INDEX_NAME, {"settings": settings, "classes": classes, "videos": rows})


def read_index(folder: Path) -> tuple[list[VideoClips], list[str]]:
    """Read the videos and classes of a finished extraction; raises InputError if `folder` holds none."""
    try:
        index = json.loads((folder / INDEX_NAME).read_text())
        return [VideoClips(**row) for row in index["videos"]], index["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no finished extraction of clips: {error}") from error


def count_clips(folder: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Count the clips by split and class; returns the counts and the classes of the extraction."""
    videos, classes = read_index(folder)
    counts: dict[str, dict[str, int]] = {}
    for video in videos:
        if video.windows:
            by_class = counts.setdefault(video.split, {})
            by_class[video.label] = by_class.get(video.label, 0) + video.windows
    return counts, classes


def load_clips(folder: Path, split: str, classes: Sequence[str] | None = None) -> Clips:
    """Load all clips of a split into memory.

    `classes` are the classes of the result, by default those of the extraction. Raises InputError if `folder`
    holds no finished extraction, no clips of the split, or a class that is not among `classes`.
    """
    files, names = _list_files(folder, split, classes)
    table = _number_labels(pa.concat_tables([pq.read_table(f, schema=CLIP_SCHEMA) for f in files]), names)
    count = len(table)
    frames = np.frombuffer(b"".join(table["frames"].to_pylist()), np.uint8)
    return Clips(
        frames=frames.reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX),
        starts=np.concatenate([[0], np.cumsum(table["steps"].to_numpy())]).astype(np.int64),
        labels=table["label"].to_numpy().astype(np.int64),
        splits=np.full(count, split),
        classes=tuple(names),
        votes=np.zeros((count, len(names)), np.float32),
        subjects=np.full(count, ""),
        datasets=np.full(count, "clips"),
    )


def stream_clips(folder: Path, split: str, classes: Sequence[str] | None = None) -> ray.data.Dataset:
    """Stream the clips of a split from their files, as rows of `TRAINING_SCHEMA`.

    The arguments and errors are those of `load_clips`. The memory needed does not grow with the number of
    clips.
    """
    files, names = _list_files(folder, split, classes)
    number_labels: Any = functools.partial(_number_labels, classes=names)
    clips = ray.data.read_parquet([str(f) for f in files], num_cpus=0.25)
    columns = clips.select_columns(TRAINING_SCHEMA.names)
    return columns.map_batches(number_labels, batch_format="pyarrow", batch_size=None, num_cpus=0.1)


def _list_files(folder: Path, split: str, classes: Sequence[str] | None) -> tuple[list[Path], list[str]]:
    """List the files of a split, and the classes that their labels index.

    The files are sorted by name. Their names are hashes, so a stream mixes the classes.
    """
    videos, extracted_classes = read_index(folder)
    names = list(extracted_classes if classes is None else classes)
    chosen = [v for v in videos if v.split == split and v.windows]
    if not chosen:
        splits = sorted({v.split for v in videos if v.windows})
        raise InputError(f"{folder} has no clips of the split {split!r}; it has {', '.join(splits)}")
    check_classes(str(folder), {v.label for v in chosen}, names)
    return [folder / file for file in sorted(v.file for v in chosen)], names


def _number_labels(clips: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Convert a table of `CLIP_SCHEMA` to `TRAINING_SCHEMA`."""
    value_set = pa.array([normalize_label(name) for name in classes], pa.string())
    label = pc.index_in(clips["label"], value_set=value_set).cast(pa.int64())
    frames = clips["frames"].cast(pa.large_binary())
    return pa.table([frames, label, clips["steps"]], schema=TRAINING_SCHEMA)
