"""Read a Parquet manifest in little memory: a small file may state millions of equal rows."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import InputError

MAX_ROWS = 10_000_000
MAX_COLUMNS = 1000
MAX_BYTES = 2 * 10**9
"""Most bytes of a manifest after decompression, and of its rows without repeated paths."""
BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class DistinctRows:
    """The rows of a manifest, without those whose path was in an earlier row."""

    table: pa.Table
    repeated: int
    """Number of rows whose path was in an earlier row."""
    without_path: int
    """Number of rows without a path, which are not in the table."""


def read_distinct_rows(path: str, source: Any, path_columns: tuple[str, ...]) -> DistinctRows:
    """Read the rows of a Parquet file; `source` is what `pq.ParquetFile` takes.

    Text stays as a dictionary until the number of its bytes is known. Raises InputError for a manifest that
    is too large, and ArrowException or OSError for one that cannot be read.
    """
    with pq.ParquetFile(source) as file:
        _check_size(path, file.metadata)
        check_column_names(path, file.schema_arrow.names)
        column = find_path_column(path, file.schema_arrow.names, path_columns)
        leaves = [file.schema.column(number) for number in range(len(file.schema))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    kept: list[pa.Table] = []
    rows = without_path = 0
    limit = BATCH_ROWS
    with pq.ParquetFile(source, read_dictionary=texts) as file:
        # Arrow cannot read nested columns across row groups this way.
        groups = range(file.metadata.num_row_groups)
        for batch in (b for group in groups for b in file.iter_batches(BATCH_ROWS, row_groups=[group])):
            table = pa.Table.from_batches([batch])
            named = table.filter(_has_text(table.column(column)))
            rows += len(table)
            without_path += len(table) - len(named)
            kept.append(_drop_repeated(named, column))
            if sum(map(len, kept)) > limit:
                kept = [_drop_repeated(pa.concat_tables(kept), column)]
                limit = max(2 * len(kept[0]), BATCH_ROWS)
        table = _drop_repeated(pa.concat_tables([file.schema_arrow.empty_table(), *kept]), column)
    size = sum(_count_bytes(chunk) for values in table.columns for chunk in values.chunks)
    if size > MAX_BYTES:
        raise InputError(_describe_excess(path, size, "bytes", MAX_BYTES))
    return DistinctRows(table=table, repeated=rows - without_path - len(table), without_path=without_path)


def find_path_column(path: str, names: list[str], path_columns: tuple[str, ...]) -> str:
    """Return the first column of a manifest that names files; raises InputError if there is none."""
    for name in names:
        if name.strip().lower() in path_columns:
            return name
    allowed = f"{', '.join(path_columns[:-1])} or {path_columns[-1]}"
    raise InputError(f"the manifest {path} has no column named {allowed}")


def check_column_names(path: str, names: list[str]) -> None:
    """Raise InputError for a manifest with more than MAX_COLUMNS columns, or with two of the same name."""
    if len(names) > MAX_COLUMNS:
        raise InputError(_describe_excess(path, len(names), "columns", MAX_COLUMNS))
    repeated = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if repeated:
        raise InputError(f"the manifest {path} has two columns {repeated[0]}: rename one of them")


def _check_size(path: str, metadata: pq.FileMetaData) -> None:
    if metadata.num_columns > MAX_COLUMNS:  # a nested column counts several times
        raise InputError(_describe_excess(path, metadata.num_columns, "columns", MAX_COLUMNS))
    if metadata.num_rows > MAX_ROWS:
        raise InputError(_describe_excess(path, metadata.num_rows, "rows", MAX_ROWS))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    values = max((chunk.num_values for chunk in chunks), default=0)
    if values > MAX_ROWS:
        raise InputError(_describe_excess(path, values, "values in a column", MAX_ROWS))
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if size > MAX_BYTES:
        raise InputError(_describe_excess(path, size, "bytes", MAX_BYTES))


def _describe_excess(path: str, count: int, unit: str, allowed: int) -> str:
    return f"the manifest {path} has {count:,} {unit}, and at most {allowed:,} are allowed: divide it"


def _has_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_dictionary(column.type) or not pa.types.is_string(column.type.value_type):
        return column.is_valid()
    chunks = [
        pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(chunk.dictionary), "").take(chunk.indices), False)
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, pa.bool_())


def _drop_repeated(table: pa.Table, column: str) -> pa.Table:
    """Keep the first row of each path, in order."""
    if len(table) < 2:
        return table
    paths = table.select([column]).unify_dictionaries().column(0)
    if not pa.types.is_dictionary(paths.type):
        paths = pa.chunked_array([paths.combine_chunks().dictionary_encode()])
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in paths.chunks])
    _, first = np.unique(codes, return_index=True)
    return table if len(first) == len(table) else table.take(np.sort(first))


def _count_bytes(values: pa.Array) -> int:
    """Count the bytes of values when all dictionaries are replaced by their values."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(values.dictionary).take(values.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_count_bytes, values.flatten()))
    if pa.types.is_map(kind):
        return _count_bytes(values.keys) + _count_bytes(values.items)
    if pa.types.is_nested(kind):
        return _count_bytes(values.flatten())
    return int(values.nbytes)
