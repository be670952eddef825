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
)
from fer_batch.timeline.views import MIN_CONFIDENCE


def peaks(
    database: Database,
    emotion: str | None = None,
    threshold: float = MIN_CONFIDENCE,
    distance_s: float = 1.0,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.peaks`."""
    if emotion is None:
        probability, name, track = "confidence", "emotion", "video_id, track_id, emotion"
    else:
        emotion = check_emotion(database, emotion)
        probability, name, track = probability_column(emotion), quote_text(emotion), "video_id, track_id"
    around_s = check_positive(distance_s, "distance_s") + TIME_TOLERANCE_S
    selection = select_faces(database, **filters)
    return database.sql(
        f"""SELECT video_id, uri, track_id, person, {name} AS emotion, time_s, {probability} AS probability
        FROM tracks WHERE {selection.where} AND {probability} >= {check_threshold(threshold)}
        WINDOW before AS (
            PARTITION BY {track} ORDER BY time_s
            RANGE BETWEEN {around_s} PRECEDING AND {TIME_TOLERANCE_S} PRECEDING
        ), after AS (
            PARTITION BY {track} ORDER BY time_s
            RANGE BETWEEN {TIME_TOLERANCE_S} FOLLOWING AND {around_s} FOLLOWING
        )
        QUALIFY {probability} > coalesce(max({probability}) OVER before, -1)
        AND {probability} >= coalesce(max({probability}) OVER after, -1)
        ORDER BY uri, track_id, time_s""",
        selection.params,
    )
