"""Turn the results of a run into the tables that people query. It reads no video and can be repeated.

Readers see the previous tables until `snapshot.json` is replaced. The next start removes everything that a
killed run has written after that snapshot.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.run.buckets import PlannedBucket, WrittenBucket, commit_buckets, write_bucket
from fer_batch.run.plan import (
    find_last_round,
    read_planned_segments,
    read_planned_videos,
    split_by_bucket,
)
from fer_batch.run.record import SUCCESS_FILE, TOTALS_FILE, RunRecord, read_run, remove_leftovers
from fer_batch.run.results import list_done_bundles
from fer_batch.run.snapshot import (
    TABLES,
    UNCLEAN_MARKER,
    count_rows,
    group_table_files,
    list_table_files,
    lock_if_unread,
    read_snapshot,
    read_versions,
    write_snapshot,
)
from fer_batch.run.summary import (
    TOTALS_SCHEMA,
    RunSummary,
    read_totals,
    summarize_buckets,
    write_totals,
)
from fer_batch.run.tables import (
    create_tables,
    open_current_tables,
    remove_unread_files,
    sync_log,
    table_schemas,
)
from fer_batch.schema import PLAN_SCHEMA
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

BUCKETS_PER_PLAN_READ = 64
"""Buckets whose planned segments are held in memory."""
MAX_LISTED_PROBLEMS = 20
"""Inconsistencies that an error message lists."""


def finalize(
    out: FolderLike, rewrite_all: bool = False, map_buckets: Callable[..., Iterable[Any]] = map
) -> RunSummary:
    """Stitch the results, replace the buckets that have changed, and write `_SUCCESS.json` last.

    A bucket has changed if a planning round since the last `finalize` has one of its videos, or if its number
    of videos differs from the plan. `rewrite_all` replaces all buckets. The tables are written again in any
    case if one is missing or was written by an earlier version. `map_buckets` calls a function for each
    bucket as `map` does; `analyze` does so on the nodes of the cluster.

    Raises OutputError if `out` contains no run, if a planned segment has no result, or if the written rows
    are inconsistent. Readers then keep the previous tables, unless those are missing, damaged or older.
    """
    folder = open_folder(out)
    run = read_run(folder)
    remove_leftovers(folder)
    schemas = table_schemas(run.classes, run.columns)
    tables = open_current_tables(folder, schemas)
    if tables is None:
        _check_all_done(folder, read_planned_videos(folder))  # readers keep the old tables if this fails
        tables = create_tables(folder, schemas, run)
    else:
        remove_unread_files(folder, in_store=True)
    has_stale_files = folder.exists(UNCLEAN_MARKER)  # which readers may use
    totals = TOTALS_SCHEMA.empty_table() if rewrite_all else read_totals(folder, tables)
    buckets = _select_buckets(folder, tables, rewrite_all)
    if buckets:
        folder.remove_file(SUCCESS_FILE)
        written = _write_buckets(folder, run, buckets, map_buckets)
        replaced = commit_files(folder, tables, buckets, written)
        kept = totals.filter(pc.invert(pc.is_in(totals.column("bucket"), pa.array(buckets, pa.int32()))))
        new = pa.Table.from_pylist([bucket.totals for bucket in written], schema=TOTALS_SCHEMA)
        totals = pa.concat_tables([kept, new])
    snapshot, last_round = read_snapshot(folder), find_last_round(folder)
    current = read_versions(tables), last_round
    is_current = snapshot is not None and (snapshot.tables, snapshot.round) == current
    if not is_current or not folder.exists(TOTALS_FILE):  # `forget` removes the totals
        write_totals(folder, totals, tables)
    if not is_current:
        write_snapshot(folder, tables, last_round)
    fault_point("finalize.snapshot")
    if buckets:
        if has_stale_files:
            remove_unread_files(folder, in_store=False)
        else:
            _remove_replaced_files(folder, replaced)
        for table in tables.values():
            table.cleanup_metadata()
    summary = summarize_buckets(totals)
    counts = {"videos": summary.videos, "moments": summary.moments, "faces": summary.faces}
    folder.write_json(SUCCESS_FILE, counts, "success")
    fault_point("finalize.success")
    return summary


def _select_buckets(folder: OutputFolder, tables: Mapping[str, DeltaTable], select_all: bool) -> list[int]:
    """Select the buckets of new planning rounds, and those with another number of videos than planned."""
    videos = read_planned_videos(folder, columns=["bucket"])
    counts = videos.column("bucket").value_counts().to_pylist()
    planned = {row["values"]: row["counts"] for row in counts}
    snapshot = read_snapshot(folder)
    if select_all or snapshot is None:
        stored_buckets = (bucket for name in TABLES for bucket in group_table_files(name, tables[name]))
        return sorted(planned.keys() | set(stored_buckets))
    stored = count_rows(folder, "videos", tables["videos"])
    later = read_planned_videos(folder, after=snapshot.round, columns=["bucket"]).column("bucket")
    differing = {bucket for bucket, _ in planned.items() ^ stored.items()}
    return sorted(differing.union(pc.unique(later).to_pylist()))


def _write_buckets(
    folder: OutputFolder, run: RunRecord, buckets: list[int], map_buckets: Callable[..., Iterable[Any]]
) -> list[WrittenBucket]:
    """Write the files of these buckets; raise OutputError if a result is missing or rows are inconsistent."""
    videos = read_planned_videos(folder)
    in_buckets = pc.is_in(videos.column("bucket"), pa.array(buckets, pa.int32()))
    videos = videos.filter(in_buckets).combine_chunks()
    _check_all_done(folder, videos)
    return write_files(folder, run, videos, map_buckets)


def write_files(
    folder: OutputFolder, run: RunRecord, videos: pa.Table, map_buckets: Callable[..., Iterable[Any]]
) -> list[WrittenBucket]:
    """Write the files of the buckets of these planned videos, without a commit.

    Raises OutputError if a result is missing or rows are inconsistent.
    """
    folder.write_bytes(UNCLEAN_MARKER, b"", "marker")
    write = functools.partial(write_bucket, folder, run)
    written: list[WrittenBucket] = list(map_buckets(write, _iterate_buckets(folder, videos)))
    problems = [problem for bucket in written for problem in bucket.problems]
    if problems:
        more = len(problems) - MAX_LISTED_PROBLEMS
        raise OutputError(
            f"The tables in {folder} are inconsistent: {'; '.join(problems[:MAX_LISTED_PROBLEMS])}"
            + (f"; and {more} more" if more > 0 else "")
        )
    return written


def commit_files(
    folder: OutputFolder,
    tables: Mapping[str, DeltaTable],
    buckets: list[int],
    written: list[WrittenBucket],
) -> list[str]:
    """Replace the buckets in each table in one commit; return the replaced files."""
    replaced: list[str] = []
    for name in TABLES:
        before, version = list_table_files(name, tables[name]), tables[name].version()
        files = [bucket.files[name] for bucket in written if name in bucket.files]
        commit_buckets(tables[name], buckets, files)
        sync_log(folder, name, tables[name], version)
        replaced += set(before).difference(list_table_files(name, tables[name]))
        fault_point(f"finalize.{name}")
    return replaced


def _remove_replaced_files(folder: OutputFolder, files: list[str]) -> None:
    """Remove files that no snapshot needs any more, unless there may be readers: then the next start does."""
    with lock_if_unread(folder) as is_unread:
        if is_unread:
            for file in files:
                folder.remove_file(file)
            folder.remove_file(UNCLEAN_MARKER)


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


def _iterate_buckets(folder: OutputFolder, videos: pa.Table) -> Iterator[PlannedBucket]:
    """Yield the buckets of these videos with their planned segments, reading the plan for many at a time."""
    buckets = list(split_by_bucket(videos))
    for first in range(0, len(buckets), BUCKETS_PER_PLAN_READ):
        group = buckets[first : first + BUCKETS_PER_PLAN_READ]
        members = pa.concat_tables(bucket_videos for _, bucket_videos in group).combine_chunks()
        segments = pa.concat_tables([PLAN_SCHEMA.empty_table(), *read_planned_segments(folder, members)])
        position = pc.index_in(segments.column("video_id"), members.column("video_id").combine_chunks())
        segment_buckets = members.column("bucket").take(position)
        for number, bucket_videos in group:
            yield PlannedBucket(
                number=number,
                videos=bucket_videos,
                segments=segments.filter(pc.equal(segment_buckets, number)),
            )
