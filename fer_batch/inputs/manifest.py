"""Manifests: lists of videos in a file, with what their owner knows of each."""

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
from fer_batch.schema import RESERVED_COLUMNS
from fer_batch.storage.stores import is_remote, read_file

PATH_COLUMNS = ("path", "uri", "video", "file")
DURATION_COLUMNS = ("duration_s", "duration")
VERSION_COLUMN = "version"
ID_COLUMN = "id"
COLUMN_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
}
"""What a column of an owner's own may hold; anything else is written as text."""
NO_NUMBER = r"^[+-]?0\d"
"""Text that looks like a number and is none: codes with leading zeros."""
ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of a manifest."""

    path: str
    duration_s: float | None = None
    """Where it is known, the video need not be opened before it is planned."""
    version: str | None = None
    """Where it is given, a video is analyzed again when it changes, and not by size and time of the file."""
    extra: str | None = None
    """A JSON object of the owner's own columns."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a manifest holds."""

    entries: Iterator[Entry]
    columns: dict[str, str]
    """The owner's own columns, and which of COLUMN_TYPES each is."""
    rows_without_path: int
    """Rows that name no file."""


def read_manifest(name: str | Path) -> Manifest:
    """The videos that a `.txt`, `.csv`, `.parquet` or `.jsonl` file names.

    In a `.txt` a path a line, `#` begins a comment; the others have a column `path`, `uri`, `video` or
    `file`, and may have `duration_s` (or `duration`), `version`, `id` (one for each video) and any others. A
    column that is named as one of the tables' own is called `manifest_…`. Raises InputError where it can't be
    read, has no such column, or an id stands for two paths.
    """
    path = str(name)
    if not is_remote(path) and not Path(path).is_file():
        raise InputError(f"the manifest {path} is not a regular file")
    if _suffix(path) == ".txt":
        lines = _text(path).splitlines()
        return Manifest(
            entries=(Entry(path=line.strip()) for line in lines if _names(line)),
            columns={},
            rows_without_path=0,
        )
    table = _table(path)
    known = {name.strip().lower(): name for name in reversed(table.column_names)}
    column = next((name for name in table.column_names if name.strip().lower() in PATH_COLUMNS), None)
    if column is None:
        raise InputError(f"the manifest {path} has no column named {', '.join(PATH_COLUMNS[:-1])} or file")
    duration = next((known[name] for name in DURATION_COLUMNS if name in known), None)
    version = known.get(VERSION_COLUMN)
    own = _own(path, table.drop_columns([name for name in (column, duration, version) if name]))
    _check_ids(path, table.column(column), own)
    return Manifest(
        entries=_entries(path, table, column, duration, version, own),
        rows_without_path=sum(not (name or "").strip() for name in _texts(table, column)),
        columns={
            field.name: next(kind for kind, known in COLUMN_TYPES.items() if field.type == known)
            for field in own.schema
        },
    )


def merge_column_types(one: str, other: str) -> str:
    """The kind that holds the values of both: whole numbers are numbers, and anything is text."""
    if one == other:
        return one
    return "double" if {one, other} == {"int64", "double"} else "string"


def manifest_values(extra: str | None, columns: Mapping[str, str]) -> dict[str, Any]:
    """A video's values in its owner's columns, from its `extra`; None where it has none."""
    said = json.loads(extra) if extra else {}
    return {name: _as(said.get(name), kind) for name, kind in columns.items()}


def _as(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value)
    return float(value) if kind == "double" else value


def _names(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _content(path: str) -> bytes:
    return read_file(path) if is_remote(path) else Path(path).read_bytes()


def _text(path: str) -> str:
    try:
        text = _content(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the manifest {path} can't be read as UTF-8 text: {error}") from error
    if "\0" in text:
        raise InputError(f"the manifest {path} can't be read as UTF-8 text: it holds zero bytes")
    return text


def _table(path: str) -> pa.Table:
    if _suffix(path) == ".csv":
        return _csv(path)
    try:
        if _suffix(path) == ".parquet":
            return pq.read_table(pa.py_buffer(read_file(path)) if is_remote(path) else pa.OSFile(path))
        return _json_lines(path)
    except (pa.ArrowException, OSError) as error:
        said = str(error).strip().split("\n")[0]
        raise InputError(f"the manifest {path} can't be read: {said}") from error


def _csv(path: str) -> pa.Table:
    """Columns as whole numbers, numbers, truth values or text, whichever all their values are."""
    rows = csv.reader(io.StringIO(_text(path), newline=""))
    names = [name.strip() for name in next(rows, [])]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"the manifest {path} has two columns {twice[0]}: name one otherwise")
    columns: list[list[str | None]] = [[] for _ in names]
    for row in rows:
        if len(row) > len(names):
            raise InputError(
                f"the manifest {path} has {len(row)} cells in line {rows.line_num} and {len(names)} columns: "
                "put a cell with a comma in it in quotes"
            )
        if row:
            for number, column in enumerate(columns):
                column.append((row[number].strip() or None) if number < len(row) else None)
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.table({name: _typed(arrays[n]) for n, name in enumerate(names) if name})


def _json_lines(path: str) -> pa.Table:
    """Columns of whatever their values are; text where they are of several kinds."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"the manifest {path} can't be read: line {number}: {error}") from error
            if not isinstance(row, dict):
                raise InputError(
                    f"the manifest {path} has no JSON object in line {number}: one a line is needed"
                )
            for name, value in row.items():
                columns.setdefault(name, []).extend([None] * (count - len(columns[name])))
                columns[name].append(value)
            count += 1
    for values in columns.values():
        values += [None] * (count - len(values))
    return pa.table({name: _of_any(values) for name, values in columns.items()})


def _of_any(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(
            [v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string()
        )


def _typed(column: pa.Array) -> pa.Array:
    codes = pc.any(pc.match_substring_regex(column, NO_NUMBER)).as_py()
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        if column.null_count == len(column) or codes:
            break
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def _own(path: str, table: pa.Table) -> pa.Table:
    """The owner's columns, under names and of types that the tables can take."""
    columns: dict[str, pa.ChunkedArray] = {}
    for given, column in zip(table.column_names, table.columns, strict=True):
        name = re.sub(r"\W+", "_", given.strip().lower()) or "_"
        if name in RESERVED_COLUMNS or name.startswith("p_"):
            name = f"manifest_{name}"
        if name in columns:
            raise InputError(f"the manifest {path} has two columns {name}: name one otherwise")
        columns[name] = _plain(column) if name != ID_COLUMN else _plain(column).cast(pa.string())
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
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


def _check_ids(path: str, paths: pa.ChunkedArray, own: pa.Table) -> None:
    if ID_COLUMN not in own.column_names:
        return
    pairs = pa.table({"id": own.column(ID_COLUMN), "path": paths}).drop_null()
    counts = pairs.group_by("id").aggregate([("path", "count_distinct")])
    twice = counts.filter(pc.greater(counts.column("path_count_distinct"), 1)).column("id").to_pylist()
    if twice:
        raise InputError(f"the manifest {path} has the id {min(twice)} for several videos; an id is for one")


def _texts(table: pa.Table, column: str | None) -> list[str | None]:
    return [None] * table.num_rows if column is None else table.column(column).cast(pa.string()).to_pylist()


def _known(value: Any) -> bool:
    """Whether there is a value: what is not a number is none."""
    return value is not None and value == value  # noqa: PLR0124


def _entries(
    path: str, table: pa.Table, column: str, duration: str | None, version: str | None, own: pa.Table
) -> Iterator[Entry]:
    lengths: list[float | None] = [None] * table.num_rows
    if duration is not None:
        try:
            lengths = table.column(duration).cast(pa.float64()).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"the manifest {path} has no numbers of seconds in {duration}: {error}"
            ) from error
    extras: Iterator[str | None] = (
        json.dumps({name: value for name, value in row.items() if _known(value)}, ensure_ascii=False)
        if own.num_columns
        else None
        for batch in (own if own.num_columns else table.select([column])).to_batches(ROWS)
        for row in batch.to_pylist()
    )
    for name, length_s, said, extra in zip(
        _texts(table, column), lengths, _texts(table, version), extras, strict=True
    ):
        if name and name.strip():
            known = length_s is not None and 0 < length_s < float("inf")
            yield Entry(path=name.strip(), duration_s=length_s if known else None, version=said, extra=extra)
