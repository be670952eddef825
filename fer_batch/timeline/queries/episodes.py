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
    """Find runs of one emotion of one face, in order of video, track and time.

    Every row of an episode has a confidence of at least `threshold`; the episode lasts at least `min_s`
    seconds. `fer_batch.timeline.views.episodes_sql` has the exact definition. The view `episodes` holds the
    episodes of the defaults.

    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments (number of rows),
    peak_s (time of the first row with the highest confidence), peak and mean (of the confidence).
    """
    selection = select_faces(database, **filters)
    where = selection.where
    if emotion is not None:
        where += f" AND emotion = {quote_text(check_emotion(database, emotion))}"
    query = episodes_sql(check_threshold(threshold), check_not_negative(min_s, "min_s"), where)
    return database.sql(f"FROM ({query}) ORDER BY uri, track_id, start_s", selection.params)
