"""Verify a run: every input has its row, and no result is missing, repeated or left over."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.inputs.segments import split_into_bundles
from fer_batch.run.checks import check_bucket, planned_keys
from fer_batch.run.forget import read_forget_marker
from fer_batch.run.plan import read_planned_segments, read_planned_videos, split_by_bucket
from fer_batch.run.record import SUCCESS_FILE, TOTALS_FILE, read_run
from fer_batch.run.results import list_done_bundles, read_bundle, select_results
from fer_batch.run.snapshot import group_table_files, open_tables
from fer_batch.run.summary import summarize_run
from fer_batch.schema import PROBED_SCHEMA
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.storage.lease import describe_lease_holder


def verify_run(out: FolderLike) -> list[str]:
    """Describe each inconsistency of the run in `out` in one line; empty for a consistent run.

    Nothing is written. If another process writes to `out` at the moment, the first line says so: it may
    still write the missing parts. Raises OutputError if `out` contains no run.
    """
    folder = open_folder(out)
    read_run(folder)
    problems = [
        f"{uri} is only partly forgotten: `fer-batch finalize {folder}` completes it"
        for uri in sorted(read_forget_marker(folder).values())
    ]
    try:
        problems += find_differences(folder)
        problems = problems or list(_check_success_file(folder))
    except OutputError as error:
        problems.append(str(error))
    holder = describe_lease_holder(folder) if problems else None
    if holder:
        problems.insert(0, f"the run is still in progress: {holder}; verify it again when it has ended")
    return [" ".join(problem.split()) for problem in problems]


def find_differences(out: FolderLike) -> list[str]:
    """Describe the differences between the plan, the results, and the tables as readers see them.

    Raises OutputError if `out` contains no run or its plan cannot be read.
    """
    folder = open_folder(out)
    run = read_run(folder)
    videos = read_planned_videos(folder)
    planned_ids = videos.column("video_id").combine_chunks()
    results = folder.subfolder("results")
    problems = []
    pending = planned = 0
    done = list_done_bundles(results)
    unplanned_bundles = set(done)
    readable = videos.filter(pc.equal(videos.column("status"), "ok"))
    unplanned_videos = dict(readable.select(["video_id", "uri"]).to_pandas().values)
    columns = ["segment_id", "bundle_id", "video_id", "segments"]
    for segments in read_planned_segments(folder, videos, columns):
        planned += len(segments)
        problems += list(_check_segment_counts(unplanned_videos, segments))
        for bundle_id, bundle_segments in split_into_bundles(segments):
            if bundle_id not in done:
                pending += len(bundle_segments)
                continue
            unplanned_bundles.discard(bundle_id)
            try:
                rows = read_bundle(results, bundle_id, keep_damaged=True)
                problems += _check_video_ids(results, bundle_id, rows, planned_ids)
                select_results(results, bundle_segments, rows)
            except OutputError as error:
                problems.append(str(error))
    for bundle_id in sorted(unplanned_bundles):
        try:
            rows = pq.read_table(results.arrow_source(f"{bundle_id}.parquet"), columns=["video_id"])
            problems += _check_video_ids(results, bundle_id, rows, planned_ids)
        except (pa.ArrowException, OSError) as error:
            problems.append(f"cannot read {results}/{bundle_id}.parquet ({error}): remove it")
    problems += [f"{uri}: 0 of its segments planned" for uri in unplanned_videos.values()]
    if pending:  # then the tables belong to an earlier plan
        advice = "run the same `fer-batch analyze` again"
        return [f"{pending} of {planned} segments are not done: {advice}", *problems]
    try:
        tables = open_tables(folder)
    except OutputError as error:
        return [*problems, str(error)]
    files = {name: group_table_files(name, table) for name, table in tables.items()}
    videos_of = dict(split_by_bucket(videos))
    for bucket in sorted(videos_of.keys() | {number for parts in files.values() for number in parts}):
        own = {name: parts.get(bucket, []) for name, parts in files.items()}
        expected = planned_keys(videos_of.get(bucket, PROBED_SCHEMA.empty_table()), run.columns)
        problems += check_bucket(folder, bucket, own, expected, run.columns)
    return problems


def _check_segment_counts(unplanned: dict[str, str], segments: pa.Table) -> Iterator[str]:
    """Describe videos of a round that lack segments; remove the videos that have some from `unplanned`."""
    counts = segments.group_by("video_id").aggregate([([], "count_all"), ("segments", "max")])
    for row in counts.to_pylist():
        uri = unplanned.pop(row["video_id"], row["video_id"])
        if row["count_all"] != row["segments_max"]:
            yield f"{uri}: {row['count_all']} of {row['segments_max']} segments planned"


def _check_video_ids(
    results: OutputFolder, bundle_id: str, rows: pa.Table, planned: pa.Array
) -> Iterator[str]:
    """Describe results of videos that are not in the plan."""
    owners = rows.column("video_id")
    foreign = pc.unique(owners.filter(pc.invert(pc.is_in(owners, planned)))).to_pylist()
    for video_id in sorted(foreign):
        yield f"{results}/{bundle_id}.parquet contains {video_id}, which is not planned"


def _check_success_file(folder: OutputFolder) -> Iterator[str]:
    """Describe the differences between `_SUCCESS.json` and the tables."""
    path = f"{folder}/{SUCCESS_FILE}"
    try:
        totals = json.loads(folder.read_bytes(SUCCESS_FILE))
    except FileNotFoundError:
        yield f"{path} does not exist: run the same `fer-batch analyze` again"
        return
    except (OSError, ValueError) as error:
        yield f"cannot read {path}: {error}"
        return
    summary = summarize_run(folder, recount=True)
    if summary != summarize_run(folder):
        advice = f"`fer-batch finalize {folder}` writes it again"
        yield f"{folder}/{TOTALS_FILE} has other totals than the tables: {advice}"
    for name, count in (("videos", summary.videos), ("moments", summary.moments), ("faces", summary.faces)):
        if totals.get(name) != count:
            yield f"{path} has {totals.get(name)} {name}, the tables have {count}"
