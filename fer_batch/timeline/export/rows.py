"""Rows of `tracks` as CSV and JSON lines, a part of the videos at a time."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from fer_batch.timeline.database import Database
from fer_batch.timeline.sql import quote_name, quote_text

MAX_ROWS_IN_MEMORY = 250_000
"""Rows of `tracks` that are in memory at a time. The rows of one video are never divided."""


@dataclass(frozen=True)
class ExportedVideo:
    """A video to export."""

    video_id: str
    uri: str
    status: str
    error: str | None
    duration_s: float | None
    read_s: float | None
    start_s: float
    """Time of the first frame in the file, as players count it."""
    rows: int
    """Number of rows of `tracks`."""
    fps: float | None


def list_videos(database: Database, names: Sequence[str | Path]) -> list[ExportedVideo]:
    """Return the named videos, each once, or all videos without names; in order of their ids."""
    ids = sorted(database.video_id(name) for name in names)
    database = database.narrow(ids) if ids else database
    where = _match_ids(ids) if ids else "true"
    rows = database.run_trusted(f"""
        SELECT video_id, uri, status, error, duration_s, read_s, coalesce(start_s, 0), coalesce(n, 0), fps
        FROM videos LEFT JOIN (SELECT video_id, count(*) AS n FROM tracks GROUP BY 1) USING (video_id)
        WHERE {where} ORDER BY video_id""")
    return [ExportedVideo(*row) for row in rows.fetchall()]


def partition_videos(videos: Sequence[ExportedVideo]) -> Iterator[str]:
    """Yield conditions, each for a part of the videos with at most `MAX_ROWS_IN_MEMORY` rows or one video.

    The ids in a part are adjacent, as in the files, so that each row of the files is read once. Without
    videos there is one condition that no row meets.
    """
    start = 0
    while start < len(videos):
        rows, end = videos[start].rows, start + 1
        while end < len(videos) and rows + videos[end].rows <= MAX_ROWS_IN_MEMORY:
            rows, end = rows + videos[end].rows, end + 1
        yield _match_ids([video.video_id for video in videos[start:end]])
        start = end
    if not videos:
        yield "false"


def write_csv(path: Path, database: Database, videos: Sequence[ExportedVideo]) -> int:
    """Write all columns of `tracks` as CSV (RFC 4180); infinite numbers are empty. Return the row count."""
    columns = ", ".join(f"{value} AS {name}" for name, value in _select_columns(database).items())
    tables = _read_parts(database, videos, columns)
    first = next(tables)
    options = pa_csv.WriteOptions(eol="\r\n")
    with path.open("wb") as file, pa_csv.CSVWriter(file, first.schema, write_options=options) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    return sum(video.rows for video in videos)


def write_jsonl(path: Path, database: Database, videos: Sequence[ExportedVideo]) -> int:
    """Write all columns of `tracks`, an object a line; infinite numbers are null. Return the row count."""
    columns = ", ".join(f"{name} := {value}" for name, value in _select_columns(database, True).items())
    with path.open("wb") as file:
        for table in _read_parts(database, videos, f"to_json(struct_pack({columns})) || chr(10) AS line"):
            for batch in table.to_batches(max_chunksize=10_000):
                file.writelines(batch.column(0).cast(pa.binary()).to_pylist())
    return sum(video.rows for video in videos)


def _select_columns(database: Database, short_floats: bool = False) -> dict[str, str]:
    """Return the quoted columns of `tracks` with their expressions.

    With `short_floats`, a FLOAT is converted by its shortest decimal text, so that JSON has no more digits.
    """
    tracks = database.sql("FROM tracks")
    columns = {}
    for name, kind in zip(tracks.columns, map(str, tracks.types), strict=True):
        column = quote_name(name)
        value = f"{column}::VARCHAR::DOUBLE" if kind == "FLOAT" and short_floats else column
        is_number = kind in ("FLOAT", "DOUBLE")
        columns[column] = f"CASE WHEN isfinite({column}) THEN {value} END" if is_number else column
    return columns


def _read_parts(database: Database, videos: Sequence[ExportedVideo], columns: str) -> Iterator[pa.Table]:
    for where in partition_videos(videos):
        query = f"SELECT {columns} FROM tracks WHERE {where} ORDER BY uri, track_id, time_s"
        yield database.run_trusted(query).to_arrow_table()


def _match_ids(ids: Sequence[str]) -> str:
    """Return the condition that a row belongs to one of the videos; `ids` are sorted."""
    texts = [quote_text(video_id) for video_id in ids]
    return f"video_id BETWEEN {texts[0]} AND {texts[-1]} AND video_id IN ({', '.join(texts)})"
