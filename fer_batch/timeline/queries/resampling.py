"""Resampling: means over intervals of equal length, with or without a face."""

from typing import Unpack

import duckdb

from fer_batch.errors import QueryError
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    TIME_TOLERANCE_S,
    check_positive,
    interval_sql,
    most_probable_sql,
    probability_columns,
    videos_sql,
)

FACE_KEYS = {"video": [], "person": ["person"], "track": ["track_id", "person"]}


def resample(
    database: Database, every_s: float = 1.0, by: str = "video", **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Compute one row for each `every_s` seconds of each video, from 0 to its end, with or without a face.

    `state` is "face", "no face" (frames were analyzed, but none shows a selected face) or "not analyzed" (no
    frame was analyzed). `by` is "video" (all selected faces together), "person" or "track". Each person or
    track has rows for the whole length of each video that shows it.

    Columns: video_id, uri, (person, or track_id and person), start_s, state, frames (number of sampled
    frames), faces (number of rows of `tracks`), emotion (with the highest mean) and a mean `p_…` for each
    emotion, null without a face.
    """
    step_s = check_positive(every_s, "every_s")
    if by not in FACE_KEYS:
        raise QueryError(f"A timeline is resampled by video, person or track, got by {by}")
    keys = FACE_KEYS[by]
    selection = select_faces(database, **filters)
    where = selection.where + (" AND person IS NOT NULL" if by == "person" else "")
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) AS {column}" for column in columns)
    span = [
        f"interval * {step_s} + {step_s} > $start_s" if "start_s" in selection.params else "true",
        f"interval * {step_s} < $end_s" if "end_s" in selection.params else "true",
    ]
    key_list = ", ".join(["place", *keys])
    shown = [f"face_keys.{key}" for key in keys]
    # The first key is enough for the join, and a track's person may be null, which equals nothing.
    join_keys = ", ".join(["place", "interval", *keys[:1]])
    return database.sql(
        f"""WITH numbered AS MATERIALIZED {videos_sql(selection.params)},
        seen AS (
            SELECT {", ".join(["numbered.place", *keys])}, {interval_sql(every_s)} AS interval,
                   count(*) AS faces, {means}
            FROM tracks JOIN numbered USING (video_id) WHERE {where} GROUP BY ALL
        ),
        sampled AS (
            SELECT numbered.place, {interval_sql(every_s)} AS interval, count(*) AS frames
            FROM moments JOIN numbered USING (video_id) GROUP BY ALL
        ),
        intervals AS (
            SELECT numbered.place, video_id, uri, unnest(range(
                ceil(coalesce(greatest(duration_s, read_s), 0) / {step_s} - {TIME_TOLERANCE_S})::BIGINT
            )) AS interval
            FROM videos JOIN numbered USING (video_id)
        ),
        face_keys AS (SELECT DISTINCT {key_list} FROM {"seen" if keys else "numbered"})
        SELECT {", ".join(["video_id", "uri", *shown])}, interval * {step_s}::DOUBLE AS start_s,
               CASE WHEN faces > 0 THEN 'face' WHEN frames > 0 THEN 'no face' ELSE 'not analyzed' END
               AS state, coalesce(frames, 0) AS frames, coalesce(faces, 0) AS faces,
               {most_probable_sql(database)} AS emotion, {", ".join(columns)}
        FROM intervals JOIN face_keys USING (place)
        LEFT JOIN sampled USING (place, interval)
        LEFT JOIN seen USING ({join_keys})
        WHERE {" AND ".join(span)} ORDER BY {", ".join(["place", *shown, "start_s"])}""",
        selection.params,
    )
