"""Episodes: runs of one emotion of one face."""

THRESHOLD, MIN_S = 0.6, 0.5
"""An episode's least confidence and length (in seconds) where nothing else is asked for."""
STEP_S = "read_s / nullif(moments, 0)"
"""Seconds that a moment of a row of `videos` stands for: the mean distance of its moments."""
END_S = "least(last_s + step_s, greatest(last_s, read_s))"
"""Where what was last seen at last_s ends: a step later, but not after what was read of the video."""
BREAK = 1.5
"""An episode ends where the face is not seen for more than so many steps."""
CELL_S = 5
"""Seconds within which a track's moments are tried with each of its runs."""


def runs_sql(threshold: float, min_s: float, where: str) -> str:
    """The beginning of a query, for the `runs` of `episodes_sql`: place (their video's number), track_id,
    emotion, start_s and last_s (of its first and last moment); and `steps`: video_id, place, step_s and
    read_s.
    """
    return f"""
        WITH steps AS MATERIALIZED (
            SELECT video_id, {STEP_S} AS step_s, read_s, row_number() OVER () AS place FROM videos
        ),
        edges AS (
            SELECT steps.place, track_id, time_s, emotion, steps.step_s, steps.read_s,
                   emotion IS DISTINCT FROM lag(emotion) OVER face
                   OR time_s - lag(time_s) OVER face > {BREAK} * steps.step_s AS begins,
                   emotion IS DISTINCT FROM lead(emotion) OVER face
                   OR lead(time_s) OVER face - time_s > {BREAK} * steps.step_s AS ends
            FROM tracks JOIN steps USING (video_id)
            WHERE confidence >= {threshold} AND {where}
            WINDOW face AS (PARTITION BY steps.place, track_id ORDER BY time_s)
        ),
        runs AS MATERIALIZED (
            SELECT place, track_id, emotion, start_s, last_s FROM (
                SELECT *, time_s AS start_s, if(ends, time_s, lead(time_s) OVER face) AS last_s
                FROM edges WHERE begins <> ends OR begins AND step_s >= {min_s} - 1e-6
                WINDOW face AS (PARTITION BY place, track_id ORDER BY time_s)
            ) WHERE begins AND {END_S} - start_s >= {min_s} - 1e-6
        )"""


def episodes_sql(threshold: float = THRESHOLD, min_s: float = MIN_S, where: str = "true") -> str:
    """A query for the episodes among the rows of `tracks` under a condition.

    An episode is a longest run of moments of one track whose `emotion` is the same and whose `confidence` is
    at least `threshold`, none of them more than 1.5 steps after the one before (so that a moment below the
    threshold ends it), of at least `min_s` seconds. It lasts from its first moment to a step after its last,
    but not beyond what was read of the video.
    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments, peak_s (of the
    first moment of the highest confidence), peak and mean (of the confidence).
    """
    number = f"floor({{}} / {CELL_S})::BIGINT"
    cells = f"range({number.format('start_s')}, {number.format('last_s')} + 1)"
    return f"""{runs_sql(threshold, min_s, where)}
        SELECT video_id, any_value(uri) AS uri, track_id, any_value(person) AS person,
               any_value(runs.emotion) AS emotion, start_s, any_value({END_S}) AS end_s,
               end_s - start_s AS duration_s, count(*) AS moments,
               arg_max(time_s, (confidence, -time_s)) AS peak_s,
               max(confidence) AS peak, avg(confidence) AS mean
        FROM (SELECT *, unnest({cells}) AS cell FROM runs) AS runs JOIN steps USING (place)
        JOIN (
            SELECT video_id, uri, track_id, person, time_s, confidence, {number.format("time_s")} AS cell
            FROM tracks
        ) AS tracks
        USING (video_id, track_id, cell)
        WHERE time_s BETWEEN start_s AND last_s
        GROUP BY video_id, track_id, start_s"""
