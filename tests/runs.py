"""Write finished runs without reading a video: plan, results and tables of given content."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.card import Card
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import (
    MIN_BUCKET_SHARE_S,
    add_planning_round,
    read_planned_segments,
    read_planned_videos,
)
from fer_batch.run.record import create_run
from fer_batch.run.results import write_bundle
from fer_batch.run.snapshot import TABLES, write_snapshot
from fer_batch.run.steps import measure_steps
from fer_batch.schema import (
    EMOTIONS,
    MOMENTS_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    VIDEOS_SCHEMA,
    pack_bundle,
    probability_column,
    tracks_schema,
)
from fer_batch.storage.folder import FolderLike, open_folder
from fer_batch.storage.media import hash_text, read_version
from fer_batch.timeline.store import open_timeline

CARD = Card(classes=EMOTIONS, architecture={}, sha256="0123456789ab" + "0" * 52)

Folder = TypeVar("Folder", bound=FolderLike)

Tracks = Sequence[Sequence[str]]
"""The emotion of each face of a video at moments 0.2 s apart, from 0 on; None for a video that failed."""


def video_id(uri: str) -> str:
    return f"{sum(uri.encode()):08x}{len(uri):08x}"


def probed(uri: str, tracks: Tracks | None, version: str = "1", attempt: int = 0) -> dict[str, Any]:
    row = {"video_id": video_id(uri), "version": version, "attempt": attempt, "uri": uri, "size_bytes": 1000}
    if os.path.isfile(uri):
        status = os.stat(uri)
        row |= {"version": hash_text(read_version(status)), "size_bytes": status.st_size}
    if tracks is None:
        return row | {"status": "failed", "error": "no index"}
    seen = {"duration_s": 1.0, "fps": 25.0, "width": 640, "height": 360, "codec": "h264", "first_pts": 0}
    return row | seen | {"status": "ok"}


def face(track: int, moment: int, emotion: str) -> dict[str, Any]:
    probs = [0.9 if name == emotion else 0.1 / 6 for name in EMOTIONS]
    box = {"box_x0": 0.1 + 0.3 * track, "box_y0": 0.2, "box_x1": 0.3 + 0.3 * track, "box_y1": 0.6}
    quality = {"face_score": 0.99, "face_px": 144.0, "blur": 0.5, "roll_deg": 0.0}
    quality |= {"yaw_deg": 0.0, "pitch_deg": 0.0}
    return {
        "time_s": moment / 5,
        "frame_index": 5 * moment,
        "track": track,
        **box,
        **quality,
        "probs": probs,
    }


def make_segment_result(segment: dict[str, Any], tracks: Tracks) -> dict[str, Any]:
    faces = [
        face(number, moment, track[moment])
        for moment in range(5)
        for number, track in enumerate(tracks)
        if moment < len(track)
    ]
    counts = [sum(f["frame_index"] == 5 * moment for f in faces) for moment in range(5)]
    moments = [{"time_s": m / 5, "frame_index": 5 * m, "faces": n} for m, n in enumerate(counts)]
    timings = {"decode_s": 0.1, "detect_s": 0.2, "crop_s": 0.0, "recognize_s": 0.1}
    return {
        **{name: value for name, value in segment.items() if name in RESULTS_SCHEMA.names},
        **{"status": "ok", "read_s": 1.0, "frames": 25, "moments": moments, "faces": faces},
        **{"model_id": CARD.model_id, **timings},
    }


def plan_videos(
    out: FolderLike,
    videos: Mapping[str, Tracks | None],
    version: str = "1",
    attempt: int = 0,
    **probed_columns: Any,
) -> pa.Table:
    """Add a planning round to a run; return its segments."""
    known = {row["video_id"]: row["bucket"] for row in read_planned_videos(out).to_pylist()}
    rows = pa.Table.from_pylist(
        [
            probed(uri, tracks, version, attempt) | {"bucket": known.get(video_id(uri))} | probed_columns
            for uri, tracks in videos.items()
        ],
        schema=PROBED_SCHEMA,
    )
    plan = plan_segments(rows, AnalyzeConfig(), CARD.half_window_s, CARD.model_id, workers=1)
    add_planning_round(out, rows, plan)
    return plan


def read_plan(out: FolderLike) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all planned videos and their segments."""
    videos = read_planned_videos(out)
    segments = [row for part in read_planned_segments(out, videos) for row in part.to_pylist()]
    return videos.to_pylist(), segments


def write_video_results(out: FolderLike, plan: pa.Table, videos: Mapping[str, Tracks | None]) -> None:
    """Write the results of planned segments, one file for each bundle."""
    results = open_folder(out).subfolder("results")
    results.create()
    for bundle_id in dict.fromkeys(plan["bundle_id"].to_pylist()):
        segments = [row for row in plan.to_pylist() if row["bundle_id"] == bundle_id]
        rows = [make_segment_result(segment, videos[segment["uri"]] or []) for segment in segments]
        write_bundle(results, pack_bundle(bundle_id, pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA)))


def add_videos(
    out: FolderLike, videos: Mapping[str, Tracks | None], version: str = "1", attempt: int = 0
) -> None:
    """Add a planning round, its results and its rows in the tables."""
    write_video_results(out, plan_videos(out, videos, version, attempt), videos)
    finalize(out)


def write_run(out: Folder, videos: Mapping[str, Tracks | None], in_bucket: int = 10_000) -> Folder:
    """Write a finished run of these videos, by uri; `in_bucket` limits the videos in a bucket."""
    open_folder(out).create()
    create_run(out, AnalyzeConfig(), CARD, bucket_s=in_bucket * MIN_BUCKET_SHARE_S)
    add_videos(out, videos)
    return out


def read_all_rows(out: FolderLike) -> dict[str, pd.DataFrame]:
    """Return all rows of the three tables, as readers see them, in a fixed order."""
    keys = {"tracks": "video_id, track_id, time_s", "moments": "video_id, time_s", "videos": "video_id"}
    timeline = open_timeline(out)
    return {name: timeline.sql(f"SELECT * FROM {name} ORDER BY {keys[name]}").df() for name in TABLES}


def are_tables_equal(one: Mapping[str, pd.DataFrame], other: Mapping[str, pd.DataFrame]) -> bool:
    """Return whether all rows are equal to the last bit."""
    return all(one[name].equals(other[name]) for name in TABLES)


def read_write_times(folder: Path) -> dict[Path, int]:
    """Return when each file and folder below `folder` was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def flip_bits(path: Path, position: int, bits: int = 1) -> None:
    """Flip bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= bits
    path.write_bytes(content)


def flip_bit_of_column(path: Path, column: str) -> None:
    """Flip a bit at the end of a column's data in a Parquet file, which only a full read detects."""
    group = pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    flip_bits(path, start + chunk.total_compressed_size - 3, 4)


def start_process(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Call a function in its own process, which starts sooner than a command line."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs"])
    child = context.Process(target=function, args=arguments)
    child.start()
    return child


def kill_at(fault: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in its own process, which must die at a fault point."""
    child = start_process(_with_fault, fault, dict(os.environ), function, *arguments)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, f"{fault}: ended with {child.exitcode}"


def _with_fault(
    fault: str, environment: Mapping[str, str], function: Callable[..., Any], *arguments: Any
) -> None:
    os.environ |= environment  # the server's is that in which it was started
    os.environ["FER_BATCH_FAULT"] = fault
    function(*arguments)


def temporary_path(path: Path, host: str = "", pid: int = 0) -> Path:
    """Return the temporary file that a process leaves if it is killed while it writes `path`."""
    return path.with_name(f".{path.name}.{host or socket.gethostname()}.{pid}.tmp")


@dataclass(frozen=True, kw_only=True)
class VideoContent:
    """The rows of a video: `faces` are (track, time_s, emotion, its probability, left edge of the box)."""

    duration_s: float
    moments_s: Sequence[float]
    faces: Sequence[tuple[int, float, str, float, float]] = ()
    height: Mapping[int, float] = field(default_factory=dict)
    """The height of a track's boxes as a fraction of the frame; 0.2 by default."""
    columns: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)
    """Values of other columns of `tracks` in all rows of a track; null by default."""
    start_s: float | None = None
    """The time of the first frame in the file."""


def measure_video_steps(
    times_s: Sequence[float],
    read_s: float,
    frame_index: Sequence[int] | None = None,
    frames: int | None = None,
) -> list[float]:
    """Measure the steps of one video, by default with five frames from each sampled frame on."""
    index = np.arange(len(times_s)) * 5 if frame_index is None else np.array(frame_index)
    counts = np.array([5 * len(times_s) if frames is None else frames])
    video = np.zeros(len(times_s), np.int64)
    return measure_steps(video, np.array(times_s, np.float64), index, np.array([read_s]), counts).tolist()


def write_tables(out: Path, videos: Mapping[str, VideoContent]) -> Path:
    """Write only the tables of a finished run, enough for queries, with one video in each bucket."""
    out.mkdir(parents=True)
    create_run(out, AnalyzeConfig(), CARD)
    faces, moments, rows = [], [], []
    for bucket, (uri, seen) in enumerate(videos.items()):
        key = {"video_id": video_id(uri), "bucket": bucket}
        read_s = seen.duration_s
        step_of = dict(zip(seen.moments_s, measure_video_steps(seen.moments_s, read_s), strict=True))
        rows.append(
            key
            | {"version": "1", "uri": uri, "status": "ok", "moments": len(seen.moments_s), "attempt": 0}
            | {"duration_s": seen.duration_s, "read_s": read_s, "width": 640, "height": 360, "fps": 25.0}
            | {"start_s": seen.start_s}
        )
        for time_s in seen.moments_s:
            count = sum(face[1] == time_s for face in seen.faces)
            row = {"time_s": time_s, "step_s": step_of[time_s], "frame_index": round(25 * time_s)}
            moments.append(key | row | {"faces": count})
        for track, time_s, emotion, probability, left in seen.faces:
            height = seen.height.get(track, 0.2)
            box = {"box_x0": left, "box_x1": left + 0.1, "box_y0": 0.1, "box_y1": 0.1 + height}
            rest = (1 - probability) / (len(EMOTIONS) - 1)
            probs = {probability_column(e): probability if e == emotion else rest for e in EMOTIONS}
            face_row = {"track_id": track, "time_s": time_s, "step_s": step_of[time_s]}
            face_row |= {"emotion": emotion, "confidence": probability}
            faces.append(key | {"uri": uri} | box | face_row | probs | dict(seen.columns.get(track, {})))
    tables = {}
    for name, schema, content in (
        ("tracks", tracks_schema(EMOTIONS), faces),
        ("moments", MOMENTS_SCHEMA, moments),
        ("videos", VIDEOS_SCHEMA, rows),
    ):
        write_deltalake(
            str(out / name), pa.Table.from_pylist(content, schema=schema), partition_by=["bucket"]
        )
        tables[name] = DeltaTable(str(out / name))
    write_snapshot(out, tables, "")
    return out
