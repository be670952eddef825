"""Events: faces during a user's own events, which come as a table or from a file."""

import codecs
import io
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import webvtt
from webvtt.errors import MalformedCaptionError, MalformedFileError

from fer_batch.errors import InputError, QueryError
from fer_batch.storage.label_studio import read_segments
from fer_batch.storage.user_files import read_bounded
from fer_batch.storage.user_tables import read_csv_table, read_json_table, read_parquet_table
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.sql import (
    ROW_END_S,
    TIME_TOLERANCE_S,
    most_probable_sql,
    probability_columns,
    quote_name,
)

NUMBER, VIDEO_ID, START, END = "__event", "__video_id", "__start_s", "__end_s"
"""Columns that are added to events while they are joined."""
TABLE_READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": read_csv_table,
    ".parquet": read_parquet_table,
    ".jsonl": read_json_table,
    ".ndjson": read_json_table,
}
SUBTITLE_FORMATS = {".vtt": "vtt", ".srt": "srt"}
SEGMENT_SCHEMA = pa.schema(
    [
        pa.field("video", pa.string()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("label", pa.string()),
        pa.field("face", pa.string()),
        pa.field("annotator", pa.string()),
    ]
)
MAX_SUBTITLE_BYTES = 10_000_000
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def add_faces(
    database: Database, events: pa.Table | str | Path, **filters: Unpack[FaceFilter]
) -> duckdb.DuckDBPyRelation:
    """Add columns to your own events: which faces and emotions the run shows during each event.

    `events` is a table or a file that `read_events` reads. It has `start_s` and `end_s`, or `time_s`: then
    the sampled frame that lasts at this time counts. Times are seconds since the start of the file, as
    players and subtitles count them. `events` has `video` (id, path or file name), unless the argument
    `video` names the video of all events.

    Added columns: faces (number of rows of `tracks` that begin in `[start_s, end_s)`, or that last during all
    of it), emotion (with the highest mean) and a mean `p_…` for each emotion, null without a face. Columns of
    the events with one of these names are renamed to `event_…`.
    """
    if not isinstance(events, pa.Table):
        events = read_events(Path(events))
    database, events = _locate_events(database, events, filters.pop("video", None))
    name = f"events_{id(events)}"  # a relation is read later, maybe after other events are joined
    database.register(name, events)
    database, where, params = select_faces(database, **filters)
    columns = probability_columns(database)
    added = {"faces", "emotion", *columns}
    kept = ", ".join(
        f"events.{quote_name(column)}"
        + (f" AS {quote_name(f'event_{column}')}" if column.lower() in added else "")
        for column in events.column_names
        if column not in (NUMBER, VIDEO_ID, START, END)
    )
    means = ", ".join(f"avg({column}) AS {column}" for column in columns)
    return database.sql(
        f"""WITH seen AS (
            SELECT {NUMBER}, count(*) AS faces, {means}
            FROM (SELECT {NUMBER}, {VIDEO_ID}, {START}, {END} FROM {name})
            JOIN tracks ON video_id = {VIDEO_ID} AND time_s < {END}
            AND (time_s >= {START} OR {ROW_END_S} >= {END})
            WHERE {where} GROUP BY {NUMBER}
        )
        SELECT {kept}, coalesce(faces, 0) AS faces, {most_probable_sql(database)} AS emotion,
               {", ".join(columns)}
        FROM {name} AS events LEFT JOIN seen USING ({NUMBER}) ORDER BY {NUMBER}""",
        params,
    )


def read_events(path: Path) -> pa.Table:
    """Read events from a CSV, Parquet or JSON lines file, from subtitles (.vtt, .srt), or from the labelled
    segments of an export of Label Studio (.json).

    Subtitles have the columns start_s, end_s (in seconds, to the millisecond) and text. Segments have
    those of `LabelledSegment`: video, start_s, end_s, label, face and annotator.

    Raises InputError if the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return pa.Table.from_pylist([vars(segment) for segment in read_segments(path)], SEGMENT_SCHEMA)
    if suffix not in (*TABLE_READERS, *SUBTITLE_FORMATS):
        allowed = ", ".join([*TABLE_READERS, *SUBTITLE_FORMATS, ".json"])
        raise InputError(f"Cannot read events from {path}; allowed are files that end in {allowed}")
    try:
        if suffix in TABLE_READERS:
            return TABLE_READERS[suffix](path)
        content = read_bounded(path, MAX_SUBTITLE_BYTES)
        encoding = "utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig"
        lines = io.StringIO(content.decode(encoding), newline=None)
        captions = webvtt.from_buffer(lines, SUBTITLE_FORMATS[suffix]).captions
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}") from error
    except (OSError, ValueError, pa.ArrowException, MalformedFileError, MalformedCaptionError) as error:
        raise InputError(f"Cannot read {path} as {suffix}: {str(error).strip().splitlines()[0]}") from error
    return pa.table(
        {
            "start_s": pa.array([c.start_time.in_milliseconds() / 1000 for c in captions], pa.float64()),
            "end_s": pa.array([c.end_time.in_milliseconds() / 1000 for c in captions], pa.float64()),
            "text": pa.array([c.text for c in captions], pa.string()),
        }
    )


def _locate_events(
    database: Database, events: pa.Table, video: str | Path | None
) -> tuple[Database, pa.Table]:
    """Add columns with the number and video id of each event, and its start and end as in the tables.

    Also returns a database with the videos of the events.
    """
    names = set(events.column_names)
    if "video" not in names and video is None:
        raise QueryError("Events have no column video; add one, or name their one video (--video, video=)")
    has_spans = {"start_s", "end_s"} <= names
    if not has_spans and "time_s" not in names:
        raise QueryError(
            f"Events need the columns start_s and end_s, or time_s; got {', '.join(events.column_names)}"
        )
    if "video" in names:
        videos = [str(name) for name in events.column("video").to_pylist()]
    else:
        videos = [str(video)] * len(events)
    ids = database.video_ids(videos)
    database = database.narrow(ids.values())
    try:
        starts = events.column("start_s" if has_spans else "time_s").cast(pa.float64())
        ends = events.column("end_s" if has_spans else "time_s").cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise QueryError(f"Times of events must be numbers of seconds: {error}") from error
    if pc.any(pc.or_kleene(pc.is_nan(starts), pc.is_nan(ends))).as_py():
        raise QueryError("Times of events must be numbers of seconds, got nan")
    reversed_events = pc.indices_nonzero(pc.fill_null(pc.less(ends, starts), False))
    if len(reversed_events):
        number = reversed_events[0].as_py()
        raise QueryError(
            f"end_s must not be below start_s, got an event from {starts[number].as_py():g} to "
            f"{ends[number].as_py():g} s (event {number + 1})"
        )
    ends = pc.max_element_wise(ends, pc.add(starts, TIME_TOLERANCE_S), skip_nulls=False)
    offsets = dict(database.sql("SELECT video_id, coalesce(start_s, 0) FROM videos").fetchall())
    offsets_s = pa.array([offsets[ids[name]] for name in videos], pa.float64())
    starts, ends = pc.subtract(starts, offsets_s), pc.subtract(ends, offsets_s)
    added = {
        NUMBER: pa.array(range(len(events)), pa.int64()),
        VIDEO_ID: pa.array([ids[name] for name in videos], pa.string()),
        START: starts,
        END: ends,
    }
    for name, column in added.items():
        events = events.append_column(name, column)
    return database, events
