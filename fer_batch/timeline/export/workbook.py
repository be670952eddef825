"""A timeline's summary as an XLSX workbook: videos, faces and episodes, a sheet each."""

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from xlsxwriter import Workbook

from fer_batch.timeline.database import Database
from fer_batch.timeline.sql import FACE, STEP_S, class_literals, quote_name
from fer_batch.timeline.views import episodes_sql

LONGEST_SHEET = 1_048_576
"""Rows of a sheet, as Excel specifies; what is more goes on in another."""
ROWS_AT_ONCE = 10_000
PERCENT = ("with_face", "confidence", "peak", "mean")
"""Columns that are shares, beside those of the emotions."""
WIDTHS = {"uri": 50, "error": 30, "about": 120}
"""Of columns, in characters, but for these."""


def write_workbook(
    path: Path, timeline: Database, parts: Sequence[str], threshold: float, min_s: float
) -> None:
    """Write the rows of each part, a condition on `video_id`, part by part.

    A row of `videos` is a video; of `faces` a person of a video, or a track that is nobody's; of `episodes`
    one of at least `threshold` and `min_s` seconds. Text stays text: none becomes a formula, a link or a
    number.
    """
    emotions = [quote_name(name) for name in timeline.classes]
    counted = (f"count(*) FILTER (emotion = {text}) / count(*)" for text, _ in class_literals(timeline))
    shares = ", ".join(f"{share} AS {name}" for share, name in zip(counted, emotions, strict=True))
    columns = [f"shares.{name}" for name in emotions]  # an owner's column may be called "happy", too
    columns += [f"videos.{quote_name(name)}" for name in timeline.manifest_columns]
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
                   least(max(time_s) + any_value(step_s), any_value(read_s)) AS to_s,
                   count(*) * any_value(step_s) AS seconds, avg(confidence) AS confidence, {shares}
            FROM tracks JOIN (SELECT video_id, {STEP_S} AS step_s, read_s FROM videos) USING (video_id)
            WHERE {{where}} GROUP BY video_id, person, CASE WHEN person IS NULL THEN track_id END
            ORDER BY uri, from_s, face""",
        "episodes": f"""
            SELECT uri, {FACE} AS face, emotion, start_s, end_s, duration_s, peak_s, peak, mean
            FROM ({episodes_sql(threshold, min_s, "{where}")}) ORDER BY uri, start_s, track_id""",
    }
    about = [
        "Facial expressions as a model sees them, not what people feel. Times are in seconds.",
        "An emotion's share: of how many moments of faces it is the most probable one.",
        "faces: a row a person of a video, or a track that is nobody's; seconds: that its moments stand for.",
        "episodes: runs of moments of a track with one emotion, of a confidence of at least "
        f"{threshold:g} at each, for at least {min_s:g} s; peak and mean are of the confidence.",
    ]
    with Workbook(str(path), {"constant_memory": True}) as book:
        for name, query in sheets.items():
            answers = (timeline.sql(query.replace("{where}", where)).to_arrow_table() for where in parts)
            _write_sheet(book, name, answers, {*PERCENT, *timeline.classes})
        _write_sheet(book, "about", iter([pa.table({"about": about})]))


def _write_sheet(
    book: Workbook, name: str, answers: Iterator[pa.Table], percent: Container[str] = ()
) -> None:
    """Write answers of the same columns below each other, to more sheets than one where they are too long."""
    first = next(answers)
    kinds = [
        "0.0%" if field.name in percent else "0.00" if pa.types.is_floating(field.type) else "0"
        for field in first.schema
    ]
    forms = [book.add_format({"num_format": kind}) for kind in kinds]
    bold = book.add_format({"bold": True, "bottom": 1})
    rows = _fetched(itertools.chain([first], answers))
    for number in itertools.count(1):
        sheet = book.add_worksheet(name if number == 1 else f"{name} {number}")
        sheet.freeze_panes(1, 0)
        for column, title in enumerate(first.column_names):
            sheet.set_column(column, column, WIDTHS.get(title, 14))
            sheet.write_string(0, column, title, bold)
        row = 0
        for row, values in enumerate(itertools.islice(rows, LONGEST_SHEET - 1), 1):
            for column, value in enumerate(values):
                if isinstance(value, str):
                    sheet.write_string(row, column, value)
                elif isinstance(value, bool):
                    sheet.write_boolean(row, column, value)
                elif value is not None and math.isfinite(value):
                    sheet.write_number(row, column, value, forms[column])
        sheet.autofilter(0, 0, row, len(kinds) - 1)
        if row < LONGEST_SHEET - 1:
            return


def _fetched(answers: Iterable[pa.Table]) -> Iterator[tuple[Any, ...]]:
    for answer in answers:
        for batch in answer.to_batches(max_chunksize=ROWS_AT_ONCE):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
