"""Format the rows of a query as a table that fits the width of a terminal."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from fer_batch.cli.output import MIN_TEXT_WIDTH
from fer_batch.terminal import escape_controls
from fer_batch.timeline.names import shorten_uris

if TYPE_CHECKING:
    import pyarrow as pa

GAP = "  "
MIN_DECIMALS_S = 2
"""Decimals of times and durations, in which rows differ by a tenth of a second after hours, too."""
SIGNIFICANT_DIGITS = 3
WIDE_DIGITS = 6
"""Significant digits of numbers in a wide table."""
NUMBER_TYPES = ("int", "uint", "float", "double", "decimal")


@dataclass
class _Column:
    heading: str
    cells: list[str]
    is_number: bool
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.width = max(map(cell_len, [*_break_heading(self.heading), *self.cells]))


def format_result(
    result: "pa.Table", width: int | None = None, *, wide: bool = False, keep: Collection[str] = ()
) -> str:
    """Format an Arrow table as text; each line has at most `width` characters, and any number with None.

    Numbers are rounded to three significant digits of the largest in their column, and never cut; whole
    numbers keep all digits. Columns of text are wrapped. Columns without any value are left out, and so is
    `video_id` beside `uri`, except those in `keep`. A path is shown as its last part, or as many parts as
    tell it from the others. The last columns are left out if they do not fit, and the last line names them.

    `wide` shows all columns, whole paths and six significant digits, however long the lines are.
    """
    shown = [name for name in result.column_names if wide or _is_shown(result, name, keep)]
    columns = [
        _format_column(name, result.column(name).to_pylist(), str(result.column(name).type), wide)
        for name in shown or result.column_names
    ]
    if wide or width is None:
        _widen(columns, math.inf)
        fitting = len(columns)
    else:
        fitting = _fit(columns, width)
    lines = _format_lines(columns[:fitting])
    if fitting < len(columns):
        names = ", ".join(column.heading for column in columns[fitting:])
        lines += _wrap(f"Not in {width} characters: {names}. --wide shows all columns.", width or 0)
    return "\n".join(lines) + "\n"


def _is_shown(result: "pa.Table", name: str, keep: Collection[str]) -> bool:
    if name in keep or result.num_columns == 1:
        return True
    if name == "video_id" and "uri" in result.column_names:
        return False
    return not len(result) or result.column(name).null_count < len(result)


def _format_column(name: str, values: Sequence[Any], kind: str, wide: bool) -> _Column:
    name = escape_controls(name)
    if name == "uri" and "string" in kind and not wide:
        names = shorten_uris({value for value in values if value is not None})
        return _Column(name, [escape_controls(names.get(value, "")) for value in values], False)
    is_number = kind.startswith(NUMBER_TYPES)
    if any(isinstance(value, float) for value in values):
        return _Column(name, _format_floats(values, name, wide), is_number)
    cells = ["" if value is None else escape_controls(str(value)) for value in values]
    return _Column(name, cells, is_number)


def _format_floats(values: Sequence[float | None], name: str, wide: bool) -> list[str]:
    if wide:
        return ["" if value is None else f"{value:.{WIDE_DIGITS}g}" for value in values]
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    if largest and not 1e-3 <= largest < 1e12:
        return ["" if value is None else f"{value:.{SIGNIFICANT_DIGITS}g}" for value in values]
    decimals = max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(largest or 1)), 0)
    decimals = min(decimals, SIGNIFICANT_DIGITS)
    if name == "seconds" or name.endswith("_s"):
        decimals = MIN_DECIMALS_S
    cells = ["" if value is None else f"{value:.{decimals}f}" for value in values]
    while all(cell.endswith("0") for cell in cells if "." in cell) and any("." in cell for cell in cells):
        cells = [cell[:-1].removesuffix(".") if "." in cell else cell for cell in cells]
    return cells


def _fit(columns: Sequence[_Column], width: int) -> int:
    """Narrow columns of text until the table fits; return the number of columns that fit, at least one."""
    texts = [column for column in columns if not column.is_number]
    excess = _measure(columns) - width
    while excess > 0 and (widest := max(texts, key=lambda column: column.width, default=None)):
        heading = max(map(cell_len, _break_heading(widest.heading)))
        if widest.width <= max(MIN_TEXT_WIDTH, heading):
            break
        widest.width -= 1
        excess -= 1
    count = len(columns)
    while count > 1 and _measure(columns[:count]) > width:
        count -= 1
    _widen(columns[:count], width - _measure(columns[:count]))
    if count == 1 and not columns[0].is_number:
        columns[0].width = min(columns[0].width, width)
    return count


def _widen(columns: Sequence[_Column], spare: float) -> None:
    """Give room that is left to headings and texts that do not fit on one line."""
    for column in columns:
        wanted = max(map(cell_len, [column.heading, *([] if column.is_number else column.cells)]))
        if 0 < wanted - column.width <= spare or not column.is_number:
            added = int(min(max(wanted - column.width, 0), max(spare, 0)))
            column.width += added
            spare -= added


def _measure(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def _format_lines(columns: Sequence[_Column]) -> list[str]:
    headings = [
        [column.heading] if cell_len(column.heading) <= column.width else _break_heading(column.heading)
        for column in columns
    ]
    height = max(map(len, headings))
    headings = [[""] * (height - len(parts)) + parts for parts in headings]
    lines = _join_cells(columns, headings)
    lines.append(GAP.join("─" * column.width for column in columns))
    for row in zip(*(column.cells for column in columns), strict=True):
        cells = [
            [cell] if column.is_number else _wrap(cell, column.width)
            for column, cell in zip(columns, row, strict=True)
        ]
        lines += _join_cells(columns, cells)
    return lines


def _join_cells(columns: Sequence[_Column], cells: Sequence[list[str]]) -> list[str]:
    """Join the lines of cells side by side."""
    lines = []
    for number in range(max(map(len, cells))):
        parts = []
        for column, wrapped in zip(columns, cells, strict=True):
            text = wrapped[number] if number < len(wrapped) else ""
            space = " " * (column.width - cell_len(text))
            parts.append(space + text if column.is_number else text + space)
        lines.append(GAP.join(parts).rstrip())
    return lines


def _break_heading(heading: str) -> list[str]:
    """Break a name into two lines of about equal length at an underscore."""
    places = [
        number for number, letter in enumerate(heading) if letter == "_" and 0 < number < len(heading) - 1
    ]
    if not places:
        return [heading]
    place = min(places, key=lambda number: abs(2 * number + 1 - len(heading)))
    place += place < len(heading) / 2  # the shorter part has the underscore
    return [heading[:place], heading[place:]]


def _wrap(text: str, width: int) -> list[str]:
    """Wrap a text at spaces, and words that are too long anywhere."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            if cell_len(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line]
