"""Questions that people ask of a timeline, each a function from a `Timeline` to a DuckDB relation.

A relation is asked by `.df()` (pandas), `.pl()` (Polars), `.arrow()` or `.fetchall()`, and reads no other
columns and parts of files than it needs. All take the rows of `tracks` that `video` (id, uri or file name),
`person`, `track`, `start_s` and `end_s` leave (`[start_s, end_s)` seconds of the video), all by default, and
raise QueryError where there is no such video or person.

An emotion's probability is what the model gave it; a moment's `emotion` is the most probable one. A moment
stands for one step, the mean distance of its video's moments.
"""

from collections.abc import Sequence
from typing import Any

import duckdb

from fer_batch.schema import probability_column
from fer_batch.timeline.episodes import MIN_S, STEP_S, THRESHOLD, episodes_sql
from fer_batch.timeline.expressions import (
    FACE,
    NEAR,
    cell,
    classes_of,
    keys_of,
    known_emotion,
    names_of,
    not_negative,
    positive,
    share_of,
)
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
        f"'seconds': coalesce(sum(step_s) FILTER (emotion = {name}), 0), "
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
        where += f" AND emotion = {known_emotion(timeline, emotion)}"
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
        named, probability, apart = "emotion", "confidence", ", emotion"
    else:
        named, probability, apart = known_emotion(timeline, emotion), probability_column(emotion), ""
    around = positive(distance_s, "distance_s") + NEAR
    return timeline.run(
        f"""SELECT video_id, uri, track_id, person, emotion, time_s, probability FROM (
            SELECT video_id, uri, track_id, person, {named} AS emotion, time_s, {probability} AS probability,
                   max(probability) OVER (
                       face RANGE BETWEEN {around} PRECEDING AND {NEAR} PRECEDING
                   ) AS before,
                   max(probability) OVER (
                       face RANGE BETWEEN {NEAR} FOLLOWING AND {around} FOLLOWING
                   ) AS after
            FROM tracks WHERE {probability} >= {share_of(threshold)} AND {where}
            WINDOW face AS (PARTITION BY video_id, track_id{apart} ORDER BY time_s)
        ) WHERE probability > coalesce(before, -1) AND probability >= coalesce(after, -1)
        ORDER BY uri, track_id, time_s""",
        values,
    )


def turning_points(timeline: Timeline, min_s: float = 1.0, **faces: Any) -> duckdb.DuckDBPyRelation:
    """Where a face's emotion changes for good: from one that lasted `min_s` seconds to another that does.

    Shorter ones between are passed over; an emotion that comes back after one is no change. Columns:
    video_id, uri, track_id, person, time_s (when the other begins), before, after, gap_s (seconds between
    the two).
    """
    where, values = timeline.faces_of(**faces)
    runs = episodes_sql(0.0, not_negative(min_s, "min_s"), where)
    return timeline.run(
        f"""SELECT video_id, uri, track_id, person, start_s AS time_s, before, emotion AS after, gap_s FROM (
            SELECT *, lag(emotion) OVER face AS before, start_s - lag(end_s) OVER face AS gap_s FROM ({runs})
            WINDOW face AS (PARTITION BY video_id, track_id ORDER BY start_s)
        ) WHERE before <> emotion ORDER BY uri, track_id, time_s""",
        values,
    )


def co_occurrence(
    timeline: Timeline, by: str | Sequence[str] = ("video",), **faces: Any
) -> duckdb.DuckDBPyRelation:
    """Which emotions two faces show at the same moment: a row a group and pair of emotions.

    Every two faces of a moment are a pair. `by` may be "video", columns of a manifest, and "pair" (who the
    two are, `face_a` and `face_b`: persons, else "track N"), by which a person that comes before another in
    the alphabet is the first of the two; else the emotions of a pair have no order. Columns beside these:
    emotion_a, emotion_b, pairs, share (of the group's pairs), lift (share over what it were if the two had
    nothing to do with each other: 1 is chance).
    """
    told = "pair" in names_of(by)
    keys = keys_of(timeline, by, without=("person", "track"), beside=("pair",))
    where, values = timeline.faces_of(**faces)
    names = ["face_a", "face_b"] if told else []
    earlier = "(a.face, a.track_id) < (b.face, b.track_id)" if told else "a.track_id < b.track_id"
    chosen = [*(f"a.{key}" for key in keys), *(["a.face AS face_a", "b.face AS face_b"] if told else [])]
    group = ", ".join([*keys, *names]) or "1"
    other_way = ", ".join([*keys, "emotion_b", "emotion_a", "n"])
    ways, of_both = ("", 1) if told else (f"UNION ALL SELECT {other_way} FROM joint", 2)
    return timeline.run(
        f"""WITH shown AS (
            SELECT {", ".join(dict.fromkeys(["video_id", *keys]))}, track_id, time_s, emotion, {FACE} AS face
            FROM tracks WHERE {where}
        ),
        joint AS (
            SELECT {", ".join([*chosen, "a.emotion AS emotion_a", "b.emotion AS emotion_b"])}, count(*) AS n
            FROM shown AS a JOIN shown AS b ON a.video_id = b.video_id AND a.time_s = b.time_s AND {earlier}
            GROUP BY ALL
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
