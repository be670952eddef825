"""Turning points: the times at which a face's emotion changes lastingly."""

from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import check_not_negative
from fer_batch.timeline.views import runs_sql


def turning_points(
    database: Database, min_s: float = 1.0, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Find the times at which a face changes from one emotion to another, both lasting `min_s` or longer.

    Shorter runs of other emotions in between are skipped. If the same emotion comes back after one, that is
    no change.

    Columns: video_id, uri, track_id, person, time_s (the start of the second emotion), before, after, gap_s
    (seconds between the two).
    """
    selection = select_faces(database, **filters)
    runs = runs_sql(0.0, check_not_negative(min_s, "min_s"), selection.where)
    return database.sql(
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
        selection.params,
    )
