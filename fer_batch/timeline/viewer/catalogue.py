"""The list of a run's videos: searched and filtered, a page at a time, with a strip of emotions for each."""

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
from fer_batch.timeline.names import file_name
from fer_batch.timeline.store import open_timeline
from fer_batch.timeline.viewer.payload import NO_EMOTION, class_numbers, pack_video

CELLS = 160
"""Of a strip: equal parts of a video's length, but none shorter than what a moment stands for."""
LONGEST_PAGE = 200
"""Videos that are answered for at once, at most."""
SHOWN = (
    "video_id",
    "uri",
    "status",
    "error",
    "duration_s",
    "read_s",
    "moments",
    "tracks",
    "size_bytes",
    "codec",
)


class Catalogue:
    """A run's tables in one state, for any number of threads.

    Raises OutputError where `out` holds no finished run.
    """

    def __init__(self, out: FolderLike) -> None:
        self.out = open_folder(out)
        self.state = _state(self.out)  # first: if it moves meanwhile, that is seen later
        self._timeline = open_timeline(out)
        self._lock = threading.Lock()  # a connection answers one question at a time
        self.classes = self._timeline.classes
        self.videos = self._asked(f"SELECT {', '.join(SHOWN)} FROM videos ORDER BY uri")

    def moved(self) -> bool:
        """Whether the tables, or who is who, have been written anew since."""
        return _state(self.out) != self.state

    def find(self, video_id: str) -> dict[str, Any] | None:
        """A video's columns of `SHOWN`, None where the run has none of that id."""
        place = pc.index(self.videos.column("video_id"), video_id).as_py()
        return None if place < 0 else self.videos.slice(place, 1).to_pylist()[0]

    def pack(self, video_id: str) -> bytes:
        """What `page.pack` says of a video, with boxes."""
        with self._lock:
            return pack_video(self._timeline, video_id, boxes=True)

    def statuses(self) -> dict[str, int]:
        """How many videos ended in which way."""
        counts = self.videos.column("status").value_counts().to_pylist()
        return {str(row["values"]): row["counts"] for row in counts}

    @functools.cached_property
    def persons(self) -> list[str]:
        """Names that faces have, in order."""
        known = self._asked("SELECT DISTINCT person FROM people ORDER BY 1").column("person")
        return [str(name) for name in known.to_pylist()]

    def page(
        self, words: str, status: str, emotion: str, person: str, first: int, count: int
    ) -> dict[str, Any]:
        """Videos whose uri has all these words in it, whatever their case, that ended so, and in which a face
        looks so, of this person if one is named; "" is any.

        With an emotion those come first in which it has the greatest share of the moments with such a face,
        else they are in order of their uri.
        """
        chosen = self.videos
        names = pc.utf8_lower(chosen.column("uri"))
        keep = pa.chunked_array([np.ones(len(chosen), bool)])
        for word in words.lower().split():
            keep = pc.and_(keep, pc.match_substring(names, word))
        if status:
            keep = pc.and_(keep, pc.equal(chosen.column("status"), status))
        chosen = chosen.filter(keep.fill_null(False))
        if emotion or person:
            chosen = chosen.join(self._shares(emotion, person), "video_id", join_type="inner")
            chosen = chosen.sort_by([("share", "descending"), ("uri", "ascending")])
        rows = chosen.slice(first, min(count, LONGEST_PAGE)).to_pylist()
        return {"total": len(chosen), "videos": [row | {"name": file_name(row["uri"])} for row in rows]}

    def strips(self, video_ids: list[str]) -> dict[str, dict[str, list[int]]]:
        """Of each video `counts`, how often its faces look how, by class, and `cells`: the number of the most
        frequent class in each part of its length, at most `CELLS`, 255 where there is no face.
        """
        wanted = self.videos.filter(
            pc.is_in(self.videos.column("video_id"), pa.array(video_ids[:LONGEST_PAGE], pa.string()))
        )
        strips = {}
        for row in wanted.to_pylist():
            cells = [NO_EMOTION] * max(min(row["moments"] or 0, CELLS), 1)
            strips[row["video_id"]] = {"cells": cells, "counts": [0] * len(self.classes)}
        lengths_s = pc.coalesce(wanted.column("duration_s"), wanted.column("read_s"))
        rows = self._asked(
            """
            WITH wanted AS (
                SELECT unnest($names) AS video_id, unnest($lengths) AS length_s, unnest($cells) AS cells)
            SELECT video_id, emotion, count(*) AS n,
                least(floor(time_s / length_s * cells + 1e-6), cells - 1)::INT AS cell
            FROM tracks JOIN wanted USING (video_id) WHERE length_s > 0
            GROUP BY ALL ORDER BY n, emotion DESC""",
            {
                "names": list(strips),
                "lengths": lengths_s.to_pylist(),
                "cells": [len(strip["cells"]) for strip in strips.values()],
            },
        )
        kinds = class_numbers(rows.column("emotion"), self.classes).tolist()
        columns = (rows.column(name).to_pylist() for name in ("video_id", "cell", "n"))
        for name, cell, n, kind in zip(*columns, kinds, strict=True):
            if kind != NO_EMOTION:
                strips[name]["cells"][cell] = kind  # the most frequent comes last
                strips[name]["counts"][kind] += n
        return strips

    def offset_of(self, video_id: str) -> int | None:
        """Where a video begins that is in an archive, as it was planned."""
        return self._offsets.get(video_id)

    @functools.cached_property
    def _offsets(self) -> dict[str, int]:
        planned = read_planned_videos(self.out).select(["video_id", "offset"])
        rows = planned.filter(planned.column("offset").is_valid()).to_pylist()
        return {row["video_id"]: row["offset"] for row in rows}

    @functools.cached_property
    def _faces(self) -> pa.Table:
        """How often each face looks how, over all videos: the one question that reads all rows, once."""
        return self._asked("SELECT video_id, person, emotion, count(*) AS n FROM tracks GROUP BY ALL")

    def _shares(self, emotion: str, person: str) -> pa.Table:
        """Videos with such faces, and `share`: of the moments of all faces, or of that person's."""
        faces = self._faces
        if person:
            faces = faces.filter(pc.equal(faces.column("person"), person))
        all_of = faces.group_by("video_id").aggregate([("n", "sum")]).rename_columns(["video_id", "all"])
        if emotion:
            names = (*self.classes, "")  # the last for rows without an emotion
            kinds = np.minimum(class_numbers(faces.column("emotion"), self.classes), len(self.classes))
            faces = faces.filter(np.array(names)[kinds] == emotion)
        these = faces.group_by("video_id").aggregate([("n", "sum")]).rename_columns(["video_id", "these"])
        both = these.join(all_of, "video_id", join_type="inner")
        share = pc.divide(both.column("these").cast(pa.float64()), both.column("all"))
        return both.select(["video_id"]).append_column("share", share)

    def _asked(self, question: str, values: Mapping[str, Any] | None = None) -> pa.Table:
        with self._lock:
            return self._timeline.sql(question, values).to_arrow_table()


def _state(out: OutputFolder) -> object:
    """Return a value that changes when the tables or the assigned persons do."""
    return read_snapshot(out), out.read_change_mark(PEOPLE_FILE)
