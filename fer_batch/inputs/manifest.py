"""Manifests: files that list videos and the user's own columns for them."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.inputs.parquet_manifest import find_path_column, read_distinct_rows
from fer_batch.inputs.text_manifest import read_csv, read_json_lines, read_text
from fer_batch.schema import rename_reserved
from fer_batch.storage.addresses import is_remote
from fer_batch.storage.stores import read_file
from fer_batch.storage.user_tables import BATCH_ROWS

PATH_COLUMNS = ("path", "uri", "video", "file")
DURATION_COLUMNS = ("duration_s", "duration")
ID_COLUMN = "id"
COLUMN_TYPES = {"bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string()}
"""The types of a user's columns. All other types become text."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of a manifest."""

    path: str
    duration_s: float | None = None
    """A video of known duration is not opened before it is planned."""
    version: str | None = None
    """If given, a video is analyzed again when its version changes, not when the file's size or time does."""
    extra: str | None = None
    """JSON object of the user's columns."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a manifest."""

    entries: Iterator[Entry]
    columns: dict[str, str]
    """The user's columns and their types, keys of COLUMN_TYPES."""
    rows_without_path: int
    repeated_rows: int = 0
    """Number of rows that are not among the entries, as an earlier row has the same path."""


def read_manifest(name: str | Path) -> Manifest:
    """Read the videos of a `.txt`, `.csv`, `.parquet`, `.jsonl` or `.ndjson` file.

    A `.txt` file has one path per line, and `#` starts a comment. The others have a column `path`, `uri`,
    `video` or `file`. Optional columns are `duration_s` (or `duration`), `version`, `id` (unique per video)
    and any others. A column with the name of a table column is renamed to `manifest_…`.

    Raises InputError if the file cannot be read, has no such column, gives one id to two videos, or is larger
    than the limits of `storage.user_tables`.
    """
    path = str(name)
    if not is_remote(path) and not Path(path).is_file():
        raise InputError(f"the manifest {path} is not a regular file")
    if _suffix(path) == ".txt":
        lines = [line.strip() for line in read_text(path).splitlines()]
        paths = [line for line in lines if line and not line.startswith("#")]
        return Manifest(entries=(Entry(path=line) for line in paths), columns={}, rows_without_path=0)
    try:
        return _read_rows(path)
    except (pa.ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"the manifest {path} can't be read: {reason}") from error


def _read_rows(path: str) -> Manifest:
    repeated = without_path = 0
    if _suffix(path) == ".parquet":
        source = pa.py_buffer(read_file(path)) if is_remote(path) else path
        rows = read_distinct_rows(path, source, PATH_COLUMNS)
        table, repeated, without_path = rows.table, rows.repeated, rows.without_path
    else:
        table = read_csv(path) if _suffix(path) == ".csv" else read_json_lines(path)
    table.validate(full=True)  # Parquet files may contain invalid text
    names = {name.strip().lower(): name for name in reversed(table.column_names)}
    column = find_path_column(path, table.column_names, PATH_COLUMNS)
    duration = next((names[name] for name in DURATION_COLUMNS if name in names), None)
    version = names.get("version")
    own_columns = [name for name in (column, duration, version) if name]
    user_columns = _convert_columns(path, table.drop_columns(own_columns))
    paths = _as_text(path, table, column)
    _check_ids(path, pa.array(paths, pa.string()), user_columns)
    without_path += sum(not (text or "").strip() for text in paths)
    return Manifest(
        entries=_read_entries(path, table, paths, duration, version, user_columns),
        columns={field.name: str(field.type) for field in user_columns.schema},
        rows_without_path=without_path,
        repeated_rows=repeated,
    )


def merge_column_types(one: str, other: str) -> str:
    """Return the column type that holds the values of both types."""
    if one == other:
        return one
    return "double" if {one, other} == {"int64", "double"} else "string"


def manifest_values(extra: str | None, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a video's values of the user's columns, None for missing ones, from its `extra`."""
    values = {rename_reserved(name): value for name, value in json.loads(extra).items()} if extra else {}
    converted = {name: values.get(name) for name in columns}
    for name, value in converted.items():
        if columns[name] == "string" and value is not None and not isinstance(value, str):
            converted[name] = json.dumps(value)
        elif columns[name] == "double" and value is not None:
            converted[name] = float(value)
    return converted


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _convert_columns(path: str, table: pa.Table) -> pa.Table:
    """Return the user's columns with SQL names and with types of COLUMN_TYPES."""
    columns: dict[str, pa.ChunkedArray] = {}
    for given, column in zip(table.column_names, table.columns, strict=True):
        name = rename_reserved(re.sub(r"\W+", "_", given.strip().lower()) or "_")
        if name in columns:
            raise InputError(f"the manifest {path} has two columns {name}: rename one of them")
        converted = _convert_column(column)
        columns[name] = converted if name != ID_COLUMN else converted.cast(pa.string())
    return pa.table(columns)


def _convert_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _convert_column(column.cast(kind.value_type))
    if pa.types.is_boolean(kind) or pa.types.is_string(kind):
        return column
    try:
        if pa.types.is_integer(kind):
            return column.cast(pa.int64())
        if pa.types.is_floating(kind):
            return column.cast(pa.float64())
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, structs, numbers beyond 64 bits
        texts = [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])


def _check_ids(path: str, paths: pa.Array, user_columns: pa.Table) -> None:
    if ID_COLUMN not in user_columns.column_names:
        return
    pairs = pa.table({"id": user_columns.column(ID_COLUMN), "path": paths}).drop_null()
    counts = pairs.group_by("id").aggregate([("path", "count_distinct")])
    repeated = counts.filter(pc.greater(counts.column("path_count_distinct"), 1)).column("id").to_pylist()
    if repeated:
        raise InputError(
            f"the manifest {path} has the id {min(repeated)} for several videos: give each video its own id"
        )


def _as_text(path: str, table: pa.Table, column: str) -> list[str | None]:
    try:
        return table.column(column).cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"the manifest {path} has no text in {column}: {error}") from error


def _read_entries(
    path: str,
    table: pa.Table,
    paths: list[str | None],
    duration: str | None,
    version: str | None,
    user_columns: pa.Table,
) -> Iterator[Entry]:
    durations_s: list[float | None] = [None] * table.num_rows
    if duration is not None:
        try:
            durations_s = table.column(duration).cast(pa.float64()).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problem = f"the manifest {path} has no numbers of seconds in {duration}: {error}"
            raise InputError(problem) from error
    versions = [None] * table.num_rows if version is None else _as_text(path, table, version)
    columns = paths, durations_s, versions, _format_extras(user_columns)
    for name, duration_s, version_text, extra in zip(*columns, strict=False):
        if duration_s is not None and not 0 < duration_s < float("inf"):
            duration_s = None
        if name and name.strip():
            yield Entry(path=name.strip(), duration_s=duration_s, version=version_text, extra=extra)


def _format_extras(user_columns: pa.Table) -> Iterator[str | None]:
    """Yield each row as a JSON object without missing and infinite values; endlessly None without columns."""
    while not user_columns.num_columns:
        yield None
    for batch in user_columns.to_batches(BATCH_ROWS):
        for row in batch.to_pylist():
            yield json.dumps({k: v for k, v in row.items() if _is_storable(v)}, ensure_ascii=False)


def _is_storable(value: Any) -> bool:
    """Return whether a value is present; JSON knows neither NaN nor infinite numbers."""
    return value is not None and (not isinstance(value, float) or math.isfinite(value))
