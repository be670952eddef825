"""The figures of data sets as an XLSX workbook, with charts."""

import io
import math
from typing import Any

from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from fer_batch.data.explore.tables import (
    Table,
    class_tables,
    data_table,
    duplicate_list,
    duplicate_table,
    odd_list,
    odd_table,
    spread_table,
    training_table,
)

WIDTHS = {0: 26, 1: 22}
"""Of columns, in characters; others have ten."""
NOTES = (
    "An example is a still or a sequence. Images are measured as training sees them: grey, 48×48.",
    "brightness: mean grey, 0 to 255; contrast: standard deviation of grey; sharpness: variance of the "
    "Laplacian, low is blurred.",
)


def workbook(figures: dict[str, Any], pictures: dict[str, bytes]) -> bytes:
    """An XLSX file of the figures that `explore` gives; `pictures` has the plots that go into it, by the
    names "brightness.png" and "sharpness.png". Text stays text: none becomes a formula, a link or a number.
    """
    file = io.BytesIO()
    with Workbook(file, {"in_memory": True}) as book:
        forms = _forms(book)
        sheet = _sheet(book, "overview")
        row = 0
        for note in NOTES:
            sheet.write_string(row, 0, note)
            row += 1
        for table in (data_table(figures), training_table(figures)):
            row = _write(sheet, row + 1, table, forms)
        sheet.set_column(0, 0, 66)
        sheet.set_column(2, 2, 60)
        sheet = _sheet(book, "classes by split")
        row = 0
        for table in class_tables(figures):
            _chart(book, sheet, row, table)
            row = max(_write(sheet, row, table, forms), row + 16) + 1
        sheet = _sheet(book, "duplicates")
        row = _write(sheet, 0, duplicate_table(figures), forms)
        _write(sheet, row + 1, duplicate_list(figures), forms)
        sheet.set_column(4, 4, 40)
        sheet = _sheet(book, "odd images")
        row = _write(sheet, 0, odd_table(figures), forms)
        _write(sheet, row + 1, odd_list(figures), forms)
        sheet.set_column(4, 4, 40)
        sheet = _sheet(book, "brightness and sharpness")
        row = 0
        for name in ("brightness", "sharpness"):
            row = _write(sheet, row, spread_table(figures, name), forms) + 1
            picture = {"image_data": io.BytesIO(pictures[f"{name}.png"]), "description": f"{name} by class"}
            sheet.insert_image(row, 0, f"{name}.png", picture)
            row += math.ceil(_height_px(pictures[f"{name}.png"]) / 20) + 1
    return file.getvalue()


def _forms(book: Workbook) -> dict[str, Format]:
    return {
        "title": book.add_format({"bold": True, "font_size": 13}),
        "header": book.add_format({"bold": True, "bottom": 1, "text_wrap": True, "valign": "top"}),
        "share": book.add_format({"num_format": "0.0%"}),
        "float": book.add_format({"num_format": "#,##0.0"}),
        "int": book.add_format({"num_format": "#,##0"}),
    }


def _sheet(book: Workbook, name: str) -> Worksheet:
    sheet = book.add_worksheet(name)
    sheet.set_column(0, 20, 10)
    for column, width in WIDTHS.items():
        sheet.set_column(column, column, width)
    return sheet


def _write(sheet: Worksheet, row: int, table: Table, forms: dict[str, Format]) -> int:
    """Write a table from this row on: its title, its header, its rows; returns the row after it."""
    sheet.write_string(row, 0, table.title, forms["title"])
    for column, text in enumerate(table.header):
        sheet.write_string(row + 1, column, text, forms["header"])
    for number, values in enumerate(table.rows, row + 2):
        for column, value in enumerate(values):
            if isinstance(value, str):
                sheet.write_string(number, column, value)
            elif value is not None:
                form = "share" if column in table.shares else "int" if isinstance(value, int) else "float"
                sheet.write_number(number, column, value, forms[form])
    return row + 2 + len(table.rows)


def _chart(book: Workbook, sheet: Worksheet, row: int, table: Table) -> None:
    """Beside a table of classes that stands from this row on, the shares as columns, a series a split."""
    chart = book.add_chart({"type": "column"})
    first, last = row + 2, row + len(table.rows) - 1  # the two last rows are no classes
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
    sheet.insert_chart(
        row, len(table.header) + 1, chart, {"description": f"shares of classes, {table.title}"}
    )


def _height_px(png: bytes) -> float:
    """Of a picture of 300 dpi as a sheet shows it, at 96."""
    return int.from_bytes(png[20:24], "big") * 96 / 300
