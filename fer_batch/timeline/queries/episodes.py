"""Episodes: runs of one emotion of one face."""

from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import check_emotion, check_not_negative, check_threshold, quote_text
from fer_batch.timeline.views import MIN_CONFIDENCE, MIN_EPISODE_S, episodes_sql


def episodes(
    database: Database,
    emotion: str | None = None,
    threshold: float = MIN_CONFIDENCE,
    min_s: float = MIN_EPISODE_S,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.episodes`; `views.episodes_sql` has the exact definition."""
    selection = select_faces(database, **filters)
    where = selection.where
    if emotion is not None:
        where += f" AND emotion = {quote_text(check_emotion(database, emotion))}"
    query = episodes_sql(check_threshold(threshold), check_not_negative(min_s, "min_s"), where)
    return database.sql(f"FROM ({query}) ORDER BY uri, track_id, start_s", selection.params)
