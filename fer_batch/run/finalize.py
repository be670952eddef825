"""Turn the results of a run into the tables that people query. It reads no video and can be repeated.

Readers see the previous tables until `snapshot.json` is replaced. The next start removes everything that a
killed run has written after that snapshot.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.manifest import manifest_values
from fer_batch.run.checks import check_tables
from fer_batch.run.plan import read_planned_segments, read_planned_videos
from fer_batch.run.record import SUCCESS_FILE, RunRecord, read_run, remove_leftovers
from fer_batch.run.results import list_done_bundles, read_results
from fer_batch.run.snapshot import TABLES, list_table_files, lock_if_unread, read_snapshot, write_snapshot
from fer_batch.run.stitch import stitch_segments
from fer_batch.run.summary import RunSummary, summarize_run
from fer_batch.run.tables import (
    create_tables,
    is_missing,
    open_current_tables,
    planned_keys,
    remove_stale_files,
    replace_bucket,
    stored_keys,
    sync_table,
    table_schemas,
)
from fer_batch.schema import CONTAINER_COLUMNS, PLAN_SCHEMA, VIDEOS_SCHEMA
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

BUCKETS_PER_PLAN_READ = 64
"""Buckets whose planned segments are held in memory."""
MAX_LISTED_PROBLEMS = 20
"""Inconsistencies that an error message lists."""
TIMINGS = ("decode_s", "detect_s", "crop_s", "recognize_s")
OUTCOME_COLUMNS = [
    "video_id",
    "index",
    "status",
    "error",
    "read_s",
    "model_id",
    "precision",
    *CONTAINER_COLUMNS,
    *TIMINGS,
]
"""Columns of the results that determine a video's row in `videos`."""


def finalize(out: FolderLike, rewrite_all: bool = False) -> RunSummary:
    """Stitch the results, replace the buckets that have changed, and write `_SUCCESS.json` last.

    `rewrite_all` replaces all buckets. The tables are written again in any case if one is missing or has an
    older schema. Raises OutputError if `out` contains no run, if a planned segment has no result, or if the
    written tables are inconsistent.
    """
    folder = open_folder(out)
    run = read_run(folder)
    remove_leftovers(folder)
    videos = read_planned_videos(folder)
    _check_all_done(folder, videos)
    schemas = table_schemas(run.classes, run.columns)
    tables = open_current_tables(folder, schemas) or create_tables(folder, schemas, run)
    before = {n: (table.version(), set(list_table_files(n, table))) for n, table in tables.items()}
    planned = planned_keys(videos, run.columns)
    buckets = _select_buckets(planned, stored_keys(tables["videos"], run.columns), rewrite_all)
    if buckets:
        folder.remove_file(SUCCESS_FILE)
    for bucket, bucket_videos, segments in _iterate_buckets(folder, videos, buckets):
        rows = _build_bucket(folder, run, bucket, bucket_videos, segments)
        for name in TABLES:
            replace_bucket(tables[name], bucket, rows[name].cast(schemas[name]))
            fault_point(f"finalize.{name}")
    problems = list(check_tables(folder, tables, planned, run.columns, buckets))
    if problems:
        more = len(problems) - MAX_LISTED_PROBLEMS
        raise OutputError(
            f"The tables in {folder} are inconsistent: {'; '.join(problems[:MAX_LISTED_PROBLEMS])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    if read_snapshot(folder) != {name: table.version() for name, table in tables.items()}:
        for name, table in tables.items():
            sync_table(folder, name, table, *before[name])
        write_snapshot(folder, tables)
    fault_point("finalize.snapshot")
    with lock_if_unread(folder) as is_unread:
        if is_unread:
            remove_stale_files(folder)
    for table in tables.values():
        table.cleanup_metadata()
    summary = summarize_run(folder)
    totals = {"videos": summary.videos, "moments": summary.moments, "faces": summary.faces}
    folder.write_json(SUCCESS_FILE, totals, "success")
    fault_point("finalize.success")
    return summary


def _check_all_done(folder: OutputFolder, videos: pa.Table) -> None:
    """Raise OutputError if a planned segment has no result."""
    done = pa.array(sorted(list_done_bundles(folder.subfolder("results"))), pa.string())
    planned = missing = 0
    for segments in read_planned_segments(folder, videos, ["bundle_id"]):
        planned += len(segments)
        missing += pc.sum(pc.invert(pc.is_in(segments.column("bundle_id"), done))).as_py() or 0
    if missing:
        raise OutputError(
            f"{missing} of {planned} segments in {folder} are not done: run `fer-batch analyze` on it again"
        )


def _select_buckets(planned: pa.Table, stored: pa.Table, select_all: bool) -> list[int]:
    """Select the buckets whose stored rows differ from the planned ones, or all buckets."""
    buckets: set[int] = set()
    for keys, other in ((planned, stored), (stored, planned)):
        changed = keys if select_all else keys.filter(is_missing(keys, other))
        buckets.update(pc.unique(changed.column("bucket")).to_pylist())
    return sorted(buckets)


def _iterate_buckets(
    folder: OutputFolder, videos: pa.Table, buckets: list[int]
) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Yield each bucket with its videos and their planned segments, reading the plan for many at a time."""
    for first in range(0, len(buckets), BUCKETS_PER_PLAN_READ):
        group = buckets[first : first + BUCKETS_PER_PLAN_READ]
        in_group = pc.is_in(videos.column("bucket"), pa.array(group, pa.int32()))
        members = videos.filter(in_group).combine_chunks()
        segments = pa.concat_tables([PLAN_SCHEMA.empty_table(), *read_planned_segments(folder, members)])
        position = pc.index_in(segments.column("video_id"), members.column("video_id").combine_chunks())
        segment_buckets = members.column("bucket").take(position)
        for bucket in group:
            yield (
                bucket,
                members.filter(pc.equal(members.column("bucket"), bucket)),
                segments.filter(pc.equal(segment_buckets, bucket)),
            )


def _build_bucket(
    folder: OutputFolder, run: RunRecord, bucket: int, videos: pa.Table, segments: pa.Table
) -> dict[str, pa.Table]:
    """Build the rows of all three tables for the videos of one bucket and their planned segments."""
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
    if container.get("duration_s", video["duration_s"]) is None and status in ("ok", "no_faces"):
        container["duration_s"] = read_s
    return {
        **container,
        "status": status,
        "error": error,
        "read_s": read_s,
        "precision": precisions.pop() if len(precisions) == 1 else None,
        "analyze_s": sum(sum(results[name]) for name in TIMINGS),
    }
