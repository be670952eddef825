"""Shares: how often each emotion is the most probable one."""

from collections.abc import Sequence
from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import STEP_S, class_literals, group_columns, interval_sql


def shares(
    database: Database,
    by: str | Sequence[str] = ("video",),
    every_s: float | None = None,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """See `Timeline.shares`."""
    keys = group_columns(database, by)
    intervals = [] if every_s is None else [interval_sql(every_s)]
    starts = [f"{interval} * {every_s}::DOUBLE AS start_s" for interval in intervals]
    emotions = ", ".join(
        f"{{'emotion': {name}, 'moments': count(*) FILTER (emotion = {name}), "
        f"'seconds': coalesce(sum(steps.step_s) FILTER (emotion = {name}), 0), "
        f"'share': count(*) FILTER (emotion = {name}) / count(*), 'mean': avg({column})}}"
        for name, column in class_literals(database)
    )
    groups = ", ".join([*keys, *intervals])
    order = ", ".join([*keys, *(["start_s"] if starts else []), "share DESC", "emotion"])
    selection = select_faces(database, **filters)
    return database.sql(
        f"""FROM (
            SELECT {", ".join([*keys, *starts, f"unnest([{emotions}], recursive := true)"])}
            FROM tracks JOIN (SELECT video_id, {STEP_S} AS step_s FROM videos) AS steps USING (video_id)
            WHERE {selection.where} {f"GROUP BY {groups}" if groups else "HAVING count(*) > 0"}
        ) ORDER BY {order}""",
        selection.params,
    )
