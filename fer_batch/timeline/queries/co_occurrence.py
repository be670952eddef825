"""Co-occurrence: the emotions that two faces show in the same sampled frame."""

import itertools
from collections.abc import Sequence
from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    FACE,
    FACE_WITH_URI,
    class_literals,
    group_columns,
    list_groups,
    videos_sql,
)


def co_occurrence(
    database: Database, by: str | Sequence[str] = ("video",), **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Count the emotions of two faces in the same frame: one row for each group and pair of emotions.

    Every two faces of a sampled frame are a pair. `by` names the groups: "video", columns of a manifest, and
    "pair". With "pair", each two faces are a group, and the columns face_a and face_b have their names in
    alphabetical order: persons, or "track N" (with its uri if groups span several videos). Without "pair",
    the emotions of a pair have no order.

    Columns besides those of the groups: emotion_a, emotion_b, pairs, share (of the group's pairs, 0 to 1) and
    lift (the share divided by the share that independent faces would have; 1 is chance).
    """
    by_pair = "pair" in list_groups(by)
    keys = group_columns(database, by, without=("person", "track"), extra=("pair",))
    selection = select_faces(database, **filters)
    if by_pair:
        face = FACE if "video_id" in keys or "video" in selection.params else FACE_WITH_URI
        pairs = _face_pairs_sql(selection.where, face)
    else:
        pairs = _emotion_pairs_sql(database, selection.where)
    groups = [*keys, "face_a", "face_b"] if by_pair else keys
    group = ", ".join(groups) or "1"
    # Emotions without order count in both orders, so that both have the same marginal distribution.
    mirrored = (
        "" if by_pair else f"UNION ALL SELECT {', '.join([*keys, 'emotion_b', 'emotion_a', 'n'])} FROM joint"
    )
    halved = "1" if by_pair else "if(emotion_a = emotion_b, 2, 1)"
    return database.sql(
        f"""WITH numbered AS MATERIALIZED {videos_sql(selection.params)},
        {pairs},
        joint AS (
            SELECT {", ".join([*(f"videos.{key}" for key in keys), "pairs.* EXCLUDE (place)"])}
            FROM pairs JOIN numbered ON numbered.place = pairs.place
            JOIN videos ON videos.video_id = numbered.video_id
        ),
        counted AS (SELECT * EXCLUDE (n), sum(n) AS n FROM (FROM joint {mirrored}) GROUP BY ALL),
        totals AS (
            SELECT *, sum(n) OVER (PARTITION BY {group}) AS n_group,
                   sum(n) OVER (PARTITION BY {group}, emotion_a) AS n_a,
                   sum(n) OVER (PARTITION BY {group}, emotion_b) AS n_b
            FROM counted
        )
        SELECT {", ".join([*groups, "emotion_a", "emotion_b"])}, (n // {halved})::BIGINT AS pairs,
               pairs * {1 if by_pair else 2} / n_group AS share, n * n_group / (n_a * n_b) AS lift
        FROM totals {"" if by_pair else "WHERE emotion_a <= emotion_b"}
        ORDER BY {", ".join([*groups, "pairs DESC", "emotion_a", "emotion_b"])}""",
        selection.params,
    )


def _emotion_pairs_sql(database: Database, where: str) -> str:
    """Return the expression `pairs`: each video's number of pairs (n) for each pair of emotions.

    It follows from the number of faces with each emotion in each frame, without a join of faces.
    """
    names = [name for name, _ in class_literals(database)]
    counts = ", ".join(f"count(*) FILTER (emotion = {name}) AS n_{k}" for k, name in enumerate(names))
    pairs = ", ".join(
        f"{{'emotion_a': {names[a]}, 'emotion_b': {names[b]}, "
        f"'n': sum({f'n_{a} * n_{b}' if a != b else f'n_{a} * (n_{a} - 1) // 2'})}}"
        for a, b in itertools.combinations_with_replacement(range(len(names)), 2)
    )
    return f"""frames AS (
            SELECT numbered.place, time_s, {counts}
            FROM tracks JOIN numbered USING (video_id) WHERE {where} GROUP BY ALL
        ),
        pairs AS (
            FROM (SELECT place, unnest([{pairs}], recursive := true) FROM frames GROUP BY place)
            WHERE n > 0
        )"""


def _face_pairs_sql(where: str, face: str) -> str:
    """Return the expression `pairs`: the number (n) of each pair of emotions for every two faces."""
    swapped = "(b.face, track_b) < (a.face, track_a)"
    return f"""selected AS (
            SELECT numbered.place, time_s, track_id, emotion
            FROM tracks JOIN numbered USING (video_id) WHERE {where}
        ),
        track_pairs AS (
            SELECT a.place, a.track_id AS track_a, b.track_id AS track_b,
                   a.emotion AS emotion_a, b.emotion AS emotion_b, count(*) AS n
            FROM selected AS a JOIN selected AS b
            ON a.place = b.place AND a.time_s = b.time_s AND a.track_id < b.track_id
            GROUP BY ALL
        ),
        names AS (
            SELECT place, track_id, {face} AS face
            FROM (
                SELECT place, track_a AS track_id FROM track_pairs
                UNION SELECT place, track_b FROM track_pairs
            ) JOIN numbered USING (place) JOIN (SELECT video_id, uri FROM videos) USING (video_id)
            LEFT JOIN people USING (video_id, track_id)
        ),
        pairs AS (
            SELECT track_pairs.place, n,
                   if({swapped}, b.face, a.face) AS face_a, if({swapped}, a.face, b.face) AS face_b,
                   if({swapped}, emotion_b, emotion_a) AS emotion_a,
                   if({swapped}, emotion_a, emotion_b) AS emotion_b
            FROM track_pairs
            JOIN names AS a ON a.place = track_pairs.place AND a.track_id = track_a
            JOIN names AS b ON b.place = track_pairs.place AND b.track_id = track_b
        )"""
