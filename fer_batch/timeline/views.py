"""The SQL of the views `episodes` and `summary`, which follow from the tables."""

from collections.abc import Sequence

from fer_batch.schema import probability_column
from fer_batch.timeline.sql import MAX_GAP_STEPS, STEP_S, TIME_TOLERANCE_S, quote_name

MIN_CONFIDENCE = 0.6
"""The default of the lowest confidence in an episode."""
MIN_EPISODE_S = 0.5
"""The default of the shortest episode."""
RUN_END_S = "least(last_s + step_s, greatest(last_s, read_s))"
"""The end of a run whose last row is at `last_s`: one step later, but within what was read of the video."""
JOIN_INTERVAL_S = 5
"""Rows are compared only with runs in the same interval of this length, which allows a hash join."""


def runs_sql(min_confidence: float, min_s: float, where: str) -> str:
    """Return the beginning of a query (WITH …) for runs of one emotion in one track.

    It defines `runs`: place (the video's number), track_id, emotion, start_s and last_s (times of the first
    and last row); and `steps`: video_id, place, step_s and read_s. `episodes_sql` says what a run is.
    """
    min_s -= TIME_TOLERANCE_S
    return f"""
        WITH steps AS MATERIALIZED (
            SELECT video_id, {STEP_S} AS step_s, read_s, row_number() OVER () AS place FROM videos
        ),
        edges AS (
            SELECT steps.place, track_id, time_s, emotion, steps.step_s, steps.read_s,
                   emotion IS DISTINCT FROM lag(emotion) OVER face
                   OR time_s - lag(time_s) OVER face > {MAX_GAP_STEPS} * steps.step_s AS begins,
                   emotion IS DISTINCT FROM lead(emotion) OVER face
                   OR lead(time_s) OVER face - time_s > {MAX_GAP_STEPS} * steps.step_s AS ends
            FROM tracks JOIN steps USING (video_id)
            WHERE confidence >= {min_confidence} AND {where}
            WINDOW face AS (PARTITION BY steps.place, track_id ORDER BY time_s)
        ),
        runs AS MATERIALIZED (
            SELECT place, track_id, emotion, start_s, last_s FROM (
                SELECT *, time_s AS start_s, if(ends, time_s, lead(time_s) OVER face) AS last_s
                FROM edges WHERE begins <> ends OR begins AND step_s >= {min_s}
                WINDOW face AS (PARTITION BY place, track_id ORDER BY time_s)
            ) WHERE begins AND {RUN_END_S} - start_s >= {min_s}
        )"""


def episodes_sql(
    min_confidence: float = MIN_CONFIDENCE, min_s: float = MIN_EPISODE_S, where: str = "true"
) -> str:
    """Return a query for the episodes among the rows of `tracks` under a condition.

    An episode is a longest run of rows of one track with the same emotion and a confidence of at least
    `min_confidence`. No row is more than 1.5 steps after the one before, so a row below `min_confidence` ends
    the episode. It lasts from its first row to one step after its last row, within what was read of the
    video, for at least `min_s` seconds.

    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments (number of rows),
    peak_s (time of the first row with the highest confidence), peak and mean (of the confidence).
    """
    interval = f"floor({{}} / {JOIN_INTERVAL_S})::BIGINT"
    intervals = f"range({interval.format('start_s')}, {interval.format('last_s')} + 1)"
    return f"""{runs_sql(min_confidence, min_s, where)}
        SELECT video_id, any_value(uri) AS uri, track_id, any_value(person) AS person,
               any_value(runs.emotion) AS emotion, start_s, any_value({RUN_END_S}) AS end_s,
               end_s - start_s AS duration_s, count(*) AS moments,
               arg_max(time_s, (confidence, -time_s)) AS peak_s,
               max(confidence) AS peak, avg(confidence) AS mean
        FROM (SELECT *, unnest({intervals}) AS interval FROM runs) AS runs JOIN steps USING (place)
        JOIN (
            SELECT video_id, uri, track_id, person, time_s, confidence,
                   {interval.format("time_s")} AS interval
            FROM tracks
        ) AS tracks
        USING (video_id, track_id, interval)
        WHERE time_s BETWEEN start_s AND last_s
        GROUP BY video_id, track_id, start_s"""


def summary_sql(classes: Sequence[str]) -> str:
    """Return a query with one row for each video: its status, counts, and the mean of each probability."""
    means = ", ".join(f"avg({probability_column(name)}) AS {quote_name(name)}" for name in classes)
    names = ", ".join(f"faces.{quote_name(name)}" for name in classes)
    return f"""
        SELECT videos.video_id, videos.uri, status, error, read_s, moments, moments_with_face, tracks,
               coalesce(faces.n, 0) AS faces, {names}, videos.person
        FROM videos
        LEFT JOIN (SELECT video_id, count(*) AS n, {means} FROM tracks GROUP BY video_id) AS faces
        USING (video_id)"""
