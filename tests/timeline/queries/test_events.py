"""A user's own events: read from files, and joined with the faces during each."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import InputError, QueryError
from fer_batch.timeline.queries.events import read_events
from fer_batch.timeline.store import Timeline
from tests.timeline.queries.helpers import select
from tests.timeline.videos import SHOP, TALK

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
def test_file_without_events_is_empty(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    try:
        assert len(read_events(tmp_path / name)) == 0
    except InputError as error:  # an empty .srt is no .srt to the library
        assert name == "a.srt" and "Cannot read" in str(error)


@pytest.mark.parametrize(("name", "text"), TEXTS.items())
def test_read_events_from_text_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_events(tmp_path / name).to_pydict() == ROWS


def test_read_events_from_parquet(tmp_path: Path) -> None:
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
        ("a.jsonl", '{"a": ' + "[" * 200_000, "Cannot read .* as .jsonl: line 1: it is nested deeper"),
        ("a.csv", "," * 1000, "1,001 columns, and at most 1,000"),
        ("a.srt", "1\n" * 5_000_001, "10000002 bytes; allowed are 10000000"),
    ],
)
def test_unreadable_file_raises_input_error(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_events(tmp_path / name)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", [*TEXTS, "a.parquet"])
def test_pipe_holds_no_events(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="it is not a regular file"):
        read_events(tmp_path / name)


def test_subtitles_may_be_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(VTT, "utf-16")
    assert read_events(tmp_path / "a.vtt").to_pydict() == ROWS


def test_events_get_faces_by_time(timeline: Timeline) -> None:
    events = pa.table(
        {
            "video": ["talk.mp4", SHOP, "empty.mp4", "talk.mp4"],
            "start_s": [0.0, 0.0, 0.0, 10.0],
            "end_s": [0.4, 0.4, 9.0, 11.0],
            "emotion": ["a", "b", "c", "d"],
        }
    )
    found = timeline.join_events(events)
    assert select(found, "video", "event_emotion", "faces") == [
        ("talk.mp4", "a", 4),
        (SHOP, "b", 0),
        ("empty.mp4", "c", 0),
        ("talk.mp4", "d", 0),
    ]
    rows = found.df()
    assert rows["p_happy"][0] == pytest.approx((0.7 + 0.05) / 2)
    assert rows["emotion"].isna().tolist() == [False, True, True, True]
    ann = timeline.join_events(events.drop_columns(["video"]), video="talk.mp4", person="Ann")
    assert select(ann, "faces", "emotion")[0] == (2, "happy")


def test_event_with_one_time_gets_the_frame_before_it(timeline: Timeline) -> None:
    events = pa.table({"time_s": [0.0, 0.19, 0.2, 0.59, 3.99, 7.0]})
    found = timeline.join_events(events, video=TALK, track=0)
    assert select(found, "faces") == [(1,), (1,), (1,), (1,), (0,), (0,)]
    sure = timeline.join_events(pa.table({"time_s": [0.6, 0.79, 0.81]}), video=TALK, track=0).df()
    assert sure["p_happy"].to_numpy() == pytest.approx([0.9, 0.9, 0.7])


@pytest.mark.parametrize(
    ("events", "video", "message"),
    [
        (pa.table({"start_s": [0.0], "end_s": [1.0]}), None, "no column video"),
        (pa.table({"at": [0.0]}), "talk.mp4", "need the columns start_s and end_s, or time_s; got at"),
        (pa.table({"time_s": ["soon"]}), "talk.mp4", "numbers of seconds"),
        (pa.table({"time_s": [1.0, float("nan")]}), TALK, "numbers of seconds, got nan"),
        (pa.table({"start_s": [0.0, 5.0], "end_s": [0.0, 2.0]}), TALK, "got an event from 5 to 2 s .event 2"),
        (pa.table({"time_s": [1.0], "video": ["gone.mp4"]}), None, "has no video gone.mp4"),
    ],
    ids=["no video", "no times", "words", "nan", "backward", "unknown"],
)
def test_invalid_events_raise_query_error(
    timeline: Timeline, events: pa.Table, video: str, message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        timeline.join_events(events, video=video)


def test_join_without_events_gives_no_rows(timeline: Timeline) -> None:
    events = pa.table({"time_s": pa.array([], pa.float64())})
    assert timeline.join_events(events, video="talk.mp4").fetchall() == []
