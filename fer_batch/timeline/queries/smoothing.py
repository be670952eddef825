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
)


def smooth(
    database: Database, window_s: float = 1.0, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.smooth`."""
    half_s = check_positive(window_s, "window_s") / 2 + TIME_TOLERANCE_S
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) OVER around AS {column}" for column in columns)
    listed = ", ".join(columns)
    track = "PARTITION BY video_id, track_id ORDER BY time_s"
    selection = select_faces(database, **filters)
    # DuckDB searches the rows of a RANGE frame for each aggregate, which takes most of the time. Two counts
    # find them once for all columns.
    return database.sql(
        f"""WITH counted AS (
            SELECT video_id, uri, track_id, person, time_s, {listed},
                   count(*) OVER before - 1 AS n_before, count(*) OVER after - 1 AS n_after
            FROM tracks WHERE {selection.where}
            WINDOW before AS ({track} RANGE BETWEEN {half_s} PRECEDING AND CURRENT ROW),
                   after AS ({track} RANGE BETWEEN CURRENT ROW AND {half_s} FOLLOWING)
        ),
        smoothed AS (
            SELECT video_id, uri, track_id, person, time_s, {means}, n_before + 1 + n_after AS moments
            FROM counted
            WINDOW around AS ({track} ROWS BETWEEN n_before PRECEDING AND n_after FOLLOWING)
        )
        SELECT video_id, uri, track_id, person, time_s, {most_probable_sql(database)} AS emotion,
               greatest({listed}) AS confidence, {listed}, moments
        FROM smoothed ORDER BY uri, track_id, time_s""",
        selection.params,
    )
