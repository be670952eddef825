"""When a face shows an emotion: episodes, turning points between them, and peaks."""

from typing import Unpack

import duckdb

from fer_batch.schema import probability_column
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    TIME_TOLERANCE_S,
    check_emotion,
    check_not_negative,
    check_positive,
    check_threshold,
    quote_text,
)
from fer_batch.timeline.views import MIN_CONFIDENCE, MIN_EPISODE_S, episodes_sql


def find_episodes(
    database: Database,
    emotion: str | None = None,
    threshold: float = MIN_CONFIDENCE,
    min_s: float = MIN_EPISODE_S,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """Find runs of one emotion of one face with a confidence of at least `threshold` in each row.

    An episode lasts from its first row to the end of its last row, at least `min_s` seconds. It ends where
    the face is not seen in the next sampled frame, and where sampling pauses.

    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments (number of
    rows), peak_s (time of the first row with the highest confidence), peak and mean (of the confidence).
    """
    database, where, params = select_faces(database, **filters)
    if emotion is not None:
        where += f" AND emotion = {quote_text(check_emotion(database, emotion))}"
    query = episodes_sql(check_threshold(threshold), check_not_negative(min_s, "min_s"), where)
    return database.sql(f"FROM ({query}) ORDER BY uri, track_id, start_s", params)


def find_turning_points(
    database: Database, min_s: float = 1.0, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Find the times at which a face changes from one emotion to another, both lasting `min_s` or longer.

    Columns: video_id, uri, track_id, person, time_s (the start of the second emotion), before, after,
    gap_s (seconds between the two).
    """
    database, where, params = select_faces(database, **filters)
    episodes = episodes_sql(0.0, check_not_negative(min_s, "min_s"), where)
    return database.sql(
        f"""SELECT video_id, uri, track_id, person, start_s AS time_s, lag(emotion) OVER track AS before,
               emotion AS after, start_s - lag(end_s) OVER track AS gap_s
        FROM ({episodes}) WINDOW track AS (PARTITION BY video_id, track_id ORDER BY start_s)
        QUALIFY before <> after ORDER BY uri, track_id, time_s""",
        params,
    )


def find_peaks(
    database: Database,
    emotion: str | None = None,
    threshold: float = MIN_CONFIDENCE,
    distance_s: float = 1.0,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """Find rows at which an emotion's probability is the highest within `distance_s` before and after.

    Without `emotion`, these are the peaks of the most probable emotion, compared with rows of the same
    emotion. A peak has a probability of at least `threshold`. Of equal probabilities, the first counts.

    Columns: video_id, uri, track_id, person, emotion, time_s, probability.
    """
    if emotion is None:
        probability, name, track = "confidence", "emotion", "video_id, track_id, emotion"
    else:
        emotion = check_emotion(database, emotion)
        probability, name, track = probability_column(emotion), quote_text(emotion), "video_id, track_id"
    around_s = check_positive(distance_s, "distance_s") + TIME_TOLERANCE_S
    database, where, params = select_faces(database, **filters)
    return database.sql(
        f"""SELECT video_id, uri, track_id, person, {name} AS emotion, time_s, {probability} AS probability
        FROM tracks WHERE {where} AND {probability} >= {check_threshold(threshold)}
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
        params,
    )
