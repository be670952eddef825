"""Print the result of a query as a table, or write it as TSV, CSV, JSON or Parquet."""

import contextlib
import csv
import functools
import io
import itertools
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, cast

import fer_batch
from fer_batch.cli.arguments import OutputFile
from fer_batch.cli.limits import describe_timeout, limit_process
from fer_batch.cli.output import print_partial
from fer_batch.errors import OutputError, QueryError
from fer_batch.fields import Range, Topic
from fer_batch.terminal import escape_controls, escape_lines

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MAX_TABLE_ROWS = 1000
"""Rows that a table shows."""
BATCH_ROWS = 100_000
"""Rows of a result that are in memory at once."""
SUFFIX_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "table",
    "": "table",
}

RESULT = Topic("Result", order=1)
Writer = Callable[[BinaryIO, "Iterator[pa.Table]"], None]


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """The format and the place of a query's result."""

    format: Annotated[Literal["table", "tsv", "csv", "json", "parquet"] | None, RESULT] = None
    """Format of the result. By default the suffix of the output file gives it. Without a file it is a table
    in a terminal, and TSV with all columns and digits elsewhere."""
    output: Annotated[OutputFile | None, RESULT] = None
    """File for the result: .csv, .tsv, .json, .parquet, or .txt for a table."""
    wide: Annotated[bool, RESULT] = False
    """Show all columns, whole paths and six digits in a table, however long its lines are."""
    timeout_s: Annotated[float, Range(above=0, at_most=86400), RESULT] = 600.0
    """Longest time of the query and of writing its result, in seconds."""

    @contextlib.contextmanager
    def open_timeline(self, out: str) -> "Iterator[fer_batch.Timeline]":
        """Open a run, and limit the memory and time of this process during the body."""
        with limit_process(self.timeout_s):
            timeline = fer_batch.open_timeline(out, timeout_s=self.timeout_s)
            print_partial(timeline)
            yield timeline

    def resolve_format(self, out: str) -> str:
        """Return the format; raises OutputError if the result of a query of `out` cannot be written."""
        from fer_batch.storage.folder import check_outside_run

        suffix = self.output.suffix.lower() if self.output else ""
        if self.format is None and suffix not in SUFFIX_FORMATS:
            allowed = ", ".join(filter(None, SUFFIX_FORMATS))
            raise OutputError(f"--output must end in {allowed} unless --format is given, got {self.output}")
        by_default = "table" if self.output or sys.stdout.isatty() else "tsv"
        format = self.format or (SUFFIX_FORMATS[suffix] if suffix else by_default)
        if format == "parquet" and self.output is None and sys.stdout.isatty():
            raise OutputError("a terminal cannot show Parquet; give --output FILE")
        if self.output:
            check_outside_run(self.output, out)
        return format

    def write(self, relation: "duckdb.DuckDBPyRelation", format: str, keep: Collection[str] = ()) -> None:
        """Read a result in batches and write them; raises QueryError or OutputError.

        `keep` names columns that a table shows in any case, as the user has named them.
        """
        tables = _read_tables(relation, self.timeout_s)
        # Most errors occur before the first rows, and then nothing is written.
        tables = itertools.chain([next(tables)], tables)
        write = FORMATTERS.get(format) or functools.partial(_write_table, wide=self.wide, keep=keep)
        if self.output is None:
            _write_stdout(tables, write, format)
            return
        try:
            with _open_output(self.output) as file:
                write(file, tables)
        except OSError as error:
            raise OutputError(f"cannot write --output {self.output}: {error.strerror}") from error


def _read_tables(relation: "duckdb.DuckDBPyRelation", timeout_s: float) -> "Iterator[pa.Table]":
    """Yield a result in parts of at most `BATCH_ROWS`, at least one; raises QueryError."""
    import duckdb
    import pyarrow as pa

    try:
        reader = relation.to_arrow_reader(BATCH_ROWS)
        names = _number_repeated(reader.schema.names)
        batch = next(reader, None)
        if batch is None:
            yield reader.schema.empty_table().rename_columns(names)
        while batch is not None:
            yield pa.Table.from_batches([batch]).rename_columns(names)
            batch = next(reader, None)
    except (duckdb.Error, pa.ArrowException, OSError) as error:  # Arrow wraps errors of DuckDB
        message = str(error).strip().split("\n")[0]
        raise QueryError(
            describe_timeout(timeout_s) if "maximum execution time" in message else message
        ) from error


@contextlib.contextmanager
def _open_output(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` once it is complete; devices and pipes are written directly."""
    from fer_batch.storage.atomic import replace_file

    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
    else:
        with replace_file(path) as temporary, temporary.open("wb") as file:
            yield file


def _write_stdout(tables: "Iterator[pa.Table]", write: Writer, format: str) -> None:
    if format == "parquet":  # its writer needs a position, which a pipe does not have
        with tempfile.TemporaryFile() as file:
            write(cast(BinaryIO, file), tables)
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
    else:
        write(_TerminalFile() if sys.stdout.isatty() else sys.stdout.buffer, tables)
    sys.stdout.buffer.flush()


class _TerminalFile(io.BytesIO):
    """The terminal, with control characters escaped."""

    def write(self, content: Any) -> int:
        return sys.stdout.buffer.write(escape_lines(bytes(content).decode()).encode())


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


def _write_csv(file: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    for number, table in enumerate(tables):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if number == 0:
            writer.writerow(table.column_names)
        writer.writerows(_iterate_rows(table))
        file.write(text.getvalue().encode())


def _iterate_rows(result: "pa.Table") -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in result.columns), strict=True)


def _write_json(file: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    separator = b"["
    for table in tables:
        for row in table.to_pylist():
            values = {name: None if _is_not_finite(value) else value for name, value in row.items()}
            text = json.dumps(values, indent=1, ensure_ascii=False, default=str).replace("\n", "\n ")
            file.write(separator + b"\n " + text.encode())
            separator = b","
    file.write(b"[]\n" if separator == b"[" else b"\n]\n")


def _is_not_finite(value: object) -> bool:
    """Return whether a value is NaN or infinite, which JSON does not have."""
    return isinstance(value, float) and not math.isfinite(value)


def _write_parquet(file: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    import pyarrow.parquet as pq

    first = next(tables)
    with pq.ParquetWriter(file, first.schema, compression="zstd", write_page_checksum=True) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)


def _write_tsv(file: BinaryIO, tables: "Iterator[pa.Table]") -> None:
    """Write one line for each row; tabs, ends of lines and other control characters in texts are escaped."""
    for number, table in enumerate(tables):
        rows: Iterable[Iterable[Any]] = _iterate_rows(table)
        for row in itertools.chain([table.column_names], rows) if number == 0 else rows:
            cells = ["" if value is None else escape_controls(str(value)) for value in row]
            file.write(("\t".join(cells) + "\n").encode())


def _write_table(file: BinaryIO, tables: "Iterator[pa.Table]", *, wide: bool, keep: Collection[str]) -> None:
    import pyarrow as pa

    from fer_batch.cli.result_table import format_result

    result = next(tables)
    while len(result) <= MAX_TABLE_ROWS and (table := next(tables, None)) is not None:
        result = pa.concat_tables([result, table])
    width = shutil.get_terminal_size().columns if isinstance(file, _TerminalFile) else None
    text = format_result(result.slice(0, MAX_TABLE_ROWS), width, wide=wide, keep=keep)
    if len(result) > MAX_TABLE_ROWS:
        text += f"The first {MAX_TABLE_ROWS} rows; --format csv, tsv, json or parquet gives all\n"
    file.write(text.encode())


FORMATTERS: dict[str, Writer] = {
    "tsv": _write_tsv,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
