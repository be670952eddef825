"""Remove all traces of a video from the folder of a run: results, plan, tables, and their older versions."""

import json
import os
import uuid
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from fer_batch.errors import InputError, OutputError
from fer_batch.faults import fault_point
from fer_batch.run.buckets import commit_buckets, write_file
from fer_batch.run.finalize import finalize
from fer_batch.run.older_results import conform_results
from fer_batch.run.people import drop_videos, forget_persons
from fer_batch.run.plan import read_planned_segments, read_planned_videos
from fer_batch.run.record import SUCCESS_FILE, TOTALS_FILE, read_run
from fer_batch.run.results import list_done_bundles, remove_damaged_file, write_bundle
from fer_batch.run.snapshot import (
    SNAPSHOT_FILE,
    TABLES,
    UNCLEAN_MARKER,
    group_table_files,
    read_snapshot,
    write_snapshot,
)
from fer_batch.run.tables import (
    open_current_tables,
    remove_stale_files,
    table_schemas,
)
from fer_batch.schema import pack_bundle
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.storage.lease import hold_lease

FORGET_MARKER = ".forget.json"
"""Lists the videos that are being forgotten, from the first step to the last."""
MAX_LISTED_VIDEOS = 10
"""Candidates that the error for an ambiguous name lists."""


def forget_videos(out: FolderLike, names: Sequence[str]) -> list[str]:
    """Remove everything that `out` contains about videos; return their uris.

    Each video is given by its id, uri or file name.

    Readers that have the tables open may fail. After a kill at any step, the next start of `forget`,
    `analyze` or `finalize` completes the removal. Raises InputError, with nothing changed, if a name
    matches no video or several. Raises OutputError if `out` contains no run, is in use, or cannot be read.
    """
    folder = open_folder(out).absolute()
    read_run(folder)
    with hold_lease(folder, "forget"):
        videos = read_forget_marker(folder)
        known = videos | _read_planned_uris(folder)
        found = [find_video(folder, name, known) for name in names]
        videos |= {video_id: known[video_id] for video_id in found}
        if videos:
            folder.write_json(FORGET_MARKER, {"videos": videos})
            fault_point("forget.marker")
            complete_forget(folder)
    return sorted(videos.values())


def complete_forget(out: FolderLike) -> None:
    """Repeat all steps of an unfinished `forget_videos`, if there is one. The caller holds the lease."""
    folder = open_folder(out)
    if not folder.exists(FORGET_MARKER):
        return
    video_ids = set(read_forget_marker(folder))
    folder.remove_file(SUCCESS_FILE)
    for pattern in (".*.tmp", "plan/.*.tmp", "results/.*.tmp"):
        for name in folder.find_names(pattern):
            folder.remove_file(name)
    _strip_results(folder.subfolder("results"), video_ids)
    fault_point("forget.results")
    _strip_plan(folder.subfolder("plan"), video_ids)
    fault_point("forget.plan")
    forget_persons(folder, video_ids)
    _strip_tables(folder, video_ids)
    fault_point("forget.tables")
    try:
        done = list_done_bundles(folder.subfolder("results"))
        rounds = read_planned_segments(folder, read_planned_videos(folder), ["bundle_id"])
        if all(done.issuperset(segments.column("bundle_id").to_pylist()) for segments in rounds):
            finalize(folder)
        fault_point("forget.finalized")
    finally:  # these videos are forgotten even if the others cannot be finalized
        folder.remove_file(FORGET_MARKER)


def read_forget_marker(out: FolderLike) -> dict[str, str]:
    """Return ids and uris of the videos whose removal has started and is not finished."""
    try:
        return dict(json.loads(open_folder(out).read_bytes(FORGET_MARKER))["videos"])
    except FileNotFoundError:
        return {}


def _list_parquet(folder: OutputFolder) -> list[str]:
    return sorted(name for name in folder.list_names() if name.endswith(".parquet"))


def _read_planned_uris(folder: OutputFolder) -> dict[str, str]:
    """Return ids and uris of all videos in `plan/`, including rounds without a second file."""
    plan = folder.subfolder("plan")
    known: dict[str, str] = {}
    for name in _list_parquet(plan):
        rows = pq.read_table(plan.arrow_source(name), columns=["video_id", "uri"]).to_pydict()
        known |= zip(rows["video_id"], rows["uri"], strict=True)
    return known


def find_video(folder: OutputFolder, name: str, known: dict[str, str]) -> str:
    """Return the id of the video with this id, uri or file name, as `Timeline` finds it."""
    names = {name, os.path.abspath(name)}
    exact = [video_id for video_id, uri in known.items() if not names.isdisjoint((video_id, uri))]
    matches = exact or [video_id for video_id, uri in known.items() if uri.endswith(f"/{name}")]
    if not matches:
        query = f'`fer-batch query {folder} "SELECT uri FROM videos"`'
        raise InputError(f"{folder} has no video {name}; {query} lists its videos")
    if len(matches) > 1:
        uris = sorted(known[video_id] for video_id in matches)
        more = f" and {len(uris) - MAX_LISTED_VIDEOS} more" if len(uris) > MAX_LISTED_VIDEOS else ""
        raise InputError(
            f"{name} matches {len(uris)} videos: {', '.join(uris[:MAX_LISTED_VIDEOS])}{more}; "
            "give the whole path of one"
        )
    return matches[0]


def _strip_results(results: OutputFolder, video_ids: set[str]) -> None:
    """Rewrite the bundles that contain these videos; remove bundles that contain nothing else.

    A rewritten bundle keeps its name, so it stays done.
    """
    for name in _list_parquet(results):
        try:
            with results.open(name) as file:
                owners = set(pq.read_table(file, columns=["video_id"]).column("video_id").to_pylist())
                rows = pq.read_table(file, page_checksum_verification=True) if owners & video_ids else None
        except (pa.ArrowException, OSError) as error:
            # A damaged file may contain the videos, and has to be processed again anyway.
            remove_damaged_file(results, name, error)
            continue
        if owners <= video_ids:
            results.remove_file(name)
        elif rows is not None:
            rest = conform_results(drop_videos(rows, video_ids))
            write_bundle(results, pack_bundle(name.removesuffix(".parquet"), rest))


def _strip_plan(plan: OutputFolder, video_ids: set[str]) -> None:
    for name in _list_parquet(plan):
        rows = pq.read_table(plan.arrow_source(name))
        rest = drop_videos(rows, video_ids)
        if rest.num_rows < rows.num_rows:
            plan.write_parquet(name, rest)


def _strip_tables(folder: OutputFolder, video_ids: set[str]) -> None:
    """Remove the rows from the current tables, all files of older versions, and their entries in the log.

    The entries contain no names, but bounds of times and probabilities. Tables that cannot be continued or
    read are removed; `finalize` writes them again.
    """
    run, snapshot = read_run(folder), read_snapshot(folder)
    tables = open_current_tables(folder, table_schemas(run.classes, run.columns))
    folder.remove_file(TOTALS_FILE)
    if tables is None or snapshot is None:
        _remove_tables(folder)
        return
    folder.write_bytes(UNCLEAN_MARKER, b"", "marker")
    try:
        _replace_buckets(folder, tables, video_ids)
    except OutputError:
        _remove_tables(folder)
        return
    write_snapshot(folder, tables, snapshot.round, snapshot.partial)
    fault_point("forget.snapshot")
    remove_stale_files(folder)
    for name, table in tables.items():
        table.create_checkpoint()
        log = f"{name}/_delta_log"
        for number in range(table.version()):
            folder.remove_file(f"{log}/{number:020d}.json")
            folder.remove_file(f"{log}/{number:020d}.checkpoint.parquet")
    folder.remove_file(UNCLEAN_MARKER)


def _remove_tables(folder: OutputFolder) -> None:
    folder.remove_file(SNAPSHOT_FILE)
    for name in TABLES:
        folder.remove_folder(name)


def _replace_buckets(folder: OutputFolder, tables: Mapping[str, DeltaTable], video_ids: set[str]) -> None:
    """Write the buckets of these videos again without them; raises OutputError if a file cannot be read."""
    for name, table in tables.items():
        buckets, files = [], []
        for bucket, paths in group_table_files(name, table).items():
            owners = _read_files(folder, paths, ["video_id"]).column("video_id")
            if not video_ids & set(pc.unique(owners).to_pylist()):
                continue
            buckets.append(bucket)
            rest = drop_videos(_read_files(folder, paths), video_ids)
            if len(rest):
                files.append(write_file(folder, name, bucket, rest, str(uuid.uuid4())))
        if buckets:
            commit_buckets(table, buckets, files)
        fault_point(f"forget.{name}")


def _read_files(folder: OutputFolder, files: list[str], columns: list[str] | None = None) -> pa.Table:
    try:
        return pa.concat_tables(pq.ParquetFile(folder.arrow_source(file)).read(columns) for file in files)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"Cannot read the tables in {folder}: {error}") from error
