"""Shares: how often each emotion is the most probable one."""

from collections.abc import Sequence
from typing import Unpack

import duckdb

from fer_batch.errors import QueryError
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import class_literals, group_columns, interval_sql, quote_text
from fer_batch.timeline.views import UNSURE_CONFIDENCE

UNSURE = "unsure"
"""The name in the column `emotion` of faces with a confidence below `UNSURE_CONFIDENCE`."""
WEIGHTS = {"count": "count(*)", "probability": "sum(if(isnan(confidence), 0, confidence)::DOUBLE)"}
"""SQL of the weight of rows in a share, by the argument `weigh`."""


def compute_shares(
    database: Database,
    by: str | Sequence[str] = ("video",),
    every_s: float | None = None,
    weigh: str = "count",
    unsure: bool = False,
    **filters: Unpack[FaceFilter],
) -> duckdb.DuckDBPyRelation:
    """Compute how often each emotion is the most probable one: one row for each group and emotion.

    `by` names the groups: "video", "person", "track" and columns of a manifest; an empty list makes one
    group. With `every_s`, groups are divided into intervals of so many seconds from `start_s` on. A row
    belongs to the interval in which it begins.

    With `weigh="count"`, each row of `tracks` counts the same. With "probability", it counts by its
    confidence, so that a face at 0.36 has less weight than one at 0.9.

    With `unsure`, rows with a confidence below `UNSURE_CONFIDENCE` or without one have the emotion "unsure"
    instead of their most probable one. This is off by default, so that the rows are the classes of the model
    and the shares agree with plots and exports, which count every face. To leave these rows out of all
    counts instead, use `min_confidence`.

    Columns besides those of the groups: emotion, moments (rows of `tracks` with that emotion), seconds
    (that these last), share (of the weights of the group's rows, 0 to 1) and mean (of the emotion's
    probability over the group's rows, 0 to 1; null for "unsure"). `weigh` changes only the share, which is
    null if all weights are 0.
    """
    if weigh not in WEIGHTS:
        raise QueryError(f"Shares must be weighed by {' or '.join(WEIGHTS)}, got {weigh}")
    if unsure and UNSURE in database.classes:
        raise QueryError('This run has an emotion "unsure"; use min_confidence to leave out unsure faces')
    keys = group_columns(database, by)
    intervals = [] if every_s is None else [interval_sql(every_s)]
    starts = [f"{interval} * {every_s}::DOUBLE AS start_s" for interval in intervals]
    is_sure = f"(confidence >= {UNSURE_CONFIDENCE}::FLOAT AND NOT isnan(confidence))"
    conditions = {
        name: (f"emotion = {name}" + (f" AND {is_sure}" if unsure else ""), f"avg({column})")
        for name, column in class_literals(database)
    }
    if unsure:
        conditions[quote_text(UNSURE)] = f"{is_sure} IS NOT TRUE", "NULL::DOUBLE"
    weight = WEIGHTS[weigh]
    emotions = ", ".join(
        f"{{'emotion': {name}, 'moments': count(*) FILTER ({condition}), "
        f"'seconds': coalesce(sum(step_s) FILTER ({condition}), 0), "
        f"'share': coalesce({weight} FILTER ({condition}), 0) / nullif({weight}, 0), "
        f"'mean': {mean}}}"
        for name, (condition, mean) in conditions.items()
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
