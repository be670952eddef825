"""The SQL of the views `episodes` and `summary`, and of columns that tables of older schemas lack."""

from collections.abc import Sequence

from fer_batch.schema import probability_column
from fer_batch.timeline.sql import ROW_END_S, TIME_TOLERANCE_S, quote_name

MIN_CONFIDENCE = 0.6
"""The default of the lowest confidence in an episode."""
UNSURE_CONFIDENCE = 0.5
"""A face with a lower confidence, or with none, is unsure: no emotion is more probable than the rest."""
MIN_EPISODE_S = 0.5
"""The default of the shortest episode."""


def episodes_sql(
    min_confidence: float = MIN_CONFIDENCE, min_s: float = MIN_EPISODE_S, where: str = "true"
) -> str:
    """Return a query for the episodes among the rows of `tracks` under a condition.

    An episode is a longest run of rows of one track with the same emotion and a confidence of at least
    `min_confidence`. Each row adjoins the one before, so a row below `min_confidence` ends the episode. It
    lasts from its first row to the end of its last row, for at least `min_s` seconds.

    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments (number of rows),
    peak_s (time of the first row with the highest confidence), peak and mean (of the confidence).
    """
    return f"""
        WITH edges AS (
            SELECT video_id, uri, track_id, person, time_s, {ROW_END_S} AS row_end_s, emotion, confidence,
                   emotion IS DISTINCT FROM lag(emotion) OVER track
                   OR time_s > lag(row_end_s) OVER track + {TIME_TOLERANCE_S} AS begins
            FROM tracks
            WHERE confidence >= {min_confidence} AND {where}
            WINDOW track AS (PARTITION BY video_id, track_id ORDER BY time_s)
        ),
        runs AS (
            SELECT *, count(*) FILTER (begins) OVER (
                PARTITION BY video_id, track_id ORDER BY time_s ROWS UNBOUNDED PRECEDING
            ) AS run
            FROM edges
        )
        SELECT video_id, any_value(uri) AS uri, track_id, any_value(person) AS person,
               any_value(emotion) AS emotion, min(time_s) AS start_s, max(row_end_s) AS end_s,
               end_s - start_s AS duration_s, count(*) AS moments,
               arg_max(time_s, (confidence, -time_s)) AS peak_s,
               max(confidence) AS peak, avg(confidence) AS mean
        FROM runs GROUP BY video_id, track_id, run HAVING end_s - start_s >= {min_s - TIME_TOLERANCE_S}"""


def add_step_s(table: str, videos: str, partition: str) -> str:
    """Return a query that adds `step_s` to a table of a schema before 5, which knows no steps.

    `partition` names the columns of which each combination has its own sequence of rows. A row lasts until
    the next one of its sequence. If that is more than 1.5 mean steps away, it lasts one mean step.
    """
    return f"""
        SELECT * EXCLUDE (next_s, mean_s, read_s), CASE WHEN next_s - time_s <= 1.5 * mean_s
            THEN next_s - time_s ELSE least(mean_s, greatest(read_s - time_s, 0)) END AS step_s
        FROM (
            SELECT rows.*, lead(time_s) OVER (PARTITION BY {partition} ORDER BY time_s) AS next_s,
                   read_s / nullif(moments, 0) AS mean_s, read_s
            FROM {table} AS rows LEFT JOIN (SELECT video_id, read_s, moments FROM {videos}) USING (video_id)
        )"""


def summary_sql(classes: Sequence[str]) -> str:
    """Return a query with one row for each video: its status, counts, and the mean of each probability."""
    means = ", ".join(f"avg({probability_column(name)}) AS {quote_name(name)}" for name in classes)
    names = ", ".join(f"faces.{quote_name(name)}" for name in classes)
    return f"""
        SELECT videos.video_id, videos.uri, status, error, read_s, moments, moments_with_face, tracks,
               coalesce(faces.n, 0) AS faces, {names}, videos.person,
               coalesce(shown.persons, 0) AS persons
        FROM videos
        LEFT JOIN (SELECT video_id, count(DISTINCT person) AS persons FROM people GROUP BY video_id) AS shown
        USING (video_id)
        LEFT JOIN (SELECT video_id, count(*) AS n, {means} FROM tracks GROUP BY video_id) AS faces
        USING (video_id)"""
