"""The plan of a run on disk, the folder `plan/`: videos and their segments in planning rounds.

Each start that adds videos appends rounds. A round consists of two files: the segments, and then the probed
videos. The round counts as soon as the second file exists.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.inputs.segments import planned_durations_s
from fer_batch.run.record import SUCCESS_FILE, RunRecord, read_run
from fer_batch.schema import PLAN_SCHEMA, PROBED_SCHEMA, conform_table
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

MIN_BUCKET_SHARE_S = 10.0
"""Least duration that a video counts for in a bucket, so that a bucket has at most some thousand videos."""
FILLED_KEY = b"bucket_s"
"""Key in a round's metadata: total seconds of video in all buckets."""
VIDEOS_SUFFIX = ".videos.parquet"


def select_sources_to_plan(sources: pa.Table, known: pa.Table, failed: pa.Table) -> pa.Table:
    """Select the listed files that have to be planned: new files, changed files, and files to retry.

    `sources` has rows of `schema.SOURCES_SCHEMA`, `known` the planned videos. `failed` has `video_id`,
    `version` and `attempt` of the videos to retry. The result has two more columns: `attempt` counts the
    attempts at the file's version, and `bucket` is the bucket of a known video. A file that no longer exists
    is not planned again and keeps its results.
    """

    def match(table: pa.Table, name: str) -> pa.ChunkedArray:
        position = pc.index_in(sources.column("video_id"), table.column("video_id").combine_chunks())
        return table.column(name).take(position)

    readable = sources.column("error").is_null()
    version, attempt = match(known, "version"), match(known, "attempt")
    changed = pc.and_(readable, pc.not_equal(version, sources.column("version")))
    same = pc.and_(pc.equal(match(failed, "version"), version), pc.equal(match(failed, "attempt"), attempt))
    retried = pc.and_not(pc.and_(readable, same), changed).fill_null(False)
    number = pc.if_else(retried, pc.add(attempt, 1), 0).fill_null(0).cast(pa.int32())
    selected = pc.or_(pc.or_(version.is_null(), changed.fill_null(False)), retried)
    sources = sources.append_column("bucket", match(known, "bucket"))
    return sources.append_column("attempt", number).filter(selected)


def changed_metadata(sources: pa.Table, known: pa.Table) -> pa.Table:
    """Select the planned videos, rows of `schema.PROBED_SCHEMA`, whose manifest columns have changed.

    The result has the new values in `extra`.
    """
    position = pc.index_in(known.column("video_id"), sources.column("video_id").combine_chunks())
    extra = sources.column("extra").take(position)
    changed = pc.and_(extra.is_valid(), pc.not_equal(extra, known.column("extra").fill_null("")))
    return _set_column(known, "extra", extra).filter(changed.fill_null(False))


def add_planning_round(out: FolderLike, videos: pa.Table, segments: pa.Table) -> None:
    """Add probed videos and their segments to the plan.

    After a crash the plan has the whole round or none of it.
    """
    folder = open_folder(out)
    folder.remove_file(SUCCESS_FILE)
    plan = folder.subfolder("plan")
    plan.create()
    earlier = _list_rounds(plan)
    last = earlier[-1] if earlier else None
    videos, filled_s = _assign_buckets(videos, read_run(folder), plan, last)
    number = f"{int(last[:6]) + 1 if last else 1:06d}"
    plan.write_parquet(f"{number}.parquet", segments, step="plan")
    fault_point("plan.segments")
    plan.write_parquet(f"{number}{VIDEOS_SUFFIX}", videos, {FILLED_KEY.decode(): f"{filled_s:.3f}"}, "plan")
    fault_point("plan.videos")


def find_last_round(out: FolderLike) -> str:
    """Return the name of the last planning round; empty if nothing is planned."""
    return "".join(_list_rounds(open_folder(out).subfolder("plan"))[-1:])[:6]


def read_planned_videos(out: FolderLike, after: str = "", columns: Sequence[str] | None = None) -> pa.Table:
    """Read all probed videos, rows of `schema.PROBED_SCHEMA`, each from the last round that contains it.

    `round` and `bucket` are never null. `after` is the name of a round: then the result has only the videos
    of later rounds. `columns` limits the columns. Raises OutputError if a round, or `run.json`, cannot be
    read.
    """
    folder = open_folder(out)
    buckets = read_run(folder).buckets
    plan = folder.subfolder("plan")
    names = PROBED_SCHEMA.names if columns is None else list(columns)
    schema = pa.schema([PROBED_SCHEMA.field(name) for name in dict.fromkeys(["video_id", *names])])
    rounds = [schema.empty_table()]
    for name in _list_rounds(plan):
        if name[:6] <= after:
            continue
        videos = _read_round(plan, name, schema)
        if "bucket" in names and videos.column("bucket").null_count:
            hashed = pa.array(_hash_buckets(videos.column("video_id"), buckets), pa.int32())
            videos = _fill_nulls(videos, "bucket", hashed)
        if "attempt" in names:
            videos = _fill_nulls(videos, "attempt", pa.scalar(0, pa.int32()))
        if "round" in names:
            videos = _fill_nulls(videos, "round", pa.scalar(name[:6]))
        rounds.append(videos)
    videos = pa.concat_tables(rounds)
    number = videos.column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()
    last = np.zeros(number.max(initial=-1) + 1, np.int64)
    last[number] = np.arange(len(number))  # of equal numbers, the last row counts
    videos = videos if len(last) == len(videos) else videos.take(pa.array(np.sort(last)))
    return videos.select(names)


def read_planned_segments(
    out: FolderLike, videos: pa.Table, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """Read the segments, rows of `schema.PLAN_SCHEMA`, of the given planned videos, round by round.

    `columns` limits the columns. Raises OutputError if a round cannot be read.
    """
    plan = open_folder(out).subfolder("plan")
    schema = PLAN_SCHEMA
    if columns is not None:
        schema = pa.schema([f for f in PLAN_SCHEMA if f.name in ("video_id", *columns)])
    rounds = videos.select(["round", "video_id"]).sort_by("round")
    first = 0
    for row in rounds.column("round").value_counts().to_pylist():
        video_ids = rounds.column("video_id").slice(first, row["counts"]).combine_chunks()
        first += row["counts"]
        segments = _read_round(plan, f"{row['values']}.parquet", schema)
        segments = segments.filter(pc.is_in(segments.column("video_id"), video_ids))
        yield segments if columns is None else segments.select(columns)


def split_by_bucket(videos: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Split planned videos by their bucket, in order."""
    videos = videos.sort_by("bucket").combine_chunks()
    first = 0
    for row in videos.column("bucket").value_counts().to_pylist():
        yield row["values"], videos.slice(first, row["counts"])
        first += row["counts"]


def _list_rounds(plan: OutputFolder) -> list[str]:
    """Return the names of the files of videos, in order."""
    return sorted(name for name in plan.list_names() if name.endswith(VIDEOS_SUFFIX) and name[0] != ".")


def _assign_buckets(
    videos: pa.Table, run: RunRecord, plan: OutputFolder, last: str | None
) -> tuple[pa.Table, float]:
    """Give each new video a bucket; also return the total seconds of video in all buckets.

    Buckets are filled in the order of planning. So the videos of a bundle are in one or two buckets, and
    later videos do not change earlier buckets. `last` is the name of the previous round.
    """
    metadata = (pq.read_schema(plan.arrow_source(last)).metadata or {}) if last else {}
    filled_s = float(metadata.get(FILLED_KEY, 0))
    is_new = videos.column("bucket").is_null().to_numpy()
    durations_s = np.maximum(np.nan_to_num(planned_durations_s(videos)), MIN_BUCKET_SHARE_S)
    durations_s = np.where(is_new, durations_s, 0)
    start_s = filled_s + np.cumsum(durations_s) - durations_s
    numbers = run.buckets + (start_s // run.bucket_s).astype(np.int32)
    buckets = pc.if_else(pa.array(is_new), pa.array(numbers, pa.int32()), videos.column("bucket"))
    return _set_column(videos, "bucket", buckets), filled_s + float(durations_s.sum())


def _hash_buckets(video_ids: pa.ChunkedArray, buckets: int) -> list[int]:
    """Compute the buckets of videos that an earlier version planned: a hash of their ids."""
    digests = (hashlib.sha256(video_id.encode()).hexdigest() for video_id in video_ids.to_pylist())
    return [int(digest[:8], 16) % buckets for digest in digests]


def _fill_nulls(videos: pa.Table, name: str, values: pa.Array | pa.Scalar) -> pa.Table:
    return _set_column(videos, name, pc.coalesce(videos.column(name), values))


def _set_column(videos: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return videos.set_column(videos.schema.get_field_index(name), PROBED_SCHEMA.field(name), values)


def _read_round(plan: OutputFolder, name: str, schema: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(plan.arrow_source(name)) as file:
            known = [column for column in schema.names if column in file.schema_arrow.names]
            return conform_table(file.read(known), schema)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(
            f"Cannot read the plan in {plan}: {error}; start again with `fer-batch analyze --overwrite`"
        ) from error
