"""Baseline: each face's probabilities minus their mean for that face."""

from typing import Unpack

import duckdb

from fer_batch.errors import QueryError
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import most_probable_sql, probability_columns

FACE_KEYS = {
    "track": "video_id || ' ' || track_id",
    "person": "if(person IS NULL, video_id || ' ' || track_id, 'person ' || person)",
}


def baseline(
    database: Database, by: str = "person", **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.baseline`."""
    if by not in FACE_KEYS:
        raise QueryError(f"A baseline must be by person or track, got {by}")
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) AS mean_{column}" for column in columns)
    names = [f"d_{column.removeprefix('p_')}" for column in columns]
    differences = ", ".join(
        f"{column} - mean_{column} AS {name}" for column, name in zip(columns, names, strict=True)
    )
    selection = select_faces(database, **filters)
    return database.sql(
        f"""WITH selected AS (
            SELECT {FACE_KEYS[by]} AS face, video_id, uri, track_id, person, time_s, emotion,
                   {", ".join(columns)}
            FROM tracks WHERE {selection.where}
        ),
        means AS (SELECT face, {means} FROM selected GROUP BY face)
        SELECT video_id, uri, track_id, person, time_s, emotion, {differences},
               {most_probable_sql(database, names)} AS rises
        FROM selected JOIN means USING (face) ORDER BY uri, track_id, time_s""",
        selection.params,
    )
