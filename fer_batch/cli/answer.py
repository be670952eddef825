"""How answers are shown: as a table on a terminal, or as CSV, JSON or Parquet, here or in a file."""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.errors import OutputError, QueryError
from fer_batch.storage.folder import check_outside_run
from fer_batch.storage.paths import parse_file_path

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

LONGEST_TABLE = 1000
"""Rows that are shown on a terminal."""

ENDINGS = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
"""Formats that a file's name tells."""


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Add --format and --output."""
    parser.add_argument(
        "--format",
        choices=("table", *ENDINGS.values()),
        help="default: as FILE ends (.csv, .json, .parquet; .txt: table), table on the terminal",
    )
    parser.add_argument(
        "--output", type=parse_file_path, metavar="FILE", help="write there instead of to the terminal"
    )


def check_answer_options(options: argparse.Namespace) -> None:
    """Settle the format; raise OutputError where an answer can't go where it is to."""
    if options.format is None:
        ending = options.output.suffix.lower() if options.output else ""
        if ending not in ("", ".txt", *ENDINGS):
            raise OutputError(
                f"--output {options.output} ends in {ending}; allowed are {', '.join(ENDINGS)}, and .txt for "
                "a table, or give --format"
            )
        options.format = ENDINGS.get(ending, "table")
    if options.format == "parquet" and options.output is None and sys.stdout.isatty():
        raise OutputError("parquet is not for a terminal; give --output FILE")
    if options.output:
        check_outside_run(options.output, options.out)


def give_answer(relation: "duckdb.DuckDBPyRelation", options: argparse.Namespace) -> None:
    """Read an answer, and write it as `options` say; raises QueryError where it can't be read."""
    import duckdb

    try:
        answer = relation.to_arrow_table()
    except duckdb.Error as error:
        raise QueryError(str(error).strip().split("\n")[0]) from error
    answer = answer.rename_columns(_unique(answer.column_names))
    content = {"table": _as_table, "csv": _as_csv, "json": _as_json, "parquet": _as_parquet}[options.format](
        answer
    )
    if options.output:
        try:
            options.output.write_bytes(content)
        except OSError as error:
            raise OutputError(f"--output {options.output} can't be written: {error.strerror}") from error
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _unique(names: list[str]) -> list[str]:
    """Column names, those that came before with _1, _2 … behind them, as two tables' columns of one name
    do.
    """
    unique: list[str] = []
    for name in names:
        number, chosen = 0, name
        while chosen in unique:
            number += 1
            chosen = f"{name}_{number}"
        unique.append(chosen)
    return unique


def _rows(answer: "pa.Table") -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in answer.columns), strict=True)


def _as_csv(answer: "pa.Table") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.column_names)
    writer.writerows(_rows(answer))
    return text.getvalue().encode()


def _as_json(answer: "pa.Table") -> bytes:
    rows = [dict(zip(answer.column_names, map(_plain, row), strict=True)) for row in _rows(answer)]
    return (json.dumps(rows, indent=1, ensure_ascii=False, default=str) + "\n").encode()


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_parquet(answer: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(answer, sink)
    return sink.getvalue().to_pybytes()


def _as_table(answer: "pa.Table") -> bytes:
    table = Table()
    for field in answer.schema:
        number = str(field.type).startswith(("int", "uint", "float", "double", "decimal"))
        table.add_column(Text(field.name), justify="right" if number else "left")
    for row in _rows(answer.slice(0, LONGEST_TABLE)):
        cells = (f"{v:.6g}" if isinstance(v, float) else "" if v is None else str(v) for v in row)
        table.add_row(*map(Text, cells))
    text = io.StringIO()
    width = None if sys.stdout.isatty() else 200
    Console(file=text, width=width, highlight=False).print(table)
    if len(answer) > LONGEST_TABLE:
        text.write(f"{LONGEST_TABLE} of {len(answer)} rows; --format csv, json or parquet gives all\n")
    return text.getvalue().encode()
