"""The list of a run's videos: searched, filtered, one page at a time, with a strip of emotions for each."""

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.run.files import AnalyzedFile, find_analyzed_file
from fer_batch.run.people import PEOPLE_FILE, PERSON_GROUPS_FILE
from fer_batch.run.plan import read_planned_videos
from fer_batch.run.snapshot import read_snapshot
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.timeline.cells import divide_videos
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import QualityFilter, filter_faces
from fer_batch.timeline.sql import IS_NUMBERED
from fer_batch.timeline.viewer.payload import NO_EMOTION, number_classes, pack_video

STRIP_CELLS = 160
"""Cells of a video in its strip."""
MAX_VIDEOS_PER_PAGE = 200
COLUMNS = (
    "video_id", "uri", "status", "error", "duration_s", "read_s", "start_s", "moments", "tracks",
    "size_bytes", "codec", "version",
)  # fmt: skip


class ListedVideo(NamedTuple):
    """A video of the run."""

    video_id: str
    uri: str
    version: str
    moments: int | None


class Catalogue:
    """A run's tables in one state, with the faces of a quality, for any number of threads.

    Raises OutputError if `out` holds no finished run, and QueryError if a bound is out of its range.
    """

    def __init__(self, out: FolderLike, quality: QualityFilter | None = None) -> None:
        self.out = open_folder(out)
        self.state = _read_state(self.out)  # first, so that later changes are noticed
        self._database = filter_faces(Database(self.out), quality or {})
        self._lock = threading.Lock()  # a connection runs one query at a time
        self.partial = str(self._database.partial or "")
        self.classes = self._database.classes
        self.videos = self._query(f"SELECT {', '.join(COLUMNS)} FROM videos ORDER BY uri")
        self._database.register("listed", self.videos)  # in memory, so that each request reads no files

    def is_outdated(self) -> bool:
        """Return whether the tables or the persons have changed since this object was created."""
        return bool(_read_state(self.out) != self.state)

    def find_video(self, video_id: str) -> ListedVideo | None:
        """Return a video, None if the run has no such video."""
        row = pc.index(self.videos["video_id"], video_id).as_py()
        if row < 0:
            return None
        return ListedVideo(*(self.videos[name][row].as_py() for name in ListedVideo._fields))

    def pack_video(self, video_id: str) -> bytes:
        """Return the data of a video's page, with boxes."""
        with self._lock:
            return pack_video(self._database, video_id, boxes=True)

    def count_statuses(self) -> dict[str, int]:
        """Return the number of videos with each status."""
        counts = self.videos.column("status").value_counts().to_pylist()
        return {str(row["values"]): row["counts"] for row in counts}

    @functools.cached_property
    def persons(self) -> list[str]:
        """The persons of the run, in alphabetical order, without those that have a number in their video."""
        local = f"AND NOT {IS_NUMBERED}" if self._database.numbers_are_local else ""
        rows = self._query(f"SELECT DISTINCT person FROM people WHERE person IS NOT NULL {local} ORDER BY 1")
        return [str(name) for name in rows.column("person").to_pylist()]

    def find_file(self, video: ListedVideo) -> AnalyzedFile:
        """Return the file of a video as it was analyzed."""
        return find_analyzed_file(self._planned, video.video_id, video.uri, video.version)

    def list_videos(
        self, words: str, status: str, emotion: str, person: str, first: int, count: int
    ) -> tuple[int, pa.Table]:
        """Return the number of videos that match all filters, and one page of them.

        An empty text matches all. The uri must contain all `words`, in any case. With `emotion` or `person`,
        the video must show that emotion or person. Videos are then in order of the emotion's `share` of the
        faces (of the person, if one is given), otherwise in order of their uris.
        """
        params = {f"word{number}": word for number, word in enumerate(words.lower().split())}
        conditions = [f"contains(lower(uri), ${name})" for name in params]
        if status:
            conditions.append("status = $status")
            params["status"] = status
        source, order = "listed", "uri"
        if emotion or person:
            source = f"""listed JOIN (
                SELECT video_id, coalesce(sum(n) FILTER ($emotion IN ('', emotion)), 0) / sum(n) AS share
                FROM {self._emotion_counts} WHERE $person IN ('', person) GROUP BY video_id HAVING share > 0
            ) USING (video_id)"""
            order = "share DESC, uri"
            params |= {"emotion": emotion, "person": person}
        where = " AND ".join(conditions) or "true"
        videos = self._query(f"SELECT * FROM {source} WHERE {where} ORDER BY {order}", params)
        return len(videos), videos.slice(first, min(count, MAX_VIDEOS_PER_PAGE))

    def draw_strips(self, video_ids: list[str]) -> dict[str, dict[str, list[int]]]:
        """Return the strip of each video: `cells` and `counts`.

        `cells` has the numbers of `STRIP_CELLS` cells, as `fer_batch.timeline.cells` defines them. `counts`
        has the number of rows of each class.
        """
        ids = pa.array(video_ids[:MAX_VIDEOS_PER_PAGE], pa.string())
        known = self.videos.column("video_id")
        listed = known.filter(pc.is_in(known, ids)).to_pylist()
        if not listed:
            return {}
        with self._lock:
            cells = divide_videos(self._database, listed, STRIP_CELLS)
        strips = {
            video_id: {"cells": of_video.number().tolist(), "counts": [0] * len(self.classes)}
            for video_id, of_video in cells.items()
        }
        rows = self._query(
            "SELECT video_id, emotion, count(*) AS n FROM tracks WHERE video_id IN (SELECT unnest($ids)) "
            "GROUP BY ALL",
            {"ids": listed},
            video_ids=listed,
        )
        numbers = number_classes(rows.column("emotion"), self.classes).tolist()
        columns = (rows.column(name).to_pylist() for name in ("video_id", "n"))
        for video_id, n, number in zip(*columns, numbers, strict=True):
            if number != NO_EMOTION:
                strips[video_id]["counts"][number] += n
        return strips

    @functools.cached_property
    def _planned(self) -> pa.Table:
        return read_planned_videos(self.out).select(["video_id", "version", "offset", "file_version"])

    @functools.cached_property
    def _emotion_counts(self) -> str:
        """The name of a table of the rows of each video, person and emotion. It reads all rows, only once."""
        counts = self._query("SELECT video_id, person, count(*) AS n, emotion FROM tracks GROUP BY ALL")
        names = dict(enumerate(self.classes))
        emotions = [names.get(number) for number in number_classes(counts["emotion"], self.classes).tolist()]
        with self._lock:
            self._database.register(
                "emotion_counts", counts.set_column(3, "emotion", pa.array(emotions, pa.string()))
            )
        return "emotion_counts"

    def _query(
        self, query: str, params: Mapping[str, Any] | None = None, video_ids: Sequence[str] | None = None
    ) -> pa.Table:
        """Run a query over all videos, or over the buckets of some."""
        with self._lock:
            database = self._database if video_ids is None else self._database.narrow(video_ids)
            return database.sql(query, params).to_arrow_table()


def _read_state(out: OutputFolder) -> object:
    """Return a value that changes with the tables and with the persons."""
    snapshot = read_snapshot(out)
    marks = [out.read_change_mark(name) for name in (PEOPLE_FILE, PERSON_GROUPS_FILE)]
    return snapshot and (snapshot.tables, str(snapshot.partial)), marks
