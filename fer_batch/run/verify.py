"""Verify a run: every input has its row, and no result is missing, repeated or left over."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

BUNDLES_PER_TASK = 64
"""Result files that one task reads."""


@dataclass(frozen=True, kw_only=True)
class CheckedResult:
    """What a check of one result file has found."""

    bundle_id: str
    other_videos: tuple[str, ...] = ()
    """Ids of videos in the file that are not those of the planned segments in it."""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredBucket:
    """A bucket of the tables: its planned videos, rows of `schema.PROBED_SCHEMA`, and its files by table."""

    number: int
    videos: pa.Table
    files: dict[str, list[str]]


def verify_run(out: FolderLike, map_tasks: Callable[..., Iterable[Any]] = map) -> list[str]:
    """Describe each inconsistency of the run in `out` in one line; empty for a consistent run.

    Nothing is written. If another process writes to `out` at the moment, the first line says so: it may
    still write the missing parts. `map_tasks` calls a function for each group of result files and for each
    bucket as `map` does; `pipeline.tables.verify` does so on a cluster. Raises OutputError if `out` contains
    no run.
    """
    folder = open_folder(out)
    read_run(folder)
    problems = [
        f"{uri} is only partly forgotten: `fer-batch finalize {folder}` completes it"
        for uri in sorted(read_forget_marker(folder).values())
    ]
    try:
        problems += find_differences(folder, map_tasks)
        problems = problems or list(_check_success_file(folder))
    except OutputError as error:
        problems.append(str(error))
    holder = describe_lease_holder(folder) if problems else None
    if holder:
        problems.insert(0, f"the run is still in progress: {holder}; verify it again when it has ended")
    return [" ".join(problem.split()) for problem in problems]


def find_differences(out: FolderLike, map_tasks: Callable[..., Iterable[Any]] = map) -> list[str]:
    """Describe the differences between the plan, the results, and the tables as readers see them.

    `map_tasks` is that of `verify_run`. Raises OutputError if `out` contains no run or its plan cannot be
    read.
    """
    folder = open_folder(out)
    run = read_run(folder)
    videos = read_planned_videos(folder)
    plan = _PlanCheck(folder, videos)
    results = folder.subfolder("results")
    problems = list(_describe_results(results, videos, plan, map_tasks))
    problems = [*plan.problems, *problems]
    problems += [f"{uri}: 0 of its segments planned" for uri in plan.unplanned_videos.values()]
    if plan.pending:  # then the tables belong to an earlier plan
        advice = "run the same `fer-batch analyze` again"
        return [f"{plan.pending} of {plan.planned} segments are not done: {advice}", *problems]
    try:
        tables = open_tables(folder)
    except OutputError as error:
        return [*problems, str(error)]
    files = {name: group_table_files(name, table) for name, table in tables.items()}
    check = functools.partial(check_stored_bucket, folder, run.columns)
    for found in map_tasks(check, _iterate_stored_buckets(videos, files)):
        problems += found
    return problems


def check_result_files(results: OutputFolder, segments: pa.Table) -> list[CheckedResult]:
    """Read the result files of whole bundles, whose planned segments are given, and compare both."""
    checked = []
    for bundle_id, bundle_segments in split_into_bundles(segments):
        others: tuple[str, ...] = ()
        problem = ""
        try:
            rows = read_bundle(results, bundle_id, keep_damaged=True)
            own = set(bundle_segments.column("video_id").to_pylist())
            others = tuple(sorted(set(pc.unique(rows.column("video_id")).to_pylist()) - own))
            select_results(results, bundle_segments, rows)
        except OutputError as error:
            problem = str(error)
        checked.append(CheckedResult(bundle_id=bundle_id, other_videos=others, problem=problem))
    return checked


def check_unplanned_files(results: OutputFolder, bundle_ids: Sequence[str]) -> list[CheckedResult]:
    """Read which videos are in result files of which no planned segment needs one."""
    checked = []
    for bundle_id in bundle_ids:
        try:
            rows = pq.read_table(results.arrow_source(f"{bundle_id}.parquet"), columns=["video_id"])
            found = tuple(sorted(pc.unique(rows.column("video_id")).to_pylist()))
            checked.append(CheckedResult(bundle_id=bundle_id, other_videos=found))
        except (pa.ArrowException, OSError) as error:
            problem = f"cannot read {results}/{bundle_id}.parquet ({error}): remove it"
            checked.append(CheckedResult(bundle_id=bundle_id, problem=problem))
    return checked


def check_stored_bucket(folder: OutputFolder, columns: Mapping[str, str], bucket: StoredBucket) -> list[str]:
    """Describe each inconsistency of a bucket of the tables; `columns` are the manifest columns."""
    expected = planned_keys(bucket.videos, columns)
    return list(check_bucket(folder, bucket.number, bucket.files, expected, columns))


class _PlanCheck:
    """One pass over the planned segments, which counts them and groups those with a result file."""

    def __init__(self, folder: OutputFolder, videos: pa.Table) -> None:
        self.folder, self.videos = folder, videos
        self.done = list_done_bundles(folder.subfolder("results"))
        self.unplanned_bundles = set(self.done)
        readable = videos.filter(pc.equal(videos.column("status"), "ok"))
        self.unplanned_videos = dict(readable.select(["video_id", "uri"]).to_pandas().values)
        self.pending = self.planned = 0
        self.problems: list[str] = []

    def iterate_segments(self) -> Iterator[pa.Table]:
        """Yield the segments of BUNDLES_PER_TASK finished bundles at a time."""
        done = pa.array(sorted(self.done), pa.string())
        columns = ["segment_id", "bundle_id", "video_id", "segments"]
        for segments in read_planned_segments(self.folder, self.videos, columns):
            self.planned += len(segments)
            self.problems += _check_segment_counts(self.unplanned_videos, segments)
            finished = segments.filter(pc.is_in(segments.column("bundle_id"), done))
            self.pending += len(segments) - len(finished)
            bundles = list(split_into_bundles(finished.select(["segment_id", "bundle_id", "video_id"])))
            self.unplanned_bundles.difference_update(bundle_id for bundle_id, _ in bundles)
            for first in range(0, len(bundles), BUNDLES_PER_TASK):
                yield pa.concat_tables(rows for _, rows in bundles[first : first + BUNDLES_PER_TASK])


def _describe_results(
    results: OutputFolder, videos: pa.Table, plan: _PlanCheck, map_tasks: Callable[..., Iterable[Any]]
) -> Iterator[str]:
    """Describe the inconsistencies of all result files."""
    video_ids = set(videos.column("video_id").to_pylist())

    def describe(checked: Iterable[CheckedResult]) -> Iterator[str]:
        for result in checked:
            for video_id in result.other_videos:
                if video_id not in video_ids:
                    yield f"{results}/{result.bundle_id}.parquet contains {video_id}, which is not planned"
            if result.problem:
                yield result.problem

    for checked in map_tasks(functools.partial(check_result_files, results), plan.iterate_segments()):
        yield from describe(checked)
    names = sorted(plan.unplanned_bundles)
    groups = (names[n : n + BUNDLES_PER_TASK] for n in range(0, len(names), BUNDLES_PER_TASK))
    for checked in map_tasks(functools.partial(check_unplanned_files, results), groups):
        yield from describe(checked)


def _iterate_stored_buckets(
    videos: pa.Table, files: Mapping[str, Mapping[int, list[str]]]
) -> Iterator[StoredBucket]:
    """Yield each bucket that has planned videos or files, in order."""
    videos_of = dict(split_by_bucket(videos))
    for number in sorted(videos_of.keys() | {number for parts in files.values() for number in parts}):
        yield StoredBucket(
            number=number,
            videos=videos_of.get(number, PROBED_SCHEMA.empty_table()),
            files={name: parts.get(number, []) for name, parts in files.items()},
        )


def _check_segment_counts(unplanned: dict[str, str], segments: pa.Table) -> Iterator[str]:
    """Describe videos of a round that lack segments; remove the videos that have some from `unplanned`."""
    counts = segments.group_by("video_id").aggregate([([], "count_all"), ("segments", "max")])
    for row in counts.to_pylist():
        uri = unplanned.pop(row["video_id"], row["video_id"])
        if row["count_all"] != row["segments_max"]:
            yield f"{uri}: {row['count_all']} of {row['segments_max']} segments planned"


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
