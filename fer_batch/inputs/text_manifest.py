"""Read manifests of text: lines, CSV, and JSON lines."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.storage.addresses import is_remote
from fer_batch.storage.stores import read_file
from fer_batch.storage.user_files import read_bounded
from fer_batch.storage.user_tables import MAX_BYTES, check_names

LEADING_ZERO = r"^[+-]?0\d"
"""Text that looks like a number but is a code with leading zeros."""


def read_text(path: str) -> str:
    problem = f"the manifest {path} can't be read as UTF-8 text"
    try:
        content = read_file(path) if is_remote(path) else read_bounded(Path(path), MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the manifest {path} can't be read: {reason}") from error
    place = content.find(b"\0")
    if place >= 0:
        raise InputError(f"{problem}: line {_count_lines(content, place)} contains zero bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{problem}: line {_count_lines(content, error.start)}: {error.reason}") from error


def _count_lines(content: bytes, place: int) -> int:
    """Return the number of the line that contains a position."""
    return content.count(b"\n", 0, place) + 1


def read_csv(path: str) -> pa.Table:
    """Return columns of whole numbers, numbers or truth values if all their values are, else of text."""
    rows = _iterate_csv(path)
    names = [name.strip() for name in next(rows, (0, []))[1]]
    check_names(names)
    columns: list[list[str | None]] = [[] for _ in names]
    for line, row in rows:
        if len(row) > len(names):
            raise InputError(
                f"the manifest {path} has {len(row)} cells in line {line} and {len(names)} columns: "
                "put cells with a comma in quotes"
            )
        if row:
            for number, column in enumerate(columns):
                column.append((row[number].strip() or None) if number < len(row) else None)
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    return pa.table({name: _infer_type(pa.array(column, pa.string())) for name, column in named.items()})


def _iterate_csv(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its last line; raises InputError for cells that are too long."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        advice = f"a cell has at most {csv.field_size_limit():,} characters, and a quote may be missing"
        raise InputError(
            f"the manifest {path} can't be read: line {rows.line_num}: {error}; {advice}"
        ) from error


def read_json_lines(path: str) -> pa.Table:
    """Return columns of the types of their values, or of text if the types differ."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        row = _parse_json(path, number, line)
        if new := [name for name in row if name not in columns]:
            columns |= {name: [None] * count for name in new}
            check_names(list(columns))
        for name, values in columns.items():
            values.append(row.get(name))
        count += 1
    return pa.table({name: _to_array(values) for name, values in columns.items()})


def _parse_json(path: str, number: int, line: str) -> dict[str, Any]:
    """Return the object in a line, with lists and objects in it as text."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise InputError(f"the manifest {path} has no JSON object in line {number}: give one per line")
        row = {name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()}
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()  # escapes can form surrogates, which are not text
        return row
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        if isinstance(error, UnicodeEncodeError):
            reason = "it contains a surrogate, which is not text"
        raise InputError(f"the manifest {path} can't be read: line {number}: {reason}") from error


def _to_array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        return pa.array(texts, pa.string())


def _infer_type(column: pa.Array) -> pa.Array:
    has_codes = pc.any(pc.match_substring_regex(column, LEADING_ZERO)).as_py()
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        if column.null_count == len(column) or has_codes:
            break
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column
