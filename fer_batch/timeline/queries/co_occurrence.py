"""Co-occurrence: the emotions that two faces show in the same sampled frame."""

import itertools
from collections.abc import Sequence
from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    FACE,
    FACE_WITH_LOCAL_NUMBERS,
    FACE_WITH_URI,
    class_literals,
    group_columns,
    list_groups,
)


def count_co_occurrences(
    database: Database, by: str | Sequence[str] = ("video",), **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Count the emotions of two faces in the same frame: one row for each group and pair of emotions.

    `by` names the groups: "video", columns of a manifest, and "pair" (each two faces: face_a and face_b).

    Columns besides those of the groups: emotion_a, emotion_b, pairs, share (of the group's pairs, 0 to 1)
    and lift (the share divided by the share that independent faces would have; 1 is chance).
    """
    by_pair = "pair" in list_groups(by)
    keys = group_columns(database, by, without=("person", "track"), extra=("pair",))
    database, where, params = select_faces(database, **filters)
    if by_pair:
        among_videos = FACE_WITH_LOCAL_NUMBERS if database.numbers_are_local else FACE_WITH_URI
        face = FACE if "video_id" in keys or "video" in params else among_videos
        pairs = _face_pairs_sql(where, face)
    else:
        pairs = _emotion_pairs_sql(database, where)
    groups = [*keys, "face_a", "face_b"] if by_pair else keys
    group = ", ".join(groups) or "1"
    # Emotions without order count in both orders, so that both have the same marginal distribution.
    swapped = ", ".join([*keys, "emotion_b", "emotion_a", "n"])
    mirrored = "" if by_pair else f"UNION ALL SELECT {swapped} FROM joint"
    halved = "1" if by_pair else "if(emotion_a = emotion_b, 2, 1)"
    return database.sql(
        f"""WITH {pairs},
        joint AS (
            SELECT {", ".join([*(f"videos.{key}" for key in keys), "pairs.* EXCLUDE (video_id)"])}
            FROM pairs JOIN videos ON videos.video_id = pairs.video_id
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
        params,
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
            SELECT video_id, time_s, {counts} FROM tracks WHERE {where} GROUP BY video_id, time_s
        ),
        pairs AS (
            FROM (SELECT video_id, unnest([{pairs}], recursive := true) FROM frames GROUP BY video_id)
            WHERE n > 0
        )"""


def _face_pairs_sql(where: str, face: str) -> str:
    """Return the expression `pairs`: the number (n) of each pair of emotions for every two faces."""
    swapped = "(b.face, track_b) < (a.face, track_a)"
    # Counting pairs of tracks before they get their faces' names is faster than counting pairs of names.
    return f"""selected AS (SELECT video_id, time_s, track_id, emotion FROM tracks WHERE {where}),
        track_pairs AS (
            SELECT a.video_id, a.track_id AS track_a, b.track_id AS track_b,
                   a.emotion AS emotion_a, b.emotion AS emotion_b, count(*) AS n
            FROM selected AS a JOIN selected AS b
            ON a.video_id = b.video_id AND a.time_s = b.time_s AND a.track_id < b.track_id
            GROUP BY ALL
        ),
        names AS (SELECT DISTINCT video_id, track_id, {face} AS face FROM tracks WHERE {where}),
        pairs AS (
            SELECT track_pairs.video_id, n,
                   if({swapped}, b.face, a.face) AS face_a, if({swapped}, a.face, b.face) AS face_b,
                   if({swapped}, emotion_b, emotion_a) AS emotion_a,
                   if({swapped}, emotion_a, emotion_b) AS emotion_b
            FROM track_pairs
            JOIN names AS a ON a.video_id = track_pairs.video_id AND a.track_id = track_a
            JOIN names AS b ON b.video_id = track_pairs.video_id AND b.track_id = track_b
        )"""
