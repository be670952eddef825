"""A user's own events in time, read from the files that people have them in."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import webvtt
from webvtt.errors import MalformedCaptionError, MalformedFileError

from fer_batch.errors import InputError

READERS = {
    ".csv": partial(pyarrow.csv.read_csv, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)),
    ".parquet": pq.read_table,
    ".jsonl": pyarrow.json.read_json,
    ".ndjson": pyarrow.json.read_json,
}
SUBTITLES = {".vtt": webvtt.read, ".srt": webvtt.from_srt}


def read_events(path: Path) -> pa.Table:
    """The rows of a CSV, Parquet or JSON lines file, or of subtitles (.vtt, .srt) as start_s, end_s and text.

    Times of subtitles are in seconds, to the millisecond. Raises InputError where the file can't be read.
    """
    kind = path.suffix.lower()
    if kind not in (*READERS, *SUBTITLES):
        raise InputError(f"{path} is none of {', '.join([*READERS, *SUBTITLES])}")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if kind in READERS:
            table: pa.Table = READERS[kind](path)
            return table
        captions = SUBTITLES[kind](str(path)).captions
    except (
        OSError,
        UnicodeDecodeError,
        pa.ArrowInvalid,
        MalformedFileError,
        MalformedCaptionError,
    ) as error:
        raise InputError(f"{path} can't be read as {kind}: {str(error).strip().splitlines()[0]}") from error
    return pa.table(
        {
            "start_s": pa.array([c.start_time.in_milliseconds() / 1000 for c in captions], pa.float64()),
            "end_s": pa.array([c.end_time.in_milliseconds() / 1000 for c in captions], pa.float64()),
            "text": pa.array([c.text for c in captions], pa.string()),
        }
    )
