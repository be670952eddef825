"""The summary of a finished run, from the totals of each bucket in `buckets.parquet`.

These totals save reading the table `videos`, which has a file for each bucket.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from fer_batch.run.record import SUCCESS_FILE, TOTALS_FILE
from fer_batch.run.snapshot import count_rows, open_tables, read_snapshot, read_versions
from fer_batch.run.tables import VIDEO_KEY, fill_attempts, read_videos_table
from fer_batch.schema import VIDEO_STATUSES, VIDEOS_SCHEMA, conform_table
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

FAILURE_TYPE = pa.struct([(name, pa.string()) for name in ("uri", "status", "error")])
TOTALS_SCHEMA = pa.schema(
    [
        ("bucket", pa.int32()),
        *[(status, pa.int64()) for status in VIDEO_STATUSES],
        ("video_s", pa.float64()),
        *[(name, pa.int64()) for name in ("moments", "faces", "tracks")],
        ("failures", pa.list_(FAILURE_TYPE)),
    ]
)
"""The totals of a bucket: the number of videos with each status, the seconds that were read, the numbers of
sampled frames, faces and tracks, and the videos with another status than "ok" and "no_faces"."""
VERSIONS_KEY = b"tables"
"""Key in the file's metadata: the versions of the tables that the totals belong to."""


@dataclass(frozen=True, kw_only=True)
class VideoFailure:
    """A video that was not analyzed completely."""

    uri: str
    status: str
    """One of "failed", "partial" and "no_video"."""
    error: str | None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The totals of a whole run, including the work of earlier starts."""

    videos: dict[str, int]
    """Number of videos with each status, see `schema.VIDEO_STATUSES`."""
    video_s: float
    """Seconds of video that were read."""
    moments: int
    """Number of sampled frames, the rows of the table `moments`."""
    faces: int
    """Number of faces in all sampled frames, the rows of the table `tracks`."""
    tracks: int
    failures: tuple[VideoFailure, ...] = field(repr=False)
    """The videos with another status than "ok" and "no_faces", in order of their uri."""

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as objects that JSON can represent."""
        return asdict(self) | {"failures": [asdict(failure) for failure in self.failures]}


def summarize_run(out: FolderLike, recount: bool = False) -> RunSummary:
    """Compute the summary of the videos in the tables; raise OutputError if the run in `out` has no tables.

    `recount` reads all rows of `videos` instead of the totals of each bucket in `buckets.parquet`.
    """
    folder = open_folder(out)
    tables = open_tables(folder)
    return summarize_buckets(count_buckets(folder, tables) if recount else read_totals(folder, tables))


def summarize_buckets(buckets: pa.Table) -> RunSummary:
    """Add the totals of all buckets, rows of TOTALS_SCHEMA."""
    failures = pc.list_flatten(buckets.column("failures"))
    rows = pa.table([pc.struct_field(failures, name) for name in FAILURE_TYPE.names], FAILURE_TYPE.names)
    counts = {status: pc.sum(buckets.column(status)).as_py() or 0 for status in VIDEO_STATUSES}
    return RunSummary(
        videos={status: count for status, count in counts.items() if count},
        video_s=math.fsum(buckets.column("video_s").to_pylist()),
        moments=pc.sum(buckets.column("moments")).as_py() or 0,
        faces=pc.sum(buckets.column("faces")).as_py() or 0,
        tracks=pc.sum(buckets.column("tracks")).as_py() or 0,
        failures=tuple(VideoFailure(**row) for row in rows.sort_by("uri").to_pylist()),
    )


def summarize_bucket(bucket: int, videos: pa.Table, faces: int) -> dict[str, Any]:
    """Return the row of TOTALS_SCHEMA for a bucket with these rows of `videos` and so many faces."""
    statuses = videos.column("status")
    failed = videos.filter(pc.invert(pc.is_in(statuses, pa.array(["ok", "no_faces"]))))
    return {
        "bucket": bucket,
        **{status: pc.sum(pc.equal(statuses, status)).as_py() or 0 for status in VIDEO_STATUSES},
        "video_s": math.fsum(videos.column("read_s").drop_null().to_pylist()),
        **{name: pc.sum(videos.column(name)).as_py() or 0 for name in ("moments", "tracks")},
        "faces": faces,
        "failures": failed.select(FAILURE_TYPE.names).to_pylist(),
    }


def read_totals(folder: OutputFolder, tables: Mapping[str, DeltaTable]) -> pa.Table:
    """Read the totals of each bucket, rows of TOTALS_SCHEMA, in order; count them if they are missing."""
    try:
        with pq.ParquetFile(folder.arrow_source(TOTALS_FILE)) as file:
            versions = (file.schema_arrow.metadata or {}).get(VERSIONS_KEY)
            if versions == _encode_versions(tables):
                return conform_table(file.read(), TOTALS_SCHEMA)
    except (OSError, pa.ArrowException):
        pass
    return count_buckets(folder, tables)


def write_totals(folder: OutputFolder, rows: pa.Table, tables: Mapping[str, DeltaTable]) -> None:
    """Write the totals of each bucket; they are valid for the current versions of the tables only."""
    versions = {VERSIONS_KEY.decode(): _encode_versions(tables).decode()}
    folder.write_parquet(TOTALS_FILE, rows.sort_by("bucket"), versions, "summary")


def count_buckets(folder: OutputFolder, tables: Mapping[str, DeltaTable]) -> pa.Table:
    """Compute the totals of each bucket, rows of TOTALS_SCHEMA, from the rows of `videos`."""
    videos = read_videos_table(tables["videos"], VIDEOS_SCHEMA).sort_by("bucket")
    faces = count_rows(folder, "tracks", tables["tracks"])
    rows, first = [], 0
    for counted in videos.column("bucket").value_counts().to_pylist():
        bucket_videos = videos.slice(first, counted["counts"])
        first += counted["counts"]
        rows.append(summarize_bucket(counted["values"], bucket_videos, faces.get(counted["values"], 0)))
    return pa.Table.from_pylist(rows, schema=TOTALS_SCHEMA)


def _encode_versions(tables: Mapping[str, DeltaTable]) -> bytes:
    return json.dumps(read_versions(tables)).encode()


def failed_videos(out: FolderLike) -> pa.Table:
    """Return `video_id`, `version` and `attempt` of the videos with status "failed" or "partial".

    The table is empty if the run has no tables yet.
    """
    folder = open_folder(out)
    if read_snapshot(folder) is None and not folder.exists(SUCCESS_FILE):
        return pa.schema([VIDEOS_SCHEMA.field(name) for name in VIDEO_KEY]).empty_table()
    videos = read_videos_table(open_tables(folder)["videos"], VIDEOS_SCHEMA)
    failed = videos.filter(pc.is_in(videos.column("status"), pa.array(["failed", "partial"])))
    return fill_attempts(failed).select(list(VIDEO_KEY))
