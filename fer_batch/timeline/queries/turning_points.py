"""Turning points: the times at which a face's emotion changes lastingly."""

from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import check_not_negative
from fer_batch.timeline.views import episodes_sql


def turning_points(
    database: Database, min_s: float = 1.0, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.turning_points`."""
    selection = select_faces(database, **filters)
    episodes = episodes_sql(0.0, check_not_negative(min_s, "min_s"), selection.where)
    return database.sql(
        f"""SELECT video_id, uri, track_id, person, start_s AS time_s, lag(emotion) OVER track AS before,
               emotion AS after, start_s - lag(end_s) OVER track AS gap_s
        FROM ({episodes}) WINDOW track AS (PARTITION BY video_id, track_id ORDER BY start_s)
        QUALIFY before <> after ORDER BY uri, track_id, time_s""",
        selection.params,
    )
