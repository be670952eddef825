"""The tables of data sets as an XLSX workbook with charts."""

import io
import math
from typing import Any

import pandas as pd

from fer_batch.data.explore import tables
from fer_batch.data.explore.explore import Exploration
from fer_batch.data.explore.tables import Table

NOTES = Table(
    title="An example is a still or a sequence. Images are measured as training uses them: grey, 48×48.",
    frame=pd.DataFrame(
        [
            ["brightness", "mean grey, 0 to 255"],
            ["contrast", "standard deviation of grey"],
            ["sharpness", "variance of the Laplacian; low is blurred"],
        ],
        columns=["measure", "meaning"],
    ),
)
PLAIN_TEXT = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
COLUMN_CHARS = 12
FIRST_COLUMNS_CHARS = (26, 22)
ROW_PX = 20
PICTURE_SCALE = 96 / 300
"""A sheet shows a picture of 300 dpi at 96."""
MIN_CHART_ROWS = 18


def write_workbook(exploration: Exploration, pictures: dict[str, bytes]) -> bytes:
    """Return an XLSX file of the tables. Text stays text: no formulas, links or numbers are made of it.

    `pictures` holds the plots "brightness.png" and "sharpness.png".
    """
    listed = tables.list_tables(exploration)
    names = [table.title for table in listed["spreads"]]
    file = io.BytesIO()
    with pd.ExcelWriter(file, engine="xlsxwriter", engine_kwargs={"options": PLAIN_TEXT}) as writer:
        _write_sheet(writer, "overview", [NOTES, *listed["datasets"], *listed["training"]])
        _write_sheet(writer, "classes by split", listed["classes"], with_charts=True)
        _write_sheet(writer, "duplicates", [*listed["duplicates"], tables.list_duplicates(exploration)])
        _write_sheet(writer, "odd images", [*listed["odd"], tables.list_odd(exploration)])
        _write_sheet(writer, " and ".join(names), listed["spreads"], {n: pictures[f"{n}.png"] for n in names})
    return file.getvalue()


def _write_sheet(
    writer: Any,
    name: str,
    contents: list[Table],
    pictures: dict[str, bytes] | None = None,
    *,
    with_charts: bool = False,
) -> None:
    """Write tables below each other, each with its chart beside it or its picture below it."""
    sheet = writer.book.add_worksheet(name)
    writer.sheets[name] = sheet
    title_format = writer.book.add_format({"bold": True, "font_size": 13})
    share_format = writer.book.add_format({"num_format": "0.0%"})
    sheet.set_column(0, 20, COLUMN_CHARS)
    for column, width in enumerate(FIRST_COLUMNS_CHARS):
        sheet.set_column(column, column, width)
    row = 0
    for table in contents:
        for column in table.shares:
            sheet.set_column(column, column, COLUMN_CHARS, share_format)
        sheet.write_string(row, 0, table.title, title_format)
        table.frame.to_excel(writer, sheet_name=name, startrow=row + 1, index=False)
        below = row + len(table.frame) + 3
        if with_charts:
            _insert_chart(writer.book, sheet, row, table)
            below = max(below, row + MIN_CHART_ROWS)
        if pictures:
            png = pictures[table.title]
            options = {"image_data": io.BytesIO(png), "description": f"{table.title} by class"}
            sheet.insert_image(below, 0, f"{table.title}.png", options)
            height_px = int.from_bytes(png[20:24], "big") * PICTURE_SCALE
            below += math.ceil(height_px / ROW_PX) + 2
        row = below


def _insert_chart(book: Any, sheet: Any, row: int, table: Table) -> None:
    """Insert a chart of the shares beside a table of classes, with a series for each split."""
    chart = book.add_chart({"type": "column"})
    first, last = row + 2, row + len(table.frame) - 1  # the last two rows are not classes
    for column in table.shares:
        chart.add_series(
            {
                "name": [sheet.name, row + 1, column - 1],
                "categories": [sheet.name, first, 0, last, 0],
                "values": [sheet.name, first, column, last, column],
            }
        )
    chart.set_title({"name": [sheet.name, row, 0], "name_font": {"size": 11}})
    chart.set_y_axis({"num_format": "0%"})
    description = f"shares of classes, {table.title}"
    sheet.insert_chart(row, table.frame.shape[1] + 1, chart, {"description": description})
