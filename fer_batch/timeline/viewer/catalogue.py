"""The list of a run's videos: searched, filtered, one page at a time, with a strip of emotions for each."""

import functools
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.run.people import PEOPLE_FILE
from fer_batch.run.plan import read_planned_videos
from fer_batch.run.snapshot import read_snapshot
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name
from fer_batch.timeline.viewer.payload import NO_EMOTION, number_classes, pack_video

STRIP_CELLS = 160
"""Equal parts of a video's length in its strip; fewer if it has fewer sampled frames."""
MAX_VIDEOS_PER_PAGE = 200
COLUMNS = (
    "video_id", "uri", "status", "error", "duration_s", "read_s", "moments", "tracks", "size_bytes", "codec",
)  # fmt: skip


class Catalogue:
    """A run's tables in one state, for any number of threads.

    Raises OutputError if `out` holds no finished run.
    """

    def __init__(self, out: FolderLike) -> None:
        self.out = open_folder(out)
        self.state = _read_state(self.out)  # first, so that later changes are noticed
        self._database = Database(self.out)
        self._lock = threading.Lock()  # a connection runs one query at a time
        self.classes = self._database.classes
        self.videos = self._query(f"SELECT {', '.join(COLUMNS)} FROM videos ORDER BY uri")

    def is_outdated(self) -> bool:
        """Return whether the tables or the persons have changed since this object was created."""
        return bool(_read_state(self.out) != self.state)

    def find_video(self, video_id: str) -> dict[str, Any] | None:
        """Return a video's values of `COLUMNS`, None if the run has no such video."""
        row = pc.index(self.videos.column("video_id"), video_id).as_py()
        return None if row < 0 else self.videos.slice(row, 1).to_pylist()[0]

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
        """The persons of the run, in alphabetical order."""
        rows = self._query("SELECT DISTINCT person FROM people ORDER BY 1")
        return [str(name) for name in rows.column("person").to_pylist()]

    @functools.cached_property
    def member_offsets(self) -> dict[str, int]:
        """By a video's id, the offset in bytes of videos that lie in an archive."""
        planned = read_planned_videos(self.out).select(["video_id", "offset"])
        rows = planned.filter(planned.column("offset").is_valid()).to_pylist()
        return {row["video_id"]: row["offset"] for row in rows}

    def list_videos(
        self, words: str, status: str, emotion: str, person: str, first: int, count: int
    ) -> dict[str, Any]:
        """Return `total` and one page of `videos` that match all filters; an empty text matches all.

        The uri must contain all `words`, in any case. With `emotion` or `person`, the video must show that
        emotion or person. Videos are then in order of the emotion's share of the faces (of the person, if one
        is given), otherwise in order of their uris.
        """
        videos = self.videos
        uris = pc.utf8_lower(videos.column("uri"))
        keep = pa.chunked_array([np.ones(len(videos), bool)])
        for word in words.lower().split():
            keep = pc.and_(keep, pc.match_substring(uris, word))
        if status:
            keep = pc.and_(keep, pc.equal(videos.column("status"), status))
        videos = videos.filter(keep.fill_null(False))
        if emotion or person:
            videos = videos.join(self._compute_shares(emotion, person), "video_id", join_type="inner")
            videos = videos.sort_by([("share", "descending"), ("uri", "ascending")])
        rows = videos.slice(first, min(count, MAX_VIDEOS_PER_PAGE)).to_pylist()
        return {"total": len(videos), "videos": [row | {"name": file_name(row["uri"])} for row in rows]}

    def draw_strips(self, video_ids: list[str]) -> dict[str, dict[str, list[int]]]:
        """Return the strip of each video: `cells` and `counts`.

        `cells` has the number of the most frequent class in each of at most `STRIP_CELLS` equal parts of the
        video's length, 255 without a face. `counts` has the number of rows of each class.
        """
        ids = pa.array(video_ids[:MAX_VIDEOS_PER_PAGE], pa.string())
        videos = self.videos.filter(pc.is_in(self.videos.column("video_id"), ids))
        strips = {
            row["video_id"]: {
                "cells": [NO_EMOTION] * max(min(row["moments"] or 0, STRIP_CELLS), 1),
                "counts": [0] * len(self.classes),
            }
            for row in videos.to_pylist()
        }
        rows = self._query(
            """
            WITH strips AS (
                SELECT unnest($ids) AS video_id, unnest($lengths) AS length_s, unnest($cells) AS cells)
            SELECT video_id, emotion, count(*) AS n,
                least(floor(time_s / length_s * cells + 1e-6), cells - 1)::INT AS cell
            FROM tracks JOIN strips USING (video_id) WHERE length_s > 0
            GROUP BY ALL ORDER BY n, emotion DESC""",
            {
                "ids": list(strips),
                "lengths": pc.coalesce(videos.column("duration_s"), videos.column("read_s")).to_pylist(),
                "cells": [len(strip["cells"]) for strip in strips.values()],
            },
        )
        numbers = number_classes(rows.column("emotion"), self.classes).tolist()
        columns = (rows.column(name).to_pylist() for name in ("video_id", "cell", "n"))
        for video_id, cell, n, number in zip(*columns, numbers, strict=True):
            if number != NO_EMOTION:
                strips[video_id]["cells"][cell] = number  # the most frequent comes last
                strips[video_id]["counts"][number] += n
        return strips

    @functools.cached_property
    def _emotion_counts(self) -> pa.Table:
        """The number of rows of each video, person and emotion. Only this query reads all rows, once."""
        return self._query("SELECT video_id, person, emotion, count(*) AS n FROM tracks GROUP BY ALL")

    def _compute_shares(self, emotion: str, person: str) -> pa.Table:
        """Return the videos with matching faces, and the `share` of these in all faces (of the person)."""
        counts = self._emotion_counts
        if person:
            counts = counts.filter(pc.equal(counts.column("person"), person))
        totals = _sum_by_video(counts, "total")
        if emotion:
            names = np.array([*self.classes, ""])  # the last is for rows without an emotion
            numbers = np.minimum(number_classes(counts.column("emotion"), self.classes), len(self.classes))
            counts = counts.filter(names[numbers] == emotion)
        sums = _sum_by_video(counts, "matching").join(totals, "video_id", join_type="inner")
        share = pc.divide(sums.column("matching").cast(pa.float64()), sums.column("total"))
        return sums.select(["video_id"]).append_column("share", share)

    def _query(self, query: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        with self._lock:
            return self._database.sql(query, params).to_arrow_table()


def _sum_by_video(counts: pa.Table, name: str) -> pa.Table:
    return counts.group_by("video_id").aggregate([("n", "sum")]).rename_columns(["video_id", name])


def _read_state(out: OutputFolder) -> object:
    """Return a value that changes with the tables and with the persons."""
    return read_snapshot(out), out.read_change_mark(PEOPLE_FILE)
