"""Cells: equal parts of the length of videos, with their faces. Lists, pages, plots and `resample` use them.

A row of `tracks` or `moments` is in the cell in which it begins, and in each later one that it fills. The
emotion of a cell is the one with the highest mean probability of its rows; of equal ones, the first class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_batch.timeline.database import Database
from fer_batch.timeline.sql import FACE, LENGTH_S, ROW_END_S, TIME_TOLERANCE_S, probability_columns

NO_FACE, NOT_ANALYZED = 254, 255
"""Numbers of cells without a face, and without a sampled frame; other cells have the number of a class."""


@dataclass(frozen=True, kw_only=True)
class VideoCells:
    """The cells of a video, in order of time."""

    length_s: float
    """Length of all cells together, which begin at 0: that of the container or of the part that was read."""
    sampled: np.ndarray
    """`(N,) bool`: whether a sampled frame lasts in the cell. Others were not analyzed."""
    faces: dict[str, np.ndarray]
    """Mean probabilities, `(N, classes) float64`, NaN without a face; by a face's name, "" for all faces."""

    def number(self, face: str = "") -> np.ndarray:
        """Return the class of each cell, `(N,) uint8`, or `NO_FACE` or `NOT_ANALYZED`."""
        means = self.faces[face]
        has_face = ~np.isnan(means[:, 0])
        classes = np.where(has_face, np.nan_to_num(means).argmax(axis=1), NO_FACE)
        return np.where(self.sampled, classes, NOT_ANALYZED).astype(np.uint8)

    def find(self, times_s: np.ndarray) -> np.ndarray:
        """Return the cell of each time, `(T,) int64`, -1 where nothing was analyzed."""
        count = len(self.sampled)
        cell = np.floor(times_s / (self.length_s or np.inf) * count + TIME_TOLERANCE_S).astype(np.int64)
        is_inside = (cell >= 0) & (cell < count)
        cell = np.where(is_inside, cell, 0)
        return np.where(is_inside & self.sampled[cell], cell, -1)

    def means_at(self, times_s: np.ndarray, face: str = "") -> np.ndarray:
        """Return a face's mean probabilities at each time, `(T, classes) float64`, NaN without a face."""
        means = self.faces[face]
        return np.vstack([means, np.full((1, means.shape[1]), np.nan)])[self.find(times_s)]


def divide_rows_sql(table: str, columns: Sequence[str], where: str, cell_s: str) -> str:
    """Return a query for rows of `tracks` or `moments` with the number of the `cell` that each is in.

    `cell_s` is an SQL expression for the length of a cell in seconds. A row that is in several cells is
    returned for each.
    """
    listed = ", ".join(columns)
    first = f"floor(time_s / {cell_s} + {TIME_TOLERANCE_S})::BIGINT"
    after = f"floor(({ROW_END_S}) / {cell_s} + {TIME_TOLERANCE_S})::BIGINT"
    # Few rows last longer than an interval, and reading only those a second time is fast.
    return f"""
        SELECT {listed}, {first} AS cell FROM {table} WHERE {where}
        UNION ALL
        SELECT {listed}, unnest(range({first} + 1, {after})) AS cell FROM {table}
        WHERE {where} AND step_s > {cell_s} * (1 - {TIME_TOLERANCE_S})"""


def divide_videos(
    database: Database, video_ids: Sequence[str], count: int, faces: Sequence[str] | None = None
) -> dict[str, VideoCells]:
    """Divide each video into `count` cells, for all faces together or for each of `faces`.

    A video without a length has one cell.
    """
    database = database.narrow(video_ids)
    columns, params = probability_columns(database), {"ids": list(video_ids), "count": count}
    strips = f"""
        WITH strips AS (
            SELECT video_id, {LENGTH_S} AS length_s, if(length_s > 0, $count, 1)::BIGINT AS count,
                   if(length_s > 0, length_s / $count, 1e9) AS cell_s
            FROM videos WHERE video_id IN (SELECT unnest($ids))
        )"""

    def divide(table: str, row_columns: Sequence[str]) -> str:
        source = f"(SELECT {table}.*, count, cell_s FROM {table} JOIN strips USING (video_id))"
        rows = divide_rows_sql(source, [*row_columns, "count"], "true", "cell_s")
        return f"(SELECT * REPLACE (least(cell, count - 1) AS cell) FROM ({rows}) WHERE cell >= 0)"

    lengths = database.run_trusted(f"{strips} SELECT * EXCLUDE (cell_s) FROM strips", params).fetchall()
    sampled = database.run_trusted(
        f"{strips} SELECT DISTINCT video_id, cell FROM {divide('moments', ['video_id'])}", params
    ).fetchnumpy()
    face, condition = ("''", "true") if faces is None else ("face", "list_contains($faces, face)")
    rows = database.run_trusted(
        f"{strips} SELECT video_id, {face} AS face, cell, {', '.join(f'avg({c}) AS {c}' for c in columns)} "
        f"FROM {divide('tracks', ['video_id', f'{FACE} AS face', *columns])} WHERE {condition} GROUP BY ALL",
        params if faces is None else params | {"faces": list(faces)},
    ).fetchnumpy()
    means = np.stack([np.asarray(rows[column], float) for column in columns], axis=1)
    sampled_of, rows_of = (_index_by_video(table["video_id"]) for table in (sampled, rows))
    none = np.array([], np.int64)
    cells = {}
    for video_id, length_s, number in lengths:
        is_sampled = np.zeros(number, bool)
        is_sampled[sampled["cell"][sampled_of.get(video_id, none)]] = True
        table = {name: np.full((number, len(columns)), np.nan) for name in faces or [""]}
        of_video = rows_of.get(video_id, none)
        for name, values in table.items():
            of_face = of_video[rows["face"][of_video] == name]
            values[rows["cell"][of_face]] = means[of_face]
        cells[video_id] = VideoCells(length_s=length_s, sampled=is_sampled, faces=table)
    return cells


def _index_by_video(video_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the indices of the rows of each video."""
    if not len(video_ids):
        return {}
    order = np.argsort(video_ids, kind="stable")
    ids, starts = np.unique(video_ids[order], return_index=True)
    return dict(zip(ids.tolist(), np.split(order, starts[1:]), strict=True))
