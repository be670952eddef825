"""Print the result of a query as a table, or write it as CSV, JSON or Parquet."""

import io
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fer_batch.cli.arguments import OutputFile
from fer_batch.cli.output import print_table
from fer_batch.errors import OutputError, QueryError
from fer_batch.fields import Topic
from fer_batch.terminal import escape_lines

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_TABLE_ROWS = 1000
"""Rows that a table shows."""
SUFFIX_FORMATS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table", "": "table"}

RESULT = Topic("Result", order=1)


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The format and the place of a query's result."""

    format: Annotated[Literal["table", "csv", "json", "parquet"] | None, RESULT] = None
    """Format of the result. By default the suffix of the output file says it; without a file it is a
    table."""
    output: Annotated[OutputFile | None, RESULT] = None
    """File for the result: .csv, .json, .parquet, or .txt for a table."""

    def resolve_format(self, out: str) -> str:
        """Return the format; raises OutputError if the result of a query of `out` cannot be written."""
        from fer_batch.storage.folder import check_outside_run

        suffix = self.output.suffix.lower() if self.output else ""
        if self.format is None and suffix not in SUFFIX_FORMATS:
            allowed = ", ".join(filter(None, SUFFIX_FORMATS))
            raise OutputError(f"--output must end in {allowed} unless --format is given, got {self.output}")
        format = self.format or SUFFIX_FORMATS[suffix]
        if format == "parquet" and self.output is None and sys.stdout.isatty():
            raise OutputError("a terminal cannot show Parquet; give --output FILE")
        if self.output:
            check_outside_run(self.output, out)
        return format

    def write(self, relation: "duckdb.DuckDBPyRelation", format: str) -> None:
        """Read a result and write it; raises QueryError or OutputError."""
        import duckdb

        try:
            result = relation.to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(str(error).strip().split("\n")[0]) from error
        result = result.rename_columns(_number_repeated(result.column_names))
        content = FORMATTERS[format](result)
        if self.output is None:
            if sys.stdout.isatty():
                content = escape_lines(content.decode()).encode()
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
            return
        try:
            self.output.write_bytes(content)
        except OSError as error:
            raise OutputError(f"cannot write --output {self.output}: {error.strerror}") from error


def _number_repeated(names: list[str]) -> list[str]:
    """Return column names of which repeated ones end in _1, _2 …, as a join of two tables can give them."""
    unique: list[str] = []
    for name in names:
        number, candidate = 0, name
        while candidate in unique:
            number += 1
            candidate = f"{name}_{number}"
        unique.append(candidate)
    return unique


def _format_csv(result: "pa.Table") -> bytes:
    from fer_batch.storage.atomic import format_csv

    return format_csv(result.column_names, _iterate_rows(result))


def _iterate_rows(result: "pa.Table") -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in result.columns), strict=True)


def _format_json(result: "pa.Table") -> bytes:
    rows = [
        {name: None if _is_not_finite(value) else value for name, value in row.items()}
        for row in result.to_pylist()
    ]
    return (json.dumps(rows, indent=1, ensure_ascii=False, default=str) + "\n").encode()


def _is_not_finite(value: object) -> bool:
    """Return whether a value is NaN or infinite, which JSON does not have."""
    return isinstance(value, float) and not math.isfinite(value)


def _format_parquet(result: "pa.Table") -> bytes:
    from fer_batch.storage.atomic import encode_parquet

    return encode_parquet(result)


def _format_table(result: "pa.Table") -> bytes:
    numbers = ("int", "uint", "float", "double", "decimal")
    left = [number for number, field in enumerate(result.schema) if not str(field.type).startswith(numbers)]
    rows = [
        [f"{v:.6g}" if isinstance(v, float) else "" if v is None else str(v) for v in row]
        for row in _iterate_rows(result.slice(0, MAX_TABLE_ROWS))
    ]
    text = io.StringIO()
    print_table(result.column_names, rows, left=left, file=text)
    if len(result) > MAX_TABLE_ROWS:
        text.write(f"{MAX_TABLE_ROWS} of {len(result)} rows; --format csv, json or parquet gives all\n")
    return text.getvalue().encode()


FORMATTERS = {"table": _format_table, "csv": _format_csv, "json": _format_json, "parquet": _format_parquet}
