"""Events of a user's own, from the files that people have them in."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import InputError
from fer_batch.timeline.queries.events import read_events

ROWS = {"start_s": [0.5, 2.0], "end_s": [1.25, 3.0], "text": ["one", "two\nlines"]}
VTT = "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\none\n\n00:02.000 --> 00:03.000\ntwo\nlines\n"
SRT = "1\n00:00:00,500 --> 00:00:01,250\none\n\n2\n00:00:02,000 --> 00:00:03,000\ntwo\nlines\n"
TEXTS = {
    "a.csv": 'start_s,end_s,text\n0.5,1.25,one\n2,3,"two\nlines"\n',
    "a.jsonl": '{"start_s": 0.5, "end_s": 1.25, "text": "one"}\n'
    '{"start_s": 2.0, "end_s": 3.0, "text": "two\\nlines"}\n',
    "a.vtt": VTT,
    "A.SRT": SRT,
}


@pytest.mark.parametrize(("name", "text"), [("a.csv", "time_s\n"), ("a.vtt", "WEBVTT\n"), ("a.srt", "")])
def test_no_events(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    try:
        assert len(read_events(tmp_path / name)) == 0
    except InputError as error:  # an empty .srt is no .srt to the library
        assert name == "a.srt" and "Cannot read" in str(error)


@pytest.mark.parametrize(("name", "text"), TEXTS.items())
def test_events_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_events(tmp_path / name).to_pydict() == ROWS


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "a.parquet")
    assert read_events(tmp_path / "a.parquet").to_pydict() == ROWS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"allowed are files that end in \.csv, \.parquet"),
        ("a.csv", None, "There is no file"),
        ("a.parquet", "no", "Cannot read .* as .parquet"),
        ("a.vtt", "no", "Cannot read .* as .vtt"),
        ("a.jsonl", "{", "Cannot read .* as .jsonl"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_events(tmp_path / name)
