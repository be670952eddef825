"""Tasks for Label Studio equal the episodes, and come back as labelled segments."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fer_batch.plotting import pick_colour
from fer_batch.schema import EMOTIONS
from fer_batch.storage.label_studio import read_segments
from fer_batch.timeline.export.label_studio import CONTROL_TAG, VIDEO_TAG
from fer_batch.timeline.queries.events import SEGMENT_SCHEMA, read_events
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, write_tables
from tests.timeline.videos import EMPTY, GRID_S, SHOP, TALK, VIDEOS, make_track

LATE = '/a/<late> & "é".mp4'
"""A video whose first frame is at 0.4 s of the file."""


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    late = VideoContent(duration_s=4.0, moments_s=GRID_S, faces=make_track(0, "hhss", 0.1), start_s=0.4)
    return open_timeline(write_tables(tmp_path_factory.mktemp("tasks") / "run", VIDEOS | {LATE: late}))


def export_tasks(timeline: Timeline, path: Path, *videos: str) -> list[dict[str, Any]]:
    timeline.export(path, videos=videos)
    tasks: list[dict[str, Any]] = json.loads(path.read_text())
    return tasks


def annotate(tasks: list[dict[str, Any]], path: Path) -> Path:
    """Accept all predictions unchanged, as an annotator can, and export them."""
    for task in tasks:
        (prediction,) = task.pop("predictions")
        task["annotations"] = [{"completed_by": 1, "was_cancelled": False, "result": prediction["result"]}]
    path.write_text(json.dumps(tasks))
    return path


def test_task_has_the_format_of_label_studio(timeline: Timeline, tmp_path: Path) -> None:
    (task,) = export_tasks(timeline, tmp_path / "tasks.json", SHOP)
    assert (
        task["data"].items() >= {"video": "/data/local-files/?d=a/shop.mp4", "fps": 25.0, "uri": SHOP}.items()
    )
    (prediction,) = task["predictions"]
    assert prediction["result"] == [
        {
            "id": "r0",
            "from_name": "emotions",
            "to_name": "video",
            "type": "timelinelabels",
            "value": {"ranges": [{"start": 11, "end": 25}], "timelinelabels": ["happy"]},
            "meta": {"text": ["track 0"]},
        }
    ]


def test_run_and_video_without_faces(timeline: Timeline, tmp_path: Path) -> None:
    (task,) = export_tasks(timeline, tmp_path / "tasks.json", EMPTY)
    assert task["predictions"][0]["result"] == []
    (file,) = timeline.export(tmp_path / "all.json", min_s=100)
    assert file.entries == 0
    assert len(json.loads(file.path.read_text())) == len(VIDEOS) + 1
    assert read_events(annotate(json.loads(file.path.read_text()), tmp_path / "a.json")).num_rows == 0


def test_accepted_predictions_come_back_as_the_episodes(timeline: Timeline, tmp_path: Path) -> None:
    path = annotate(export_tasks(timeline, tmp_path / "tasks.json"), tmp_path / "labels.json")
    segments = {
        (s.video, s.face, s.label, round(s.start_s, 6), round(s.end_s, 6)) for s in read_segments(path)
    }
    runs = [(TALK, 0, "happy", 0, 5), (TALK, 0, "sad", 5, 8), (TALK, 0, "happy", 8, 10)]
    runs += [(TALK, 1, "sad", 0, 3), (TALK, 1, "sad", 4, 8), (TALK, 1, "neutral", 8, 9)]
    runs += [
        (TALK, 1, "happy", 9, 13),
        (SHOP, 0, "happy", 2, 5),
        (LATE, 0, "happy", 2, 4),
        (LATE, 0, "sad", 4, 6),
    ]
    assert segments == {
        (uri, f"track {track}", label, round(first / 5, 6), round(after / 5, 6))
        for uri, track, label, first, after in runs
    }


def test_labelled_segments_are_events(timeline: Timeline, tmp_path: Path) -> None:
    path = annotate(export_tasks(timeline, tmp_path / "tasks.json", TALK), tmp_path / "labels.json")
    assert read_events(path).schema == SEGMENT_SCHEMA
    joined = timeline.join_events(path).df()
    alone = joined[(joined["face"] == "track 0") & (joined["label"] == "happy")]
    own = timeline.join_events(path, track=0).df().loc[alone.index]
    assert (own["emotion"] == "happy").all() and own["faces"].tolist() == [5, 2]


def test_documented_configuration_has_the_names_and_classes() -> None:
    guide = files("fer_batch").joinpath("docs/guide/viewing.md").read_text(encoding="utf-8")
    assert f'<TimelineLabels name="{CONTROL_TAG}" toName="{VIDEO_TAG}">' in guide
    assert f'<Video name="{VIDEO_TAG}" value="$video" frameRate="$fps"/>' in guide
    labels = re.findall(r'<Label value="(\w+)" background="(#\w+)"/>', guide)
    assert labels == [(name, pick_colour(name, EMOTIONS)) for name in EMOTIONS]
