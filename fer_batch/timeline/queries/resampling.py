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
)

FACE_KEYS = {"video": [], "person": ["person"], "track": ["track_id", "person"]}


def resample(
    database: Database, every_s: float = 1.0, by: str = "video", **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.resample`."""
    step_s = check_positive(every_s, "every_s")
    if by not in FACE_KEYS:
        raise QueryError(f"A timeline must be resampled by video, person or track, got {by}")
    keys = FACE_KEYS[by]
    selection = select_faces(database, **filters)
    of_video = "video_id = $video" if "video" in selection.params else "true"
    where = selection.where + (" AND person IS NOT NULL" if by == "person" else "")
    columns = probability_columns(database)
    means = ", ".join(f"avg({column}) AS {column}" for column in columns)
    key_list = ", ".join(["video_id", *keys])
    shown_keys = [f"face_keys.{key}" for key in keys]
    # The first key is enough for the join, and a track's person may be null, which equals nothing.
    join_keys = ", ".join(["video_id", "interval", *keys[:1]])
    return database.sql(
        f"""WITH seen AS (
            SELECT {key_list}, {interval_sql(every_s)} AS interval, count(*) AS faces, {means}
            FROM tracks WHERE {where} GROUP BY ALL
        ),
        sampled AS (
            SELECT video_id, {interval_sql(every_s)} AS interval, count(*) AS frames
            FROM moments WHERE {of_video} GROUP BY ALL
        ),
        intervals AS (
            SELECT video_id, uri, unnest(range(
                ceil(coalesce(greatest(duration_s, read_s), 0) / {step_s} - {TIME_TOLERANCE_S})::BIGINT
            )) AS interval
            FROM videos WHERE {of_video}
        ),
        face_keys AS (SELECT DISTINCT {key_list} FROM {"seen" if keys else "videos"})
        SELECT {", ".join(["video_id", "uri", *shown_keys])}, interval * {step_s}::DOUBLE AS start_s,
               CASE WHEN faces > 0 THEN 'face' WHEN frames > 0 THEN 'no face' ELSE 'not analyzed' END
               AS state, coalesce(frames, 0) AS frames, coalesce(faces, 0) AS faces,
               {most_probable_sql(database)} AS emotion, {", ".join(columns)}
        FROM intervals JOIN face_keys USING (video_id)
        LEFT JOIN sampled USING (video_id, interval)
        LEFT JOIN seen USING ({join_keys})
        WHERE {f"start_s + {step_s} > $start_s" if "start_s" in selection.params else "true"}
        AND {"start_s < $end_s" if "end_s" in selection.params else "true"}
        ORDER BY {", ".join(["uri", *shown_keys, "start_s"])}""",
        selection.params,
    )
