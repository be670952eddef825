"""A timeline's summary as an XLSX workbook, with sheets for videos, faces and episodes."""

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from xlsxwriter import Workbook

from fer_batch.timeline.database import Database
from fer_batch.timeline.sql import FACE, ROW_END_S, class_literals, quote_name
from fer_batch.timeline.views import episodes_sql

MAX_SHEET_ROWS = 1_048_576
"""Excel's limit. Further rows go to another sheet."""
BATCH_ROWS = 10_000
PERCENT_COLUMNS = ("with_face", "confidence", "peak", "mean")
"""Columns in percent, besides those of the emotions."""
COLUMN_WIDTHS = {"uri": 50, "error": 30, "about": 120}
DEFAULT_WIDTH = 14
"""Width of other columns in characters."""


def write_workbook(
    path: Path, database: Database, parts: Sequence[str], threshold: float, min_s: float
) -> None:
    """Write the rows of each part of the videos, where a part is a condition on `video_id`.

    The sheet `videos` has a row for each video, `faces` for each person of a video or track without a person,
    and `episodes` for each episode with a confidence of at least `threshold` that lasts `min_s` seconds. Text
    never becomes a formula, a link or a number.
    """
    emotions = [quote_name(name) for name in database.classes]
    shares = ", ".join(
        f"count(*) FILTER (emotion = {text}) / count(*) AS {quote_name(name)}"
        for name, (text, _) in zip(database.classes, class_literals(database), strict=True)
    )
    columns = [f"shares.{name}" for name in emotions]  # a manifest's column may have the name of an emotion
    columns += [f"videos.{quote_name(name)}" for name in database.manifest_columns]
    sheets = {
        "videos": f"""
            SELECT uri, person, status, error, duration_s, read_s, moments,
                   moments_with_face / nullif(moments, 0) AS with_face, tracks, {", ".join(columns)}
            FROM videos
            LEFT JOIN (SELECT video_id, {shares} FROM tracks WHERE {{where}} GROUP BY video_id) AS shares
            USING (video_id) WHERE {{where}} ORDER BY uri""",
        "faces": f"""
            SELECT any_value(uri) AS uri, any_value({FACE}) AS face, count(DISTINCT track_id) AS tracks,
                   min(time_s) AS from_s,
                   max({ROW_END_S}) AS to_s,
                   sum(step_s) AS seconds, avg(confidence) AS confidence, {shares}
            FROM tracks
            WHERE {{where}} GROUP BY video_id, person, CASE WHEN person IS NULL THEN track_id END
            ORDER BY uri, from_s, face""",
        "episodes": f"""
            SELECT uri, {FACE} AS face, emotion, start_s, end_s, duration_s, peak_s, peak, mean
            FROM ({episodes_sql(threshold, min_s, "{where}")}) ORDER BY uri, start_s, track_id""",
    }
    about = [
        "Facial expressions as a model sees them, not feelings.",
        "Times are in seconds since the first picture of the video.",
        "The share of an emotion: in how many of a face's sampled frames it is the most probable one.",
        "faces: a row for each person of a video, or track without a person. seconds: its time in view.",
        "episodes: runs of sampled frames of a track with one emotion and a confidence of at least "
        f"{threshold:g}, for at least {min_s:g} s. peak and mean are of the confidence.",
    ]
    if database.face_filter:
        about.append(f"Only {database.face_filter}, except in the counts of the sheet videos.")
    with Workbook(str(path), {"constant_memory": True}) as book:
        for name, query in sheets.items():
            tables = (
                database.run_trusted(query.replace("{where}", where)).to_arrow_table() for where in parts
            )
            _write_sheet(book, name, tables, {*PERCENT_COLUMNS, *database.classes})
        _write_sheet(book, "about", iter([pa.table({"about": about})]))


def _write_sheet(book: Workbook, name: str, tables: Iterator[pa.Table], percent: Container[str] = ()) -> None:
    """Write tables of the same columns below each other, to several sheets if they are too long for one."""
    first = next(tables)
    number_formats = [
        "0.0%" if field.name in percent else "0.00" if pa.types.is_floating(field.type) else "0"
        for field in first.schema
    ]
    formats = [book.add_format({"num_format": number_format}) for number_format in number_formats]
    bold = book.add_format({"bold": True, "bottom": 1})
    rows = _iterate_rows(itertools.chain([first], tables))
    for number in itertools.count(1):
        sheet = book.add_worksheet(name if number == 1 else f"{name} {number}")
        sheet.freeze_panes(1, 0)
        for column, title in enumerate(first.column_names):
            sheet.set_column(column, column, COLUMN_WIDTHS.get(title, DEFAULT_WIDTH))
            sheet.write_string(0, column, title, bold)
        row = 0
        for row, values in enumerate(itertools.islice(rows, MAX_SHEET_ROWS - 1), 1):
            for column, value in enumerate(values):
                if isinstance(value, str):
                    sheet.write_string(row, column, value)
                elif isinstance(value, bool):
                    sheet.write_boolean(row, column, value)
                elif value is not None and math.isfinite(value):
                    sheet.write_number(row, column, value, formats[column])
        sheet.autofilter(0, 0, row, len(formats) - 1)
        if row < MAX_SHEET_ROWS - 1:
            return


def _iterate_rows(tables: Iterable[pa.Table]) -> Iterator[tuple[Any, ...]]:
    for table in tables:
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
