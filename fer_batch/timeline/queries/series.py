"""Timelines made over: corrected, smoothed, on a grid, or beside the user's own events.

Functions from a `Timeline` to a DuckDB relation, as in `fer_batch.timeline.queries.questions`.
"""

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import QueryError
from fer_batch.timeline.queries.expressions import NEAR, cell, classes_of, places, positive, probabilities
from fer_batch.timeline.queries.faces import (
    Answer,
    Faces,
    Part,
    Said,
    highest,
    named,
    number_of_emotion,
    read_faces,
)
from fer_batch.timeline.store import Timeline

UNITS = np.float64(2**40)
"""Probabilities are added up as whole numbers of so many parts: what was added before leaves no trace in a
sum, and equal sums are equal."""
EVENT, ID, BEGIN, END = "__event", "__video_id", "__begin_s", "__end_s"


def baseline(timeline: Timeline, by: str = "person", **faces: Any) -> duckdb.DuckDBPyRelation:
    """Each face's probabilities less what they are for that face on the whole.

    Some faces look angry or sad at rest. What is subtracted is the mean of all chosen moments of the same
    person, or of the track where nobody was named, or of each track with `by="track"`. So `d_…` is from -1 to
    1, has a mean of 0 for each of them, and sums to 0 at each moment. Columns: video_id, uri, track_id,
    person, time_s, emotion, d_angry …, and `rises` (the emotion of the highest difference).
    """
    if by not in ("person", "track"):
        raise QueryError(f"a baseline is by person or track, not by {by}")
    where, values = timeline.faces_of(**faces)
    columns = [column for _, column in classes_of(timeline)]
    seen = read_faces(timeline, [*columns, f"{number_of_emotion(timeline)} AS shown"], where, values)
    means = _means_of_each(seen, columns, by)

    def differences(part: Part) -> Said:
        its = slice(part.first, part.first + len(part.tracks))
        less = [part[column] - part.each(mean[its]) for column, mean in zip(columns, means, strict=True)]
        return slice(None), {
            "time_s": part["time_s"],
            "emotion": named(part["shown"], timeline.classes),
            **{f"d_{column[2:]}": values for column, values in zip(columns, less, strict=True)},
            "rises": named(highest(less)[1], timeline.classes),
        }

    return timeline.relation(Answer(faces=seen, work=differences))


def _means_of_each(seen: Faces, columns: Sequence[str], by: str) -> np.ndarray:
    """`(columns, tracks) float64`: the means over all rows of the same person, or track, as each track's."""

    def sums(part: Part) -> np.ndarray:
        begins = np.cumsum(part.lengths) - part.lengths
        return np.stack(
            [part.lengths, *(np.add.reduceat(part[c], begins, dtype=np.float64) for c in columns)]
        )

    who = np.arange(len(seen.tracks))
    if by == "person":
        person = seen.tracks.column("person").combine_chunks().dictionary_encode().indices
        who = np.where(person.is_valid(), person.fill_null(0), who + len(who))
    number = np.unique(who, return_inverse=True)[1]
    of_tracks = np.concatenate(list(seen.parts(sums)), axis=1)
    rows, *totals = (np.bincount(number, weights=row) for row in of_tracks)
    return np.stack([(total / rows)[number] for total in totals])


def smooth(timeline: Timeline, window_s: float = 1.0, **faces: Any) -> duckdb.DuckDBPyRelation:
    """Each face's probabilities as their mean over `window_s` seconds around the moment, half to each side.

    The mean is over the moments of the same track that there are in these: at the ends of a track, and
    where the face was not seen, they are fewer. Nothing is shifted in time. `moments` says over how many.
    Columns: video_id, uri, track_id, person, time_s, emotion and confidence (of the means), p_angry …,
    moments.
    """
    half = positive(window_s, "window_s") / 2 + NEAR
    where, values = timeline.faces_of(**faces)
    columns = [column for _, column in classes_of(timeline)]

    def means(part: Part) -> Said:
        time_s, near_s = part.apart(half)
        first = np.searchsorted(time_s, time_s - near_s)
        end = np.searchsorted(time_s, time_s + near_s, "right")
        sums = []
        for column in columns:
            before = np.zeros(len(part) + 1, np.int64)
            np.cumsum(np.rint(part[column] * UNITS).astype(np.int64), out=before[1:])
            sums.append(before[end] - before[first])
        units = (end - first) * UNITS
        most, emotion = highest(sums)
        return slice(None), {
            "time_s": part["time_s"],
            "emotion": named(emotion, timeline.classes),
            "confidence": most / units,
            **{column: total / units for column, total in zip(columns, sums, strict=True)},
            "moments": end - first,
        }

    seen = read_faces(timeline, columns, where, values)
    return timeline.relation(Answer(faces=seen, work=means))


def resample(
    timeline: Timeline, every_s: float = 1.0, by: str = "video", **faces: Any
) -> duckdb.DuckDBPyRelation:
    """A row for each `every_s` seconds of each video, from 0 to its end, whether or not there is a face.

    `state` is "face", "no face" (looked, but none of the chosen faces was seen) or "not looked at". `by` is
    "video" (all chosen faces together), "person" or "track": then each of these has rows for the whole of
    each video that it is in. Columns: video_id, uri, (person, or track_id and person), start_s, state, looked
    (moments), faces (face-moments), emotion (of the highest mean) and p_angry … (means; null without a face).
    """
    step = positive(every_s, "every_s")
    keys = {"video": [], "person": ["person"], "track": ["track_id", "person"]}.get(by)
    if keys is None:
        raise QueryError(f"a timeline is resampled by video, person or track, not by {by}")
    where, values = timeline.faces_of(**faces)
    columns, likeliest = probabilities(timeline)
    means = ", ".join(f"avg({column}) AS {column}" for column in columns)
    listed = ", ".join(columns)
    named = " AND person IS NOT NULL" if by == "person" else ""
    span = {name: values[name] for name in ("start_s", "end_s") if name in values}
    inside = " AND ".join(
        [
            f"cell * {step} + {step} > $start_s" if "start_s" in span else "true",
            f"cell * {step} < $end_s" if "end_s" in span else "true",
        ]
    )
    same = ["place", "cell", *keys[:1]]  # a track's person may be nobody, which is equal to nothing
    whose = "seen" if keys else "placed"
    return timeline.run(
        f"""WITH placed AS MATERIALIZED {places(values)},
        seen AS (
            SELECT {", ".join(["placed.place", *keys])}, {cell(every_s)} AS cell, count(*) AS faces, {means}
            FROM tracks JOIN placed USING (video_id) WHERE {where}{named} GROUP BY ALL
        ),
        looked AS (
            SELECT placed.place, {cell(every_s)} AS cell, count(*) AS looked
            FROM moments JOIN placed USING (video_id) GROUP BY ALL
        ),
        cells AS (
            SELECT placed.place, video_id, uri, unnest(range(
                ceil(coalesce(greatest(duration_s, read_s), 0) / {step} - {NEAR})::BIGINT)) AS cell
            FROM videos JOIN placed USING (video_id)
        ),
        whose AS (SELECT DISTINCT {", ".join(["place", *keys])} FROM {whose})
        SELECT {", ".join(["video_id", "uri", *(f"whose.{key}" for key in keys)])},
               cell * {step}::DOUBLE AS start_s,
               CASE WHEN faces > 0 THEN 'face' WHEN looked > 0 THEN 'no face' ELSE 'not looked at' END
               AS state, coalesce(looked, 0) AS looked, coalesce(faces, 0) AS faces,
               {likeliest} AS emotion, {listed}
        FROM cells JOIN whose USING (place)
        LEFT JOIN looked USING (place, cell)
        LEFT JOIN seen USING ({", ".join(same)})
        WHERE {inside} ORDER BY {", ".join(["place", *(f"whose.{key}" for key in keys), "start_s"])}""",
        values,
    )


def join_events(timeline: Timeline, events: pa.Table, **faces: Any) -> duckdb.DuckDBPyRelation:
    """What was seen during each of the user's own events: their rows, with columns more.

    `events` has `start_s` and `end_s` (or `time_s`: then a moment counts that stands for it), and `video`
    (id, uri or file name) where it is not of one video that `video` names. Columns more: faces
    (face-moments in `[start_s, end_s)`), emotion (the most probable one on the mean) and p_angry … (means;
    null where no face was seen). Columns of the user's that have one of these names are called `event_…`.
    """
    events = _placed(timeline, events, faces.pop("video", None))
    name = f"events_{id(events)}"  # a relation is run when it is read, maybe after other events were asked
    timeline.register(name, events)
    where, values = timeline.faces_of(**faces)
    columns, likeliest = probabilities(timeline)
    means = ", ".join(f"avg({column}) AS {column}" for column in columns)
    listed = ", ".join(columns)
    ours = {"faces", "emotion", *columns}
    theirs = ", ".join(
        f'events."{c}"' + (f' AS "event_{c}"' if c.lower() in ours else "")
        for c in events.column_names
        if c not in (EVENT, ID, BEGIN, END)
    )
    return timeline.run(
        f"""WITH seen AS (
            SELECT {EVENT}, count(*) AS faces, {means}
            FROM (SELECT {EVENT}, {ID}, {BEGIN}, {END} FROM {name})
            JOIN tracks ON video_id = {ID} AND time_s >= {BEGIN} AND time_s < {END}
            WHERE {where} GROUP BY {EVENT}
        )
        SELECT {theirs}, coalesce(faces, 0) AS faces,
               {likeliest} AS emotion, {listed}
        FROM {name} AS events LEFT JOIN seen USING ({EVENT}) ORDER BY {EVENT}""",
        values,
    )


def _placed(timeline: Timeline, events: pa.Table, video: str | None) -> pa.Table:
    """Events with their number, video, begin and end in columns of ours; those of an event that has a
    `time_s` alone are around the one moment that stands for it.
    """
    named = set(events.column_names)
    if "video" not in named and video is None:
        raise QueryError(
            "events have no column video; add one, or name the video that they are all of (--video, video=)"
        )
    if not ({"start_s", "end_s"} <= named or "time_s" in named):
        raise QueryError(
            f"events have the columns {', '.join(events.column_names)}; "
            "they need start_s and end_s, or time_s"
        )
    if "video" in named:
        names = [str(name) for name in events.column("video").to_pylist()]
    else:
        names = [str(video)] * len(events)
    timeline.register("named", pa.table({"name": pa.array(names, pa.string())}))
    exact = timeline.run("SELECT DISTINCT name, video_id FROM named JOIN videos ON name IN (video_id, uri)")
    ids = dict(exact.fetchall())
    ids |= {name: timeline.video_id(name) for name in dict.fromkeys(names) if name not in ids}
    spans = "start_s" in named and "end_s" in named
    try:
        begins = events.column("start_s" if spans else "time_s").cast(pa.float64())
        ends = events.column("end_s" if spans else "time_s").cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise QueryError(f"times of events are numbers of seconds: {error}") from error
    backward = [number for number, ends_first in enumerate(pc.less(ends, begins).to_pylist()) if ends_first]
    if backward:
        at = backward[0]
        raise QueryError(
            f"event {at + 1} is from {begins[at].as_py():g} to {ends[at].as_py():g} s; "
            "end_s must not be below start_s"
        )
    if not spans:
        steps_s = {name: timeline.step_s(name) for name in ids}
        begins = pc.add(pc.subtract(begins, pa.array([steps_s[name] for name in names], pa.float64())), NEAR)
        ends = pc.add(ends, NEAR)
    for name, column in (
        (EVENT, pa.array(range(len(events)), pa.int64())),
        (ID, pa.array([ids[name] for name in names], pa.string())),
        (BEGIN, begins),
        (END, ends),
    ):
        events = events.append_column(name, column)
    return events
