"""Read tables that come from users, with limits on kind, size, rows and columns.

A small file may hold a large table: Parquet and JSON lines need few bytes for many equal or missing values.
All functions raise OSError for a file that cannot be read, and ValueError or ArrowException for a table that
is not valid or too large.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from fer_batch.storage.user_files import open_regular, parse_json, read_bounded

MAX_ROWS = 10_000_000
MAX_COLUMNS = 1000
MAX_BYTES = 2 * 10**9
"""Most bytes of a table in memory."""
MAX_TEXT_BYTES = 500_000_000
"""Most bytes of a file in CSV or JSON lines."""
BATCH_ROWS = 65_536
MAX_HEADER_CHARACTERS = 1 << 20
"""Arrow's limit of a row in CSV."""
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "BYTE_ARRAY": 4, "INT96": 12}
"""Bytes of a value in memory by its type in Parquet; texts have an offset of four bytes, others have 8."""


def read_csv_table(
    path: Path,
    types: Mapping[str, pa.DataType] | None = None,
    columns: Sequence[str] | None = None,
    limit_bytes: int = MAX_TEXT_BYTES,
) -> pa.Table:
    """Read a table, or some columns of it, from CSV in UTF-8, in a file of at most `limit_bytes`.

    Columns that are not in `types` get the type that fits all values. Raises KeyError for a missing column.
    """
    content = read_bounded(path, limit_bytes)
    text = content.decode("utf-8-sig")
    try:
        check_names(next(csv.reader(io.StringIO(text[:MAX_HEADER_CHARACTERS])), []))
    except csv.Error as error:
        raise ValueError(f"its first line: {error}") from error
    del text
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=columns),
    )


def read_json_table(path: Path) -> pa.Table:
    """Read a table from a file with one JSON object per line."""
    content = read_bounded(path, MAX_TEXT_BYTES)
    fields: set[tuple[str, ...]] = set()
    rows = 0
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip():
            continue
        try:
            fields.update(_list_fields(parse_json(line)))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        rows += 1
        check_limit(len(fields), "columns", MAX_COLUMNS)
        check_limit(rows, "rows", MAX_ROWS)
        check_limit(8 * rows * len(fields), "bytes", MAX_BYTES)
    return pyarrow.json.read_json(pa.BufferReader(content))


def read_parquet_table(
    path: Path, columns: Sequence[str] | None = None, limit_bytes: int = MAX_BYTES
) -> pa.Table:
    """Read a table, or some columns of it, that has at most `limit_bytes` in memory."""
    with open_regular(path) as opened:
        with pq.ParquetFile(opened) as file:
            check_parquet(file, limit_bytes)
            texts = list_text_fields(file)
        size = 0
        with pq.ParquetFile(opened, read_dictionary=texts) as file:
            # Arrow cannot read nested columns across row groups this way.
            for group in range(file.metadata.num_row_groups):
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                    size += sum(map(count_bytes, batch.columns))
                    check_limit(size, "bytes", limit_bytes)
        opened.seek(0)
        table = pq.read_table(opened, columns=columns)
    table.validate(full=True)  # text may not be UTF-8
    return table


def list_parquet_columns(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file, of which only the footer is read."""
    with open_regular(path) as opened:
        names: list[str] = pq.read_schema(opened).names
    return names


def check_parquet(file: pq.ParquetFile, limit_bytes: int = MAX_BYTES) -> None:
    """Raise ValueError unless a file states few rows and columns, and values that need few bytes in memory.

    Repeated texts need more than that: `count_bytes` measures them.
    """
    metadata, schema = file.metadata, file.schema
    check_limit(metadata.num_columns, "columns", MAX_COLUMNS)  # a nested column counts several times
    check_names(file.schema_arrow.names)
    check_limit(metadata.num_rows, "rows", MAX_ROWS)
    unpacked = dense = 0
    for number in range(metadata.num_columns):
        leaf = schema.column(number)
        kind = leaf.physical_type
        width = leaf.length if kind == "FIXED_LEN_BYTE_ARRAY" else WIDTHS.get(kind, 8)
        chunks = [metadata.row_group(group).column(number) for group in range(metadata.num_row_groups)]
        values = sum(chunk.num_values for chunk in chunks)
        check_limit(values, "values in a column", MAX_ROWS)
        unpacked += sum(chunk.total_uncompressed_size for chunk in chunks)
        dense += width * values
    check_limit(max(unpacked, dense), "bytes", limit_bytes)


def list_text_fields(file: pq.ParquetFile) -> list[str]:
    """Return the columns that Arrow can read as dictionaries, so that a repeated text needs few bytes."""
    leaves = [file.schema.column(number) for number in range(len(file.schema))]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def count_bytes(values: pa.Array) -> int:
    """Count the bytes of values when all dictionaries are replaced by their values."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(values.dictionary).take(values.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(count_bytes, values.flatten()))
    if pa.types.is_map(kind):
        return count_bytes(values.keys) + count_bytes(values.items)
    if pa.types.is_nested(kind):
        return count_bytes(values.flatten())
    return int(values.nbytes)


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for more than MAX_COLUMNS columns, or for two of the same name."""
    check_limit(len(names), "columns", MAX_COLUMNS)
    repeated = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeated:
        raise ValueError(f"it has two columns {repeated[0]}: rename one of them")


def check_limit(count: int, unit: str, allowed: int) -> None:
    """Raise ValueError if a table has more of something than is allowed."""
    if count > allowed:
        raise ValueError(f"it has {count:,} {unit}, and at most {allowed:,} are allowed: divide it")


def _list_fields(value: Any, parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each field of an object, also of those in it."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield (*parent, name)
            yield from _list_fields(child, (*parent, name))
    elif isinstance(value, list):
        for child in value:
            yield from _list_fields(child, parent)
