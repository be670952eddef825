"""Baseline: each face's probabilities minus their mean for that face."""

from typing import Unpack

import duckdb

from fer_batch.errors import QueryError
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import most_probable_sql, probability_columns, videos_sql


def baseline(
    database: Database, by: str = "person", **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Subtract each face's mean probabilities from its probabilities: some faces look angry or sad at rest.

    The means are over all selected rows of the same person, or of the track if it has no person. With
    `by="track"` they are over each track. Differences are from -1 to 1, have a mean of 0 for each face, and
    sum to 0 in each row.

    Columns: video_id, uri, track_id, person, time_s, emotion, a difference `d_…` for each emotion, and rises
    (the emotion with the highest difference).
    """
    if by not in ("person", "track"):
        raise QueryError(f"A baseline is by person or track, got by {by}")
    columns = probability_columns(database)
    differences = [f"d_{column[2:]}" for column in columns]
    sums = ", ".join(f"sum({column}) AS {column}" for column in columns)
    means = ", ".join(f"sum({column}) OVER face / sum(n) OVER face AS mean_{column}" for column in columns)
    listed = ", ".join(
        f"{column} - mean_{column} AS {difference}"
        for column, difference in zip(columns, differences, strict=True)
    )
    face = "person, if(person IS NULL, place, NULL), if(person IS NULL, track_id, NULL)"
    selection = select_faces(database, **filters)
    return database.sql(
        f"""WITH numbered AS MATERIALIZED {videos_sql(selection.params)},
        selected AS (
            SELECT numbered.place, track_id, time_s, emotion, {", ".join(columns)}
            FROM tracks JOIN numbered USING (video_id) WHERE {selection.where}
        ),
        sums AS (SELECT place, track_id, count(*) AS n, {sums} FROM selected GROUP BY ALL),
        means AS (
            SELECT place, video_id, uri, track_id, people.person, {means}
            FROM sums JOIN numbered USING (place) JOIN (SELECT video_id, uri FROM videos) USING (video_id)
            LEFT JOIN people USING (video_id, track_id)
            WINDOW face AS (PARTITION BY {face if by == "person" else "place, track_id"})
        )
        SELECT video_id, uri, track_id, person, time_s, emotion, {listed},
               {most_probable_sql(database, differences)} AS rises
        FROM selected JOIN means USING (place, track_id) ORDER BY place, track_id, time_s""",
        selection.params,
    )
