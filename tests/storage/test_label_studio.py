"""Labelled segments are read from exports of Label Studio, and ranges of frames are exact."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.errors import InputError
from fer_batch.storage.label_studio import (
    LabelledSegment,
    format_address,
    number_frames,
    parse_address,
    read_segments,
    time_frames,
)


def region(start: int, end: int, *labels: str, **more: Any) -> dict[str, Any]:
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": list(labels)}
    return {"type": "timelinelabels", "from_name": "emotions", "to_name": "video", "value": value, **more}


def write_tasks(path: Path, *tasks: Any) -> Path:
    path.write_text(json.dumps(list(tasks)))
    return path


def task(*regions: dict[str, Any], fps: Any = 25, **data: Any) -> dict[str, Any]:
    annotation = {"id": 1, "completed_by": 7, "was_cancelled": False, "result": list(regions)}
    return {"id": 1, "data": {"video": "/a/talk.mp4", "fps": fps, **data}, "annotations": [annotation]}


@pytest.mark.parametrize(
    ("start_s", "end_s", "fps", "frames"),
    [
        (0.0, 1.0, 25, (1, 25)),
        (1.0, 1.04, 25, (26, 26)),
        (1.0, 1.0, 25, (26, 26)),
        (0.0, 2.002, 29.97, (1, 60)),
    ],
)
def test_frames_begin_at_one_and_include_the_last(
    start_s: float, end_s: float, fps: float, frames: tuple[int, int]
) -> None:
    assert number_frames(start_s, end_s, fps) == frames


@given(st.integers(1, 200_000), st.integers(1, 5000), st.sampled_from([10, 23.976, 25, 29.97, 59.94, 120]))
def test_frames_equal_their_times_in_milliseconds(first: int, count: int, fps: float) -> None:
    last = first + count - 1
    start_s, end_s = (round(time_s, 3) for time_s in time_frames(first, last, fps))
    assert number_frames(start_s, end_s, fps) == (first, last)
    assert number_frames(end_s, end_s + 1, fps)[0] == last + 1  # the next range adjoins


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("/a b/é#?%.mp4", "/data/local-files/?d=a%20b/%C3%A9%23%3F%25.mp4"),
        ("s3://bucket/talk.mp4", "s3://bucket/talk.mp4"),
        ("https://host/talk.mp4?x=1", "https://host/talk.mp4?x=1"),
    ],
)
def test_address_names_the_video(uri: str, address: str) -> None:
    assert format_address(uri) == address
    assert parse_address(address) == uri


def test_uploaded_video_has_its_file_name() -> None:
    assert parse_address("/data/upload/3/0123abcd-my%20talk.mp4") == "my talk.mp4"


def test_export_without_annotations_has_no_segments(tmp_path: Path) -> None:
    assert read_segments(write_tasks(tmp_path / "a.json")) == []
    unlabelled = {"data": {"video": "/a.mp4"}, "predictions": [{"result": [region(1, 5, "sad")]}]}
    assert read_segments(write_tasks(tmp_path / "a.json", unlabelled)) == []


def test_regions_of_annotations_become_segments(tmp_path: Path) -> None:
    labelled = task(
        region(1, 50, "happy", meta={"text": ["track 2"]}),
        region(51, 51, "sad", "fear"),
        {"type": "choices", "value": {"choices": ["good"]}},
    )
    cancelled = task(region(1, 9, "sad"))
    cancelled["annotations"][0]["was_cancelled"] = True
    uploaded = task(region(3, 4, "sad"), video="/data/upload/1/0123abcd-b.mp4", fps="10")
    uploaded["annotations"][0]["completed_by"] = {"id": 3, "email": "ann@example.org"}
    of = {"video": "/a/talk.mp4", "annotator": "7"}
    assert read_segments(write_tasks(tmp_path / "a.json", labelled, cancelled, uploaded)) == [
        LabelledSegment(start_s=0.0, end_s=2.0, label="happy", face="track 2", **of),
        LabelledSegment(start_s=2.0, end_s=2.04, label="sad", face=None, **of),
        LabelledSegment(start_s=2.0, end_s=2.04, label="fear", face=None, **of),
        LabelledSegment(
            video="b.mp4", start_s=0.2, end_s=0.4, label="sad", face=None, annotator="ann@example.org"
        ),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Cannot read"),
        ("{}", "not an export of Label Studio"),
        ('[{"video": "a.mp4", "emotions": []}]', "not an export of Label Studio"),
        (json.dumps([task(region(1, 2, "sad"), fps=None)]), "task 1: its data has no frame rate"),
        (json.dumps([task(), task({"type": "timelinelabels"})]), "task 2 cannot be read: KeyError"),
        (json.dumps([task(region(1, 2, "sad"), fps="fast")]), "task 1 cannot be read"),
    ],
)
def test_other_files_are_errors(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_segments(tmp_path / "a.json")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        read_segments(tmp_path / "a.json")
