"""Rows of `tracks` as arrays, a track after another, for answers about each of them and its neighbours.

DuckDB sorts all rows for that, which takes several times as long: in the tables a track's rows stand together
and in order of time, so whole runs of rows are all that needs to be put in order.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.timeline.queries.expressions import classes_of, places
from fer_batch.timeline.store import Timeline

PART = 65_536
"""Rows that are worked on at a time, or those of one track: so few stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of some tracks, in order of video, track and time; `part["time_s"]` is a column of them."""

    first: int
    """Which of all tracks its first is."""
    tracks: pa.Table
    lengths: np.ndarray
    """`(tracks,) int64`: how many rows each has."""
    columns: Mapping[str, np.ndarray]
    """Of all rows, in the order in which they were read."""
    index: np.ndarray
    """`(rows,) int64`: where its rows are in these."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column][self.index]

    def each(self, values: np.ndarray) -> np.ndarray:
        """What is said of each track, `(tracks,)`, for each row."""
        return np.repeat(values, self.lengths)

    def apart(self, near_s: float) -> tuple[np.ndarray, float]:
        """`(rows,) float64`: `time_s` so moved that the tracks come one after another; and the seconds, at
        most `near_s`, up to which two rows are near each other: never those of two tracks.
        """
        time_s, ends = self["time_s"], np.cumsum(self.lengths)
        first_s, last_s = time_s[ends - self.lengths], time_s[ends - 1]
        # No more than a track is long, lest times become too large to be told apart.
        near_s = min(near_s, float(np.max(last_s - first_s, initial=0)) + 1)
        return time_s + self.each(np.cumsum(last_s - first_s + near_s + 1) - last_s), near_s


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Rows of `tracks` in order of video (by its uri), track and time."""

    tracks: pa.Table
    """Their tracks: video_id, uri, track_id and person."""
    columns: Mapping[str, np.ndarray]
    """In the order in which they were read."""
    begins: np.ndarray
    """`(runs,) int64`: where rows begin that follow each other there; these in order."""
    lengths: np.ndarray
    """`(runs,) int64`: how many rows they are."""
    edges: np.ndarray
    """`(tracks + 1,) int64`: which runs a track begins and ends with."""

    def part(self, first: int, end: int) -> Part:
        """The rows of the tracks from one on and before another."""
        runs = slice(self.edges[first], self.edges[end])
        ends = np.append(0, np.cumsum(self.lengths[runs]))
        shift = np.repeat(self.begins[runs] - ends[:-1], self.lengths[runs])
        return Part(
            first=first,
            tracks=self.tracks.slice(first, end - first),
            lengths=np.diff(ends[self.edges[first : end + 1] - self.edges[first]]),
            columns=self.columns,
            index=shift + np.arange(len(shift)),
        )

    def parts(self, work: Callable[[Part], Any]) -> Iterator[Any]:
        """What comes of the work on each part, in order; several are worked on at a time. With no rows there
        is one part, of none.
        """
        ends = np.append(0, np.cumsum(self.lengths))[self.edges]
        cuts = [0, *(np.flatnonzero(np.diff(ends[:-1] // PART)) + 1).tolist(), len(self.tracks)]
        cores = os.cpu_count() or 1
        with ThreadPoolExecutor(cores) as pool:
            ahead: deque[Future[Any]] = deque()
            for first, end in itertools.pairwise(cuts):
                ahead.append(pool.submit(lambda first, end: work(self.part(first, end)), first, end))
                if len(ahead) > 2 * cores:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


Said = tuple[slice | np.ndarray, Mapping[str, Any]]
"""Which rows of a part, and columns of these: arrays."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A stream of Arrow of what is said of rows: it is worked out while it is read, at each reading."""

    faces: Faces
    work: Callable[[Part], Said]
    """The columns come after video_id, uri, track_id and person."""

    def __arrow_c_schema__(self) -> Any:
        return self._schema().__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        batches = self.faces.parts(self._batch)
        return pa.RecordBatchReader.from_batches(self._schema(), batches).__arrow_c_stream__(requested_schema)

    def _schema(self) -> pa.Schema:
        return self._batch(self.faces.part(0, 0)).schema

    def _batch(self, part: Part) -> pa.RecordBatch:
        rows, columns = self.work(part)
        which = part.each(np.arange(len(part.tracks), dtype=np.int32))[rows]
        whose = {name: part.tracks.column(name).combine_chunks() for name in part.tracks.column_names}
        track_id = whose.pop("track_id").to_numpy()[which]
        said = {name: pa.DictionaryArray.from_arrays(which, names) for name, names in whose.items()}
        order = {"video_id": said["video_id"], "uri": said["uri"], "track_id": track_id}
        return pa.record_batch(order | {"person": said["person"]} | dict(columns))


def named(numbers: np.ndarray, names: Sequence[str]) -> pa.DictionaryArray:
    """Names by their numbers, as a column."""
    return pa.DictionaryArray.from_arrays(numbers, pa.array(names, pa.string()))


def highest(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The highest of several columns' values in each row, and the number, `int16`, of the column that has it:
    the first of those.
    """
    values, number = columns[0].copy(), np.zeros(len(columns[0]), np.int16)
    for k, column in enumerate(columns[1:], start=1):
        np.copyto(number, k, where=column > values)
        np.maximum(values, column, out=values)
    return values, number


def number_of_emotion(timeline: Timeline) -> str:
    """An expression for the number of a row's emotion among the classes."""
    names = ", ".join(name for name, _ in classes_of(timeline))
    return f"(list_position([{names}], emotion) - 1)::SMALLINT"


def read_faces(timeline: Timeline, columns: Sequence[str], where: str, values: Mapping[str, Any]) -> Faces:
    """The rows of `tracks` under a condition with these columns, of numbers, and time_s."""
    placed = f"{places(values)} AS placed USING (video_id)"
    read = timeline.read(
        f"""SELECT placed.place << 32 | track_id AS face, time_s, {", ".join(columns)}
        FROM tracks JOIN {placed} WHERE {where}""",
        values,
    )
    arrays = {name: read.column(name).to_numpy() for name in read.column_names}
    face = arrays.pop("face")
    begins, lengths = _in_order(face, arrays["time_s"])
    edges = np.append(0, np.flatnonzero(np.diff(face[begins], append=-1)) + 1)
    owner = face[begins][edges[1:] - 1]
    videos = timeline.read(f"SELECT video_id, uri FROM videos JOIN {placed} ORDER BY placed.place")
    said = timeline.read(
        f"SELECT placed.place << 32 | track_id AS face, person FROM people JOIN {placed}"
    ).combine_chunks()
    video, person = owner >> 32, pc.index_in(pa.array(owner), said.column("face").combine_chunks())
    return Faces(
        tracks=pa.table(
            {
                "video_id": videos.column("video_id").take(video),
                "uri": videos.column("uri").take(video),
                "track_id": (owner & 0xFFFFFFFF).astype(np.int32),
                "person": said.column("person").take(person),
            }
        ),
        columns=arrays,
        begins=begins,
        lengths=lengths,
        edges=edges,
    )


def _in_order(face: np.ndarray, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of rows begin, and how long they are, that one after another are in order of face and
    time.
    """
    breaks = np.flatnonzero((face[1:] != face[:-1]) | (time_s[1:] < time_s[:-1])) + 1
    begins = np.append(0, breaks)[: len(face)]
    lengths = np.diff(begins, append=len(face))
    order = np.lexsort((time_s[begins], face[begins]))
    begins, lengths = begins[order], lengths[order]
    ends = begins + lengths - 1
    mixed = (face[ends[:-1]] == face[begins[1:]]) & (time_s[ends[:-1]] > time_s[begins[1:]])
    if mixed.any():  # not as `finalize` writes them
        return np.lexsort((time_s, face)), np.ones(len(face), np.int64)
    return begins, lengths
