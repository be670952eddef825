"""Smoothing: means of each face's probabilities over a moving window."""

from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    TIME_TOLERANCE_S,
    check_positive,
    most_probable_sql,
    probability_columns,
    videos_sql,
)


def smooth(
    database: Database, window_s: float = 1.0, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Replace each face's probabilities by their mean over `window_s` seconds, half before and half after.

    The mean is over the rows of the same track within the window. It has fewer rows at the ends of a track
    and where the face is not seen. Nothing is shifted in time.

    Columns: video_id, uri, track_id, person, time_s, emotion and confidence (of the means), a mean `p_…` for
    each emotion, and moments (the number of rows in the window).
    """
    half_s = check_positive(window_s, "window_s") / 2 + TIME_TOLERANCE_S
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) OVER around AS {column}" for column in columns)
    listed = ", ".join(columns)
    selection = select_faces(database, **filters)
    return database.sql(
        f"""WITH numbered AS MATERIALIZED {videos_sql(selection.params)},
        smoothed AS (
            SELECT numbered.place, track_id, time_s, {means}, count(*) OVER around AS moments
            FROM tracks JOIN numbered USING (video_id) WHERE {selection.where}
            WINDOW around AS (
                PARTITION BY numbered.place, track_id ORDER BY time_s
                RANGE BETWEEN {half_s} PRECEDING AND {half_s} FOLLOWING
            )
        )
        SELECT video_id, uri, track_id, people.person, time_s, {most_probable_sql(database)} AS emotion,
               greatest({listed}) AS confidence, {listed}, moments
        FROM smoothed JOIN numbered USING (place) JOIN (SELECT video_id, uri FROM videos) USING (video_id)
        LEFT JOIN people USING (video_id, track_id)
        ORDER BY place, track_id, time_s""",
        selection.params,
    )
