"""Mean probabilities: of each face as its baseline, over a moving window, over intervals."""

from typing import Unpack

import duckdb

from fer_batch.errors import QueryError
from fer_batch.timeline.cells import divide_rows_sql
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    IS_NUMBERED,
    TIME_TOLERANCE_S,
    check_has_persons,
    check_positive,
    most_probable_sql,
    probability_columns,
)

BASELINE_KEYS = {
    "track": "video_id || ' ' || track_id",
    "person": "if(person IS NULL, video_id || ' ' || track_id, 'person ' || person)",
}
"""SQL of the key of rows with a common baseline, by the argument `by`."""
RESAMPLING_KEYS = {"video": [], "person": ["person"], "track": ["track_id", "person"]}


def subtract_baseline(
    database: Database, by: str = "person", **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Subtract each face's mean probabilities: some faces look angry or sad at rest.

    The means are over all selected rows of the same person, or of the track if it has no person. With
    `by="track"` they are over each track.

    Columns: video_id, uri, track_id, person, time_s, emotion, a difference `d_…` (-1 to 1) for each
    emotion, and rises (the emotion with the highest difference).
    """
    if by not in BASELINE_KEYS:
        raise QueryError(f"A baseline must be by person or track, got {by}")
    key = BASELINE_KEYS[by]
    if by == "person" and database.numbers_are_local:
        key = f"if({IS_NUMBERED}, video_id || ' ' || person, {key})"
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) AS mean_{column}" for column in columns)
    names = [f"d_{column.removeprefix('p_')}" for column in columns]
    differences = ", ".join(
        f"{column} - mean_{column} AS {name}" for column, name in zip(columns, names, strict=True)
    )
    database, where, params = select_faces(database, **filters)
    return database.sql(
        f"""WITH selected AS (
            SELECT {key} AS face, video_id, uri, track_id, person, time_s, emotion,
                   {", ".join(columns)}
            FROM tracks WHERE {where}
        ),
        means AS (SELECT face, {means} FROM selected GROUP BY face)
        SELECT video_id, uri, track_id, person, time_s, emotion, {differences},
               {most_probable_sql(database, names)} AS rises
        FROM selected JOIN means USING (face) ORDER BY uri, track_id, time_s""",
        params,
    )


def smooth_probabilities(
    database: Database, window_s: float = 1.0, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Replace probabilities by their mean over `window_s` seconds, half before and half after.

    Columns: video_id, uri, track_id, person, time_s, emotion and confidence (of the means), a mean `p_…`
    for each emotion, and moments (the number of rows in the window).
    """
    half_s = check_positive(window_s, "window_s") / 2 + TIME_TOLERANCE_S
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) OVER around AS {column}" for column in columns)
    listed = ", ".join(columns)
    track = "PARTITION BY video_id, track_id ORDER BY time_s"
    database, where, params = select_faces(database, **filters)
    # DuckDB searches the rows of a RANGE frame for each aggregate, which takes most of the time. Two counts
    # find them once for all columns.
    return database.sql(
        f"""WITH counted AS (
            SELECT video_id, uri, track_id, person, time_s, {listed},
                   count(*) OVER before - 1 AS n_before, count(*) OVER after - 1 AS n_after
            FROM tracks WHERE {where}
            WINDOW before AS ({track} RANGE BETWEEN {half_s} PRECEDING AND CURRENT ROW),
                   after AS ({track} RANGE BETWEEN CURRENT ROW AND {half_s} FOLLOWING)
        ),
        smoothed AS (
            SELECT video_id, uri, track_id, person, time_s, {means}, n_before + 1 + n_after AS moments
            FROM counted
            WINDOW around AS ({track} ROWS BETWEEN n_before PRECEDING AND n_after FOLLOWING)
        )
        SELECT video_id, uri, track_id, person, time_s, {most_probable_sql(database)} AS emotion,
               greatest({listed}) AS confidence, {listed}, moments
        FROM smoothed ORDER BY uri, track_id, time_s""",
        params,
    )


def resample_probabilities(
    database: Database, every_s: float = 1.0, by: str = "video", **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Compute one row for each `every_s` seconds of each video, with or without a face.

    `by` is "video" (all selected faces together), "person" or "track". `state` is "face", "no face" or
    "not analyzed". A sampled frame counts in the interval in which it begins, and in further ones of which
    it lasts the whole time.

    Columns: video_id, uri, (person, or track_id and person), start_s, state, frames (number of sampled
    frames), faces (number of rows of `tracks`), emotion (with the highest mean) and a mean `p_…` for each
    emotion, null without a face.
    """
    step_s = check_positive(every_s, "every_s")
    if by not in RESAMPLING_KEYS:
        raise QueryError(f"A timeline must be resampled by video, person or track, got {by}")
    if by == "person":
        check_has_persons(database)
    keys = RESAMPLING_KEYS[by]
    database, where, params = select_faces(database, **filters)
    of_video = "video_id = $video" if "video" in params else "true"
    where += " AND person IS NOT NULL" if by == "person" else ""
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) AS {column}" for column in columns)
    row_keys = ["video_id", *keys]
    key_list = ", ".join(row_keys)
    shown_keys = [f"face_keys.{key}" for key in keys]
    # The first key is enough for the join, and a track's person may be null, which equals nothing.
    join_keys = ", ".join(["video_id", "cell", *keys[:1]])
    return database.sql(
        f"""WITH seen AS (
            SELECT {key_list}, cell, count(*) AS faces, {means}
            FROM ({divide_rows_sql("tracks", [*row_keys, *columns], where, str(step_s))}) GROUP BY ALL
        ),
        sampled AS (
            SELECT video_id, cell, count(*) AS frames
            FROM ({divide_rows_sql("moments", ["video_id"], of_video, str(step_s))}) GROUP BY ALL
        ),
        intervals AS (
            SELECT video_id, uri, unnest(range(
                ceil(coalesce(greatest(duration_s, read_s), 0) / {step_s} - {TIME_TOLERANCE_S})::BIGINT
            )) AS cell
            FROM videos WHERE {of_video}
        ),
        face_keys AS (SELECT DISTINCT {key_list} FROM {"seen" if keys else "videos"})
        SELECT {", ".join(["video_id", "uri", *shown_keys])}, cell * {step_s}::DOUBLE AS start_s,
               CASE WHEN faces > 0 THEN 'face' WHEN frames > 0 THEN 'no face' ELSE 'not analyzed' END
               AS state, coalesce(frames, 0) AS frames, coalesce(faces, 0) AS faces,
               {most_probable_sql(database)} AS emotion, {", ".join(columns)}
        FROM intervals JOIN face_keys USING (video_id)
        LEFT JOIN sampled USING (video_id, cell)
        LEFT JOIN seen USING ({join_keys})
        WHERE {f"start_s + {step_s} > $start_s" if "start_s" in params else "true"}
        AND {"start_s < $end_s" if "end_s" in params else "true"}
        ORDER BY {", ".join(["uri", *shown_keys, "start_s"])}""",
        params,
    )
