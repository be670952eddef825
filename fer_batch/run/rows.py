"""Build the rows of the three tables for the videos of one bucket."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.inputs.manifest import manifest_values
from fer_batch.run.record import RunRecord
from fer_batch.run.results import read_results
from fer_batch.run.stitch import stitch_segments
from fer_batch.run.tables import table_schemas
from fer_batch.schema import CONTAINER_COLUMNS, VIDEOS_SCHEMA
from fer_batch.storage.folder import OutputFolder

TIMINGS = ("decode_s", "detect_s", "crop_s", "recognize_s")
OUTCOME_COLUMNS = [
    "video_id",
    "index",
    "status",
    "error",
    "read_s",
    "model_id",
    "precision",
    "detected_on",
    *CONTAINER_COLUMNS,
    *TIMINGS,
]
"""Columns of the results that determine a video's row in `videos`."""


def build_rows(
    folder: OutputFolder, run: RunRecord, bucket: int, videos: pa.Table, segments: pa.Table
) -> dict[str, pa.Table]:
    """Build the rows of each table for the planned videos of a bucket and their planned segments.

    Raises OutputError if a segment has no result or a result is damaged.
    """
    schemas = table_schemas(run.classes, run.columns)
    videos = videos.sort_by("video_id").combine_chunks()
    ids = videos.column("video_id").combine_chunks()
    results = read_results(folder.subfolder("results"), segments)
    timelines = stitch_segments(results, run.classes)
    results = results.select(OUTCOME_COLUMNS).combine_chunks()
    results = results.sort_by([("video_id", "ascending"), ("index", "ascending")])
    video_of_result = pc.index_in(results.column("video_id"), ids).to_numpy()
    edges = np.searchsorted(video_of_result, np.arange(len(ids) + 1)).tolist()
    columns = {name: results.column(name).to_pylist() for name in OUTCOME_COLUMNS}
    models = [columns["model_id"][a] if a < b else None for a, b in itertools.pairwise(edges)]
    shared = {"uri": videos.column("uri"), "model_id": pa.array(models, pa.string())}
    tables, positions = {}, {}
    for name, rows in (("moments", timelines.moments), ("tracks", timelines.tracks)):
        position = pc.index_in(rows.column("video_id"), ids)
        positions[name] = position.to_numpy()
        added = {column: values.take(position) for column, values in shared.items()}
        added["bucket"] = pa.repeat(pa.scalar(bucket, pa.int32()), len(rows))
        names = schemas[name].names
        tables[name] = pa.table(
            [rows.column(n) if n in rows.column_names else added[n] for n in names], schema=schemas[name]
        )
    faces = tables["moments"].column("faces").to_numpy()
    moments = np.bincount(positions["moments"], minlength=len(ids)).tolist()
    with_face = np.bincount(positions["moments"][faces > 0], minlength=len(ids)).tolist()
    tracks = np.zeros(len(ids), np.int64)
    np.maximum.at(tracks, positions["tracks"], tables["tracks"].column("track_id").to_numpy() + 1)
    video_rows = []
    for n, video in enumerate(videos.to_pylist()):
        own_results = {name: values[edges[n] : edges[n + 1]] for name, values in columns.items()}
        row = {name: video[name] for name in VIDEOS_SCHEMA.names if name in video}
        row |= manifest_values(video["extra"], run.columns)
        row |= _describe_outcome(video, own_results, with_face[n] > 0)
        row |= {"moments": moments[n], "moments_with_face": with_face[n], "tracks": int(tracks[n])}
        video_rows.append(row)
    return {"videos": pa.Table.from_pylist(video_rows, schema=schemas["videos"]), **tables}


def _describe_outcome(
    video: Mapping[str, Any], results: Mapping[str, list[Any]], has_faces: bool
) -> dict[str, Any]:
    """Return the columns of `videos` that follow from a video's probe and its results, in order."""
    status, error = video["status"], video["error"]
    if status == "ok":
        statuses = set(results["status"])
        error = "; ".join(dict.fromkeys(e for e in results["error"] if e)) or None
        if statuses <= {"failed"} or statuses == {"no_video"}:
            status = statuses.pop() if statuses else "failed"
        elif statuses != {"ok"}:
            status = "partial"
        else:
            status = "ok" if has_faces else "no_faces"
    container: dict[str, Any] = {}
    if video["fps"] is None:  # not probed: the container is more reliable than the manifest
        for name in CONTAINER_COLUMNS:
            values = (value for value in results[name] if value is not None)
            container[name] = next(values, video[name])
    read_s = max(results["read_s"], default=0.0)
    recognized = zip(results["status"], results["precision"], strict=True)
    precisions = {precision for segment_status, precision in recognized if segment_status != "failed"}
    devices = {device for devices in results["detected_on"] if devices for device in devices.split(", ")}
    if container.get("duration_s", video["duration_s"]) is None and status in ("ok", "no_faces"):
        container["duration_s"] = read_s
    return {
        **container,
        "status": status,
        "error": error,
        "read_s": read_s,
        "precision": precisions.pop() if len(precisions) == 1 else None,
        "detected_on": ", ".join(sorted(devices)) or None,
        "analyze_s": sum(sum(results[name]) for name in TIMINGS),
    }
