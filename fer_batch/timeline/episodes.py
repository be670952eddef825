"""Episodes: runs of one emotion of one face."""

THRESHOLD, MIN_S = 0.6, 0.5
"""An episode's least confidence and length (in seconds) where nothing else is asked for."""
STEP_S = "read_s / nullif(moments, 0)"
"""Seconds that a moment of a row of `videos` stands for: the mean distance of its moments."""
BREAK = 1.5
"""An episode ends where the face is not seen for more than so many steps."""


def episodes_sql(threshold: float = THRESHOLD, min_s: float = MIN_S, where: str = "true") -> str:
    """A query for the episodes among the rows of `tracks` under a condition.

    An episode is a longest run of moments of one track whose `emotion` is the same and whose `confidence` is
    at least `threshold`, none of them more than 1.5 steps after the one before (so that a moment below the
    threshold ends it), of at least `min_s` seconds. It lasts from its first moment to a step after its last.
    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments, peak_s (of the
    first moment of the highest confidence), peak and mean (of the confidence).
    """
    return f"""
        WITH steps AS (SELECT video_id, {STEP_S} AS step_s FROM videos),
        held AS (
            SELECT video_id, uri, track_id, person, time_s, emotion, confidence, step_s,
                   emotion IS DISTINCT FROM lag(emotion) OVER face
                   OR time_s - lag(time_s) OVER face > {BREAK} * step_s AS begins
            FROM tracks JOIN steps USING (video_id)
            WHERE confidence >= {threshold} AND {where}
            WINDOW face AS (PARTITION BY video_id, track_id ORDER BY time_s)
        ),
        runs AS (
            SELECT *, sum(begins::INTEGER) OVER (PARTITION BY video_id, track_id ORDER BY time_s) AS run
            FROM held
        )
        SELECT video_id, any_value(uri) AS uri, track_id, any_value(person) AS person,
               any_value(emotion) AS emotion,
               min(time_s) AS start_s, max(time_s) + any_value(step_s) AS end_s,
               end_s - start_s AS duration_s, count(*) AS moments, arg_max(time_s, confidence) AS peak_s,
               max(confidence) AS peak, avg(confidence) AS mean
        FROM runs GROUP BY video_id, track_id, run
        HAVING max(time_s) + any_value(step_s) - min(time_s) >= {min_s} - 1e-6"""
