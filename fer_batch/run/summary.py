"""The summary of a finished run, computed from its tables."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.run.record import SUCCESS_FILE
from fer_batch.run.snapshot import list_table_files, open_tables, read_snapshot
from fer_batch.run.tables import VIDEO_KEY, fill_attempts, read_videos_table
from fer_batch.schema import VIDEOS_SCHEMA
from fer_batch.storage.folder import FolderLike, open_folder


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


def summarize_run(out: FolderLike) -> RunSummary:
    """Compute the summary of a finished run; raise OutputError if the run in `out` is not finished."""
    folder = open_folder(out)
    tables = open_tables(folder)
    videos = read_videos_table(tables["videos"], VIDEOS_SCHEMA).sort_by("uri")
    counts = videos.column("status").value_counts().to_pylist()
    failed = videos.filter(pc.invert(pc.is_in(videos.column("status"), pa.array(["ok", "no_faces"]))))
    track_files = list_table_files("tracks", tables["tracks"])
    return RunSummary(
        videos={row["values"]: row["counts"] for row in counts},
        video_s=pc.sum(videos.column("read_s")).as_py() or 0.0,
        moments=pc.sum(videos.column("moments")).as_py() or 0,
        faces=sum(pq.read_metadata(folder.arrow_source(name)).num_rows for name in track_files),
        tracks=pc.sum(videos.column("tracks")).as_py() or 0,
        failures=tuple(VideoFailure(**row) for row in failed.select(["uri", "status", "error"]).to_pylist()),
    )


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
