"""Manifests: files that list videos and the user's own columns for them."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import InputError
from fer_batch.schema import rename_reserved
from fer_batch.storage.stores import is_remote, read_file

PATH_COLUMNS = ("path", "uri", "video", "file")
DURATION_COLUMNS = ("duration_s", "duration")
ID_COLUMN = "id"
COLUMN_TYPES = {"bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string()}
"""The types of a user's columns. All other types become text."""
LEADING_ZERO = r"^[+-]?0\d"
"""Text that looks like a number but is a code with leading zeros."""
BATCH_ROWS = 65_536


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


def read_manifest(name: str | Path) -> Manifest:
    """Read the videos of a `.txt`, `.csv`, `.parquet`, `.jsonl` or `.ndjson` file.

    A `.txt` file has one path per line, and `#` starts a comment. The others have a column `path`, `uri`,
    `video` or `file`. Optional columns are `duration_s` (or `duration`), `version`, `id` (unique per video)
    and any others. A column with the name of a table column is renamed to `manifest_…`.

    Raises InputError if the file cannot be read, has no such column, or gives one id to two videos.
    """
    path = str(name)
    if not is_remote(path) and not Path(path).is_file():
        raise InputError(f"the manifest {path} is not a regular file")
    if _suffix(path) == ".txt":
        lines = [line.strip() for line in _read_text(path).splitlines()]
        paths = [line for line in lines if line and not line.startswith("#")]
        return Manifest(entries=(Entry(path=line) for line in paths), columns={}, rows_without_path=0)
    table = _read_table(path)
    names = {name.strip().lower(): name for name in reversed(table.column_names)}
    column = next((name for name in table.column_names if name.strip().lower() in PATH_COLUMNS), None)
    if column is None:
        raise InputError(f"the manifest {path} has no column named {', '.join(PATH_COLUMNS[:-1])} or file")
    duration = next((names[name] for name in DURATION_COLUMNS if name in names), None)
    version = names.get("version")
    own_columns = [name for name in (column, duration, version) if name]
    user_columns = _convert_columns(path, table.drop_columns(own_columns))
    _check_ids(path, table.column(column), user_columns)
    return Manifest(
        entries=_read_entries(path, table, column, duration, version, user_columns),
        columns={field.name: str(field.type) for field in user_columns.schema},
        rows_without_path=sum(not (text or "").strip() for text in _as_text(table, column)),
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


def _read_text(path: str) -> str:
    try:
        content = read_file(path) if is_remote(path) else Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the manifest {path} can't be read as UTF-8 text: {error}") from error
    if "\0" in text:
        raise InputError(f"the manifest {path} can't be read as UTF-8 text: it contains zero bytes")
    return text


def _read_table(path: str) -> pa.Table:
    if _suffix(path) == ".csv":
        return _read_csv(path)
    try:
        if _suffix(path) == ".parquet":
            return pq.read_table(pa.py_buffer(read_file(path)) if is_remote(path) else pa.OSFile(path))
        return _read_json_lines(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"the manifest {path} can't be read: {reason}") from error


def _read_csv(path: str) -> pa.Table:
    """Return columns of whole numbers, numbers or truth values if all their values are, else of text."""
    rows = csv.reader(io.StringIO(_read_text(path), newline=""))
    names = [name.strip() for name in next(rows, [])]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise InputError(f"the manifest {path} has two columns {repeated[0]}: rename one of them")
    columns: list[list[str | None]] = [[] for _ in names]
    for row in rows:
        if len(row) > len(names):
            raise InputError(
                f"the manifest {path} has {len(row)} cells in line {rows.line_num} and {len(names)} columns: "
                "put cells with a comma in quotes"
            )
        if row:
            for number, column in enumerate(columns):
                column.append((row[number].strip() or None) if number < len(row) else None)
    named = {name: column for name, column in zip(names, columns, strict=True) if name}
    return pa.table({name: _infer_type(pa.array(column, pa.string())) for name, column in named.items()})


def _read_json_lines(path: str) -> pa.Table:
    """Return columns of the types of their values, or of text if the types differ."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"the manifest {path} can't be read: line {number}: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"the manifest {path} has no JSON object in line {number}: give one per line")
        for name in row:
            columns.setdefault(name, [None] * count)
        for name, values in columns.items():
            values.append(row.get(name))
        count += 1
    return pa.table({name: _to_array(values) for name, values in columns.items()})


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


def _check_ids(path: str, paths: pa.ChunkedArray, user_columns: pa.Table) -> None:
    if ID_COLUMN not in user_columns.column_names:
        return
    pairs = pa.table({"id": user_columns.column(ID_COLUMN), "path": paths}).drop_null()
    counts = pairs.group_by("id").aggregate([("path", "count_distinct")])
    repeated = counts.filter(pc.greater(counts.column("path_count_distinct"), 1)).column("id").to_pylist()
    if repeated:
        raise InputError(
            f"the manifest {path} has the id {min(repeated)} for several videos: give each video its own id"
        )


def _as_text(table: pa.Table, column: str | None) -> list[str | None]:
    return [None] * table.num_rows if column is None else table.column(column).cast(pa.string()).to_pylist()


def _read_entries(
    path: str, table: pa.Table, column: str, duration: str | None, version: str | None, user_columns: pa.Table
) -> Iterator[Entry]:
    durations_s: list[float | None] = [None] * table.num_rows
    if duration is not None:
        try:
            durations_s = table.column(duration).cast(pa.float64()).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problem = f"the manifest {path} has no numbers of seconds in {duration}: {error}"
            raise InputError(problem) from error
    columns = _as_text(table, column), durations_s, _as_text(table, version), _format_extras(user_columns)
    for name, duration_s, version_text, extra in zip(*columns, strict=False):
        if duration_s is not None and not 0 < duration_s < float("inf"):
            duration_s = None
        if name and name.strip():
            yield Entry(path=name.strip(), duration_s=duration_s, version=version_text, extra=extra)


def _format_extras(user_columns: pa.Table) -> Iterator[str | None]:
    """Yield each row as a JSON object without missing values and NaN; endlessly None without columns."""
    while not user_columns.num_columns:
        yield None
    for batch in user_columns.to_batches(BATCH_ROWS):
        for row in batch.to_pylist():
            values = {name: value for name, value in row.items() if value is not None and value == value}  # noqa: PLR0124
            yield json.dumps(values, ensure_ascii=False)
