"""Shares: how often each emotion is the most probable one."""

from collections.abc import Sequence
from typing import Unpack

import duckdb

from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import class_literals, group_columns, interval_sql


def compute_shares(
    database: Database,
    by: str | Sequence[str] = ("video",),
    every_s: float | None = None,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """Compute how often each emotion is the most probable one: one row for each group and emotion.

    `by` names the groups: "video", "person", "track" and columns of a manifest; an empty list makes one
    group. With `every_s`, groups are divided into intervals of so many seconds from `start_s` on. A row
    belongs to the interval in which it begins.

    Columns besides those of the groups: emotion, moments (rows of `tracks` with that emotion), seconds
    (that these last), share (of the group's rows, 0 to 1) and mean (probability over the group's
    rows, 0 to 1).
    """
    keys = group_columns(database, by)
    intervals = [] if every_s is None else [interval_sql(every_s)]
    starts = [f"{interval} * {every_s}::DOUBLE AS start_s" for interval in intervals]
    emotions = ", ".join(
        f"{{'emotion': {name}, 'moments': count(*) FILTER (emotion = {name}), "
        f"'seconds': coalesce(sum(step_s) FILTER (emotion = {name}), 0), "
        f"'share': count(*) FILTER (emotion = {name}) / count(*), 'mean': avg({column})}}"
        for name, column in class_literals(database)
    )
    groups = ", ".join([*keys, *intervals])
    order = ", ".join([*keys, *(["start_s"] if starts else []), "share DESC", "emotion"])
    database, where, params = select_faces(database, **filters)
    return database.sql(
        f"""FROM (
            SELECT {", ".join([*keys, *starts, f"unnest([{emotions}], recursive := true)"])}
            FROM tracks WHERE {where} {f"GROUP BY {groups}" if groups else "HAVING count(*) > 0"}
        ) ORDER BY {order}""",
        params,
    )
