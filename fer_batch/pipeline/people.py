"""Group the tracks of a finished run into persons, on Ray if one is connected or named, else on this machine.

Guarded child processes describe faces and cluster the tracks of a video. Only numbers of persons leave them.
For groups across videos, the means of persons come to this process, never to Ray.
"""

import functools
import importlib.util
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.config import Limits
from fer_batch.errors import ConfigError, InputError, NodeError, OutputError
from fer_batch.faults import fault_point
from fer_batch.people.across import number_across_videos
from fer_batch.people.describe import EXTRA_MESSAGE
from fer_batch.people.group import VideoFile
from fer_batch.people.number import FACES_COLUMNS, NUMBERED_SCHEMA, number_without_pictures
from fer_batch.pipeline.child import BrokenNodeError, CallFailedError, WorkerProcess
from fer_batch.pipeline.local_run import count_cores
from fer_batch.pipeline.tables import MapTasks, open_task_map
from fer_batch.run.files import find_analyzed_file
from fer_batch.run.forget import complete_forget, find_video
from fer_batch.run.people import read_person_groups, write_person_groups
from fer_batch.run.plan import read_planned_videos
from fer_batch.run.record import read_run
from fer_batch.run.snapshot import group_table_files, open_tables
from fer_batch.run.tables import fill_attempts, read_videos_table
from fer_batch.schema import PERSON_GROUPS_SCHEMA, VIDEOS_SCHEMA
from fer_batch.storage.addresses import remember_queries, remembered_queries
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.storage.lease import hold_lease

VIDEOS_PER_TASK = 16
"""Most videos that one child process groups, one after the other. Its start takes a second."""
WRITE_INTERVAL_S = 20.0
"""Time between two writes of the numbers. A killed call repeats at most this much work."""
MAX_SLOWDOWN = 100.0
"""Time limit of a video as a multiple of its length."""
UNREADABLE = "the video cannot be read: "
"""Beginning of the reason of tracks whose video cannot be read. The next call tries it again."""

_KEYS = ["video_id", "version", "attempt"]
"""The columns that tell which analysis of a video the numbers belong to."""

Item = TypeVar("Item")
Result = TypeVar("Result")
OnGrouped = Callable[[int, int], None]
"""A callback that receives the number of videos that are done, and of all videos to do."""


@dataclass(frozen=True, kw_only=True)
class GroupTask:
    """Some videos of one bucket."""

    files: tuple[str, ...]
    """Files of the table `tracks` with the bucket, relative to the folder of the run."""
    videos: tuple[Mapping[str, Any], ...]
    """`video_id`, `version`, `attempt`, `read_s` and the `file` of each video."""


def group_people(
    out: FolderLike,
    videos: Sequence[str] = (),
    *,
    across_videos: bool = False,
    limits: Limits | None = None,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
    on_progress: OnGrouped = lambda done, videos: None,
) -> pa.Table:
    """Group the tracks of each video of a finished run into persons, and return and store their numbers.

    Biometric data are processed: dlib's network describes up to three faces of each track, in the memory of
    a child process. The descriptors are compared there and are never written. `out` gets a number for each
    track, or the reason why it has none; see the guide `security.md` for the law. The views of the timeline
    then call the persons of a video "person 1", "person 2" and so on, by their time in view, unless
    `fer-batch assign` named them.

    `videos` are ids, paths or file names, by default all. Videos that are grouped are not grouped again,
    unless they were analyzed again since. With `across_videos`, all videos are grouped together, so that a
    number means the same person in all of them. This recognizes people from one video in another. The means
    of persons are then compared in the memory of this process, and all videos are read on this machine.
    Numbers across videos replace those of each video, and the other way round. Names stay.

    The work runs on a Ray that is connected or named, as that of `finalize`, else on all CPUs of this
    machine. `on_progress` receives the number of videos that are done, and of all to do.

    Returns rows of `schema.PERSON_GROUPS_SCHEMA` for all selected videos. Raises ConfigError if the extra
    `people` is not installed, InputError for an unknown video or for some videos of a run that is grouped
    across videos, OutputError if `out` contains no finished run or is in use, and NodeError if no process
    that reads videos can be started, as on a node without the extra.
    """
    check_people_extra()
    folder = open_folder(out).absolute()
    read_run(folder)
    with hold_lease(folder, "people"):
        complete_forget(folder)
        if across_videos:
            return group_tracks(folder, videos, across_videos, limits, on_progress=on_progress)
        with open_task_map(address, insecure, verbose) as map_tasks:
            return group_tracks(folder, videos, False, limits, map_tasks, on_progress)


def check_people_extra() -> None:
    """Raise ConfigError if the extra `people` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("dlib", "face_recognition_models")):
        raise ConfigError(EXTRA_MESSAGE)


def group_tracks(
    folder: OutputFolder,
    names: Sequence[str] = (),
    across_videos: bool = False,
    limits: Limits | None = None,
    map_tasks: MapTasks = map,
    on_progress: OnGrouped = lambda done, videos: None,
) -> pa.Table:
    """Do the work of `group_people`; the caller holds the lease. `map_tasks` is `map` for this machine."""
    if across_videos and names:
        raise ConfigError("groups across videos are those of all videos: name none")
    tables = open_tables(folder)
    current = fill_attempts(read_videos_table(tables["videos"], VIDEOS_SCHEMA))
    videos = current.to_pylist()
    known = {video["video_id"]: video["uri"] for video in videos}
    selected = {find_video(folder, name, known) for name in names} or known.keys()
    videos = [video for video in videos if video["video_id"] in selected]
    groups = read_person_groups(folder)
    if names and pc.any(groups.column("across_videos")).as_py():
        raise InputError(
            f"the numbers in {folder} are those of all videos together: group all videos, so name none"
        )
    groups = groups.filter(pc.equal(groups.column("across_videos"), across_videos))
    # Rows of an earlier version or attempt of a video say nothing about its tracks.
    groups = groups.join(current.select(_KEYS), _KEYS, join_type="left semi", use_threads=False)
    done = _list_done(groups)
    pending = [video for video in videos if video["tracks"] and _key_of(video) not in done]
    if pending:
        if "yaw_deg" not in {field.name for field in tables["tracks"].schema().fields}:
            raise OutputError(
                f"The tables in {folder} are those of an earlier version: run `fer-batch finalize {folder}`"
            )
        pending = videos if across_videos else pending
        tasks = _make_tasks(folder, pending, group_table_files("tracks", tables["tracks"]))
        run_task = functools.partial(
            _run_task, folder, limits or Limits(), across_videos, dict(remembered_queries())
        )
        mapped = (
            _map_in_threads(run_task, tasks)
            if map_tasks is map or across_videos
            else map_tasks(run_task, tasks)
        )
        if across_videos:
            groups = number_across_videos(_count_videos(mapped, len(pending), on_progress))
            write_person_groups(folder, groups)
        else:
            groups = _collect(folder, groups, _count_videos(mapped, len(pending), on_progress))
    return groups.filter(pc.is_in(groups.column("video_id"), pa.array(sorted(selected), pa.string())))


def _key_of(video: Mapping[str, Any]) -> tuple[str, str, int]:
    return video["video_id"], video["version"], video["attempt"]


def _list_done(groups: pa.Table) -> set[tuple[str, str, int]]:
    """Return the keys of the videos that have numbers, without those that could not be read."""
    read = groups.filter(pc.invert(pc.starts_with(groups.column("reason").fill_null(""), UNREADABLE)))
    keys = read.group_by(_KEYS).aggregate([])
    return {_key_of(row) for row in keys.to_pylist()}


def _make_tasks(
    folder: OutputFolder, videos: Iterable[Mapping[str, Any]], files: Mapping[int, list[str]]
) -> list[GroupTask]:
    """Divide videos into tasks of one bucket each."""
    planned = read_planned_videos(folder)
    by_bucket: dict[int, list[Mapping[str, Any]]] = {}
    for video in videos:
        if video["tracks"]:
            file = find_analyzed_file(planned, video["video_id"], video["uri"], video["version"])
            row = {name: video[name] for name in ("video_id", "version", "attempt", "read_s")}
            row["file"] = VideoFile(uri=file.uri, offset=file.offset, version=file.version)
            by_bucket.setdefault(video["bucket"], []).append(row)
    return [
        GroupTask(files=tuple(files[bucket]), videos=tuple(rows[first : first + VIDEOS_PER_TASK]))
        for bucket, rows in by_bucket.items()
        for first in range(0, len(rows), VIDEOS_PER_TASK)
    ]


def _run_task(
    folder: OutputFolder, limits: Limits, with_means: bool, queries: Mapping[str, str], task: GroupTask
) -> pa.Table:
    """Return the rows of PERSON_GROUPS_SCHEMA, and the columns of NUMBERED_SCHEMA, of a task's videos."""
    remember_queries(queries)
    wanted = pc.field("video_id").isin([video["video_id"] for video in task.videos])
    columns = ["video_id", *FACES_COLUMNS]
    faces = pa.concat_tables(
        pq.read_table(folder.arrow_source(file), columns=columns, filters=wanted, partitioning=None)
        for file in task.files
    )
    child = WorkerProcess("fer_batch.people.group:PersonGrouper", (), limits)
    tables = []
    try:
        for video in task.videos:
            fault_point("people.video")
            rows = faces.filter(pc.equal(faces.column("video_id"), video["video_id"])).combine_chunks()
            rows = rows.select(FACES_COLUMNS)
            max_s = 10 * limits.timeout_s + MAX_SLOWDOWN * (video["read_s"] or 0)
            try:
                numbered = None if with_means else number_without_pictures(rows)
                if numbered is None:
                    numbered = child.call("group", video["file"], rows, with_means, max_s=max_s)
            except CallFailedError as error:
                numbered = _explain_unread(rows, f"{UNREADABLE}{error}")
            except BrokenNodeError as error:
                raise NodeError(f"tracks cannot be grouped on {socket.gethostname()}: {error}") from error
            for name in ("attempt", "version", "video_id"):
                kind = PERSON_GROUPS_SCHEMA.field(name).type
                numbered = numbered.add_column(
                    0, name, pa.repeat(pa.scalar(video[name], kind), len(numbered))
                )
            tables.append(numbered)
    finally:
        child.close()
    return pa.concat_tables(tables)


def _explain_unread(rows: pa.Table, reason: str) -> pa.Table:
    """Return the rows of NUMBERED_SCHEMA of tracks whose video cannot be read."""
    tracks = pc.unique(rows.column("track_id")).sort()
    columns = {
        name: pa.nulls(len(tracks), NUMBERED_SCHEMA.field(name).type) for name in NUMBERED_SCHEMA.names
    }
    columns |= {"track_id": tracks, "reason": pa.repeat(reason, len(tracks))}
    return pa.table(columns, schema=NUMBERED_SCHEMA)


def _map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the results in order; each thread waits for a child process that uses one CPU."""
    with ThreadPoolExecutor(min(count_cores(), max(len(items), 1))) as pool:
        yield from pool.map(function, items)


def _count_videos(tables: Iterable[pa.Table], count: int, on_progress: OnGrouped) -> Iterator[pa.Table]:
    done = 0
    for table in tables:
        done += pc.count_distinct(table.column("video_id")).as_py()
        yield table
        on_progress(done, count)


def _collect(folder: OutputFolder, groups: pa.Table, tables: Iterable[pa.Table]) -> pa.Table:
    """Replace the rows of the videos in `tables`, write from time to time, and return all rows."""
    next_write_s = time.monotonic() + WRITE_INTERVAL_S
    new: list[pa.Table] = []

    def merge() -> pa.Table:
        rows = pa.concat_tables([PERSON_GROUPS_SCHEMA.empty_table(), *new])
        is_old = pc.is_in(groups.column("video_id"), pc.unique(rows.column("video_id")))
        return pa.concat_tables([groups.filter(pc.invert(is_old)), rows])

    try:
        for table in tables:
            across = pa.repeat(False, len(table))
            new.append(table.append_column("across_videos", across).select(PERSON_GROUPS_SCHEMA.names))
            if time.monotonic() >= next_write_s:
                write_person_groups(folder, merge())
                next_write_s = time.monotonic() + WRITE_INTERVAL_S
    finally:
        write_person_groups(folder, merge())
    return merge()
