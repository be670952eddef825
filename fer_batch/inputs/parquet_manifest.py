"""Read a Parquet manifest in little memory: a small file may state millions of equal rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import InputError
from fer_batch.storage.user_tables import (
    BATCH_ROWS,
    MAX_BYTES,
    check_limit,
    check_parquet,
    count_bytes,
    list_text_fields,
)


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

    Text stays as a dictionary until the number of its bytes is known. Raises ValueError for a manifest that
    is too large, InputError for one without a column of paths, and ArrowException or OSError for one that
    cannot be read.
    """
    with pq.ParquetFile(source) as file:
        check_parquet(file)
        column = find_path_column(path, file.schema_arrow.names, path_columns)
        texts = list_text_fields(file)
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
    size = sum(count_bytes(chunk) for values in table.columns for chunk in values.chunks)
    check_limit(size, "bytes", MAX_BYTES)
    return DistinctRows(table=table, repeated=rows - without_path - len(table), without_path=without_path)


def find_path_column(path: str, names: list[str], path_columns: tuple[str, ...]) -> str:
    """Return the first column of a manifest that names files; raises InputError if there is none."""
    for name in names:
        if name.strip().lower() in path_columns:
            return name
    allowed = f"{', '.join(path_columns[:-1])} or {path_columns[-1]}"
    raise InputError(f"the manifest {path} has no column named {allowed}")


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
