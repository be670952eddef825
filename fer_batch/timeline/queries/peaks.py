"""Peaks: the times at which an emotion is most probable."""

from typing import Unpack

import duckdb

from fer_batch.schema import probability_column
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    TIME_TOLERANCE_S,
    check_emotion,
    check_positive,
    check_threshold,
    quote_text,
    videos_sql,
)
from fer_batch.timeline.views import MIN_CONFIDENCE


def peaks(
    database: Database,
    emotion: str | None = None,
    threshold: float = MIN_CONFIDENCE,
    distance_s: float = 1.0,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """Find rows at which an emotion's probability is the highest within `distance_s` before and after.

    With `emotion`, these are the peaks of its probability in each track. Without it, they are the peaks of
    the most probable emotion, each compared with the track's rows of the same emotion. A peak has a
    probability of at least `threshold`. Of equal probabilities, the first is the peak.

    Columns: video_id, uri, track_id, person, emotion, time_s, probability.
    """
    if emotion is None:
        probability, name, partition = "confidence", "emotion", "place, track_id, emotion"
    else:
        emotion = check_emotion(database, emotion)
        probability, name, partition = probability_column(emotion), quote_text(emotion), "place, track_id"
    around_s = check_positive(distance_s, "distance_s") + TIME_TOLERANCE_S
    selection = select_faces(database, **filters)
    return database.sql(
        f"""WITH numbered AS MATERIALIZED {videos_sql(selection.params)},
        candidates AS (
            SELECT numbered.place, track_id, {name} AS emotion, time_s, {probability} AS probability
            FROM tracks JOIN numbered USING (video_id)
            WHERE {selection.where} AND {probability} >= {check_threshold(threshold)}
        ),
        peaks AS (
            FROM candidates
            WINDOW before AS (
                PARTITION BY {partition} ORDER BY time_s
                RANGE BETWEEN {around_s} PRECEDING AND {TIME_TOLERANCE_S} PRECEDING
            ), after AS (
                PARTITION BY {partition} ORDER BY time_s
                RANGE BETWEEN {TIME_TOLERANCE_S} FOLLOWING AND {around_s} FOLLOWING
            )
            QUALIFY probability > coalesce(max(probability) OVER before, -1)
            AND probability >= coalesce(max(probability) OVER after, -1)
        )
        SELECT video_id, uri, track_id, people.person, emotion, time_s, probability
        FROM peaks JOIN numbered USING (place) JOIN (SELECT video_id, uri FROM videos) USING (video_id)
        LEFT JOIN people USING (video_id, track_id)
        ORDER BY place, track_id, time_s""",
        selection.params,
    )
