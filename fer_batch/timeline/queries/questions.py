"""Questions that people ask of a timeline, each a function from a `Timeline` to a DuckDB relation.

A relation is asked by `.df()` (pandas), `.pl()` (Polars), `.arrow()` or `.fetchall()`, and reads no other
columns and parts of files than it needs. What is worked out face by face (`peaks`; `baseline` and `smooth`
of `series`) has read them when it is returned. All take the rows of `tracks` that `video`
(id, uri or file name), `person`, `track`, `start_s` and `end_s` leave (`[start_s, end_s)` seconds of the
video), all by default, and raise QueryError where there is no such video or person.

An emotion's probability is what the model gave it; a moment's `emotion` is the most probable one. A moment
stands for one step, the mean distance of its video's moments.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np

from fer_batch.schema import probability_column
from fer_batch.timeline.queries.episodes import MIN_S, STEP_S, THRESHOLD, episodes_sql, runs_sql
from fer_batch.timeline.queries.expressions import (
    FACE,
    FACE_OF_ANY,
    NEAR,
    cell,
    classes_of,
    keys_of,
    known_emotion,
    names_of,
    not_negative,
    places,
    positive,
    share_of,
    text,
)
from fer_batch.timeline.queries.faces import Answer, Part, Said, named, number_of_emotion, read_faces
from fer_batch.timeline.store import Timeline


def shares(
    timeline: Timeline,
    by: str | Sequence[str] = ("video",),
    every_s: float | None = None,
    **faces: Any,
) -> duckdb.DuckDBPyRelation:
    """How much of what was seen was which emotion: a row a group and emotion.

    Groups are by "video", "person", "track" and columns of a manifest, none for all together, and by
    intervals of `every_s` seconds (`start_s` is a column then). Columns beside these: emotion, moments (of
    faces with that emotion), seconds, share (of the group's moments, 0 to 1) and mean (of its probability
    over all of them, 0 to 1). Emotions that were not seen have rows too.
    """
    keys = keys_of(timeline, by)
    intervals = [] if every_s is None else [cell(every_s)]
    counted = ", ".join(
        f"{{'emotion': {name}, 'moments': count(*) FILTER (emotion = {name}), "
        f"'seconds': coalesce(sum(steps.step_s) FILTER (emotion = {name}), 0), "
        f"'share': count(*) FILTER (emotion = {name}) / count(*), 'mean': avg({column})}}"
        for name, column in classes_of(timeline)
    )
    where, values = timeline.faces_of(**faces)
    begin = [f"{number} * {every_s}::DOUBLE AS start_s" for number in intervals]
    order = ", ".join([*keys, *(["start_s"] if begin else []), "share DESC", "emotion"])
    grouped = ", ".join([*keys, *intervals])
    return timeline.run(
        f"""FROM (
            SELECT {", ".join([*keys, *begin, f"unnest([{counted}], recursive := true)"])}
            FROM tracks JOIN (SELECT video_id, {STEP_S} AS step_s FROM videos) AS steps USING (video_id)
            WHERE {where} {f"GROUP BY {grouped}" if grouped else "HAVING count(*) > 0"}
        ) ORDER BY {order}""",
        values,
    )


def episodes(
    timeline: Timeline,
    emotion: str | None = None,
    threshold: float = THRESHOLD,
    min_s: float = MIN_S,
    **faces: Any,
) -> duckdb.DuckDBPyRelation:
    """Runs of one emotion of one face, as `episodes_sql` says, in order of video, track and time; only those
    of `emotion` where one is named. The view `episodes` has those of the defaults.
    """
    where, values = timeline.faces_of(**faces)
    if emotion is not None:
        where += f" AND emotion = {text(known_emotion(timeline, emotion))}"
    runs = episodes_sql(share_of(threshold), not_negative(min_s, "min_s"), where)
    return timeline.run(f"FROM ({runs}) ORDER BY uri, track_id, start_s", values)


def peaks(
    timeline: Timeline,
    emotion: str | None = None,
    threshold: float = THRESHOLD,
    distance_s: float = 1.0,
    **faces: Any,
) -> duckdb.DuckDBPyRelation:
    """Moments at which an emotion is most probable for `distance_s` to either side, and `threshold` at least.

    With `emotion`, of its probability wherever it is; without, of the probability of whatever emotion was the
    most probable one, among its own moments. Of equal ones the first. Columns: video_id, uri, track_id,
    person, emotion, time_s, probability.
    """
    where, values = timeline.faces_of(**faces)
    if emotion is None:
        number, probability = number_of_emotion(timeline), "confidence"
    else:
        emotion = known_emotion(timeline, emotion)
        number, probability = f"{timeline.classes.index(emotion)}::SMALLINT", probability_column(emotion)
    around_s = positive(distance_s, "distance_s") + NEAR
    where += f" AND {probability} >= {share_of(threshold)}"
    seen = read_faces(timeline, [f"{probability} AS probability", f"{number} AS number"], where, values)

    def highest_around(part: Part) -> Said:
        number, probability = part["number"], part["probability"]
        time_s, near_s = part.apart(around_s)
        length_s = (time_s[-1] if len(part) else 0.0) + near_s + 1
        order = np.argsort(number, kind="stable")
        peaks = np.sort(order[_peaks((time_s + number * length_s)[order], probability[order], near_s)])
        return peaks, {
            "emotion": named(number[peaks], timeline.classes),
            "time_s": part["time_s"][peaks],
            "probability": probability[peaks],
        }

    return timeline.relation(Answer(faces=seen, work=highest_around))


def _peaks(time_s: np.ndarray, values: np.ndarray, near_s: float) -> np.ndarray:
    """The rows, in order of time, that no row up to `near_s` before has as high a value as, and none after a
    higher one.
    """
    rows = np.arange(len(values))
    first = np.searchsorted(time_s, time_s - near_s)
    end = np.searchsorted(time_s, time_s + near_s, "right")
    before, after = (_highest_of(values, *span) for span in ((first, rows), (rows + 1, end)))
    return rows[(values > before) & (values >= after)]


def _highest_of(values: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The highest of the values from one row on and before another, -1 of none.

    As in Bender and Farach-Colton, The LCA Problem Revisited (2000): of each power of two the highest of so
    many rows from each on; any span is two of these that overlap.
    """
    power = np.frexp(np.maximum(end - first, 1))[1] - 1
    of_powers = [values]
    for step in 2 ** np.arange(np.max(power, initial=0)):
        of_half = of_powers[-1]
        of_powers.append(np.append(np.maximum(of_half[:-step], of_half[step:]), of_half[-step:]))
    table, last = np.stack(of_powers), max(len(values) - 1, 0)
    spans = table[power, np.minimum(first, last)], table[power, np.maximum(end - 2**power, 0)]
    return np.where(first < end, np.maximum(*spans), -1)


def turning_points(timeline: Timeline, min_s: float = 1.0, **faces: Any) -> duckdb.DuckDBPyRelation:
    """Where a face's emotion changes for good: from one that lasted `min_s` seconds to another that does.

    Shorter ones between are passed over; an emotion that comes back after one is no change. Columns:
    video_id, uri, track_id, person, time_s (when the other begins), before, after, gap_s (seconds between
    the two).
    """
    where, values = timeline.faces_of(**faces)
    runs = runs_sql(0.0, not_negative(min_s, "min_s"), where)
    return timeline.run(
        f"""{runs}, changes AS (
            SELECT video_id, track_id, start_s, lag(emotion) OVER face AS before, emotion AS after,
                   start_s - lag(last_s + step_s) OVER face AS gap_s
            FROM runs JOIN steps USING (place)
            WINDOW face AS (PARTITION BY place, track_id ORDER BY start_s)
        )
        SELECT video_id, uri, track_id, people.person, start_s AS time_s, before, after, gap_s
        FROM changes JOIN (SELECT video_id, uri FROM videos) USING (video_id)
        LEFT JOIN people USING (video_id, track_id)
        WHERE before <> after ORDER BY uri, track_id, time_s""",
        values,
    )


def co_occurrence(
    timeline: Timeline, by: str | Sequence[str] = ("video",), **faces: Any
) -> duckdb.DuckDBPyRelation:
    """Which emotions two faces show at the same moment: a row a group and pair of emotions.

    Every two faces of a moment are a pair. `by` may be "video", columns of a manifest, and "pair" (who the
    two are, `face_a` and `face_b`: persons, else "track N", with its uri where groups are not of one video),
    by which a person that comes before another in the alphabet is the first of the two; else the emotions of
    a pair have no order. Columns beside these:
    emotion_a, emotion_b, pairs, share (of the group's pairs), lift (share over what it were if the two had
    nothing to do with each other: 1 is chance).
    """
    told = "pair" in names_of(by)
    keys = keys_of(timeline, by, without=("person", "track"), beside=("pair",))
    where, values = timeline.faces_of(**faces)
    names = ["face_a", "face_b"] if told else []
    group = ", ".join([*keys, *names]) or "1"
    other_way = ", ".join([*keys, "emotion_b", "emotion_a", "n"])
    ways, of_both = ("", 1) if told else (f"UNION ALL SELECT {other_way} FROM joint", 2)
    face = FACE if "video_id" in keys or "video" in values else FACE_OF_ANY
    joint = _pairs_of_faces(timeline, where, face) if told else _pairs_of_emotions(timeline, where)
    return timeline.run(
        f"""WITH placed AS MATERIALIZED {places(values)},
        {joint},
        joint AS (
            SELECT {", ".join([*(f"videos.{key}" for key in keys), "of_videos.* EXCLUDE (place)"])}
            FROM of_videos JOIN placed ON placed.place = of_videos.place
            JOIN videos ON videos.video_id = placed.video_id
        ),
        counted AS (
            SELECT * EXCLUDE (n), sum(n) AS n FROM (FROM joint {ways}) GROUP BY ALL
        ),
        weighed AS (
            SELECT *, sum(n) OVER (PARTITION BY {group}) AS every,
                   sum(n) OVER (PARTITION BY {group}, emotion_a) AS of_a,
                   sum(n) OVER (PARTITION BY {group}, emotion_b) AS of_b
            FROM counted
        )
        SELECT {", ".join([*keys, *names, "emotion_a", "emotion_b"])},
               (n // {"1" if told else "if(emotion_a = emotion_b, 2, 1)"})::BIGINT AS pairs,
               pairs * {of_both} / every AS share, n * every / (of_a * of_b) AS lift
        FROM weighed {"" if told else "WHERE emotion_a <= emotion_b"}
        ORDER BY {", ".join([*keys, *names, "pairs DESC", "emotion_a", "emotion_b"])}""",
        values,
    )


def _pairs_of_emotions(timeline: Timeline, where: str) -> str:
    """How many (n) pairs of faces of each video (by its place) there are of each pair of emotions: none needs
    to be looked at, only how many faces show which emotion at a moment.
    """
    names = [name for name, _ in classes_of(timeline)]
    counts = ", ".join(f"count(*) FILTER (emotion = {name}) AS n_{k}" for k, name in enumerate(names))
    pairs = ", ".join(
        f"{{'emotion_a': {names[a]}, 'emotion_b': {names[b]}, "
        f"'n': sum({f'n_{a} * n_{b}' if a != b else f'n_{a} * (n_{a} - 1) // 2'})}}"
        for a, b in itertools.combinations_with_replacement(range(len(names)), 2)
    )
    return f"""of_moments AS (
            SELECT placed.place, time_s, {counts}
            FROM tracks JOIN placed USING (video_id) WHERE {where} GROUP BY ALL
        ),
        of_videos AS (
            FROM (SELECT place, unnest([{pairs}], recursive := true) FROM of_moments GROUP BY place)
            WHERE n > 0
        )"""


def _pairs_of_faces(timeline: Timeline, where: str, face: str) -> str:
    """The same, of each two faces: face_a and face_b, in order of what they are called (by `face`)."""
    names = f"[{', '.join(name for name, _ in classes_of(timeline))}]"
    backward = "(of_b.face, track_b) < (of_a.face, track_a)"
    return f"""shown AS (
            SELECT placed.place, time_s, track_id, {number_of_emotion(timeline)} AS number
            FROM tracks JOIN placed USING (video_id) WHERE {where}
        ),
        met AS (
            SELECT a.place, a.track_id AS track_a, b.track_id AS track_b,
                   {names}[a.number + 1] AS emotion_a, {names}[b.number + 1] AS emotion_b, count(*) AS n
            FROM shown AS a JOIN shown AS b
            ON a.place = b.place AND a.time_s = b.time_s AND a.track_id < b.track_id
            GROUP BY a.place, a.track_id, b.track_id, a.number, b.number
        ),
        called AS (
            SELECT place, track_id, {face} AS face
            FROM (SELECT place, track_a AS track_id FROM met UNION SELECT place, track_b FROM met)
            JOIN placed USING (place) JOIN (SELECT video_id, uri FROM videos) USING (video_id)
            LEFT JOIN people USING (video_id, track_id)
        ),
        of_videos AS (
            SELECT met.place, n,
                   if({backward}, of_b.face, of_a.face) AS face_a,
                   if({backward}, of_a.face, of_b.face) AS face_b,
                   if({backward}, emotion_b, emotion_a) AS emotion_a,
                   if({backward}, emotion_a, emotion_b) AS emotion_b
            FROM met
            JOIN called AS of_a ON of_a.place = met.place AND of_a.track_id = track_a
            JOIN called AS of_b ON of_b.place = met.place AND of_b.track_id = track_b
        )"""
