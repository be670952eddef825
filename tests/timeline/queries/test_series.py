"""Timelines made over: corrected, smoothed, on a grid, and beside events."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fer_batch.errors import QueryError
from fer_batch.schema import EMOTIONS, probability_column
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import Seen, write_tables
from tests.timeline.queries.test_questions import nothing, seen, timeline
from tests.timeline.videos import EMPTY, GRID_S, SHOP, TALK, run_of

__all__ = ["nothing", "timeline"]
COLUMNS = [probability_column(name) for name in EMOTIONS]


def test_a_baseline_has_no_mean(timeline: Timeline) -> None:
    found = timeline.baseline().df()
    differences = found[[f"d_{name}" for name in EMOTIONS]]
    assert differences.to_numpy().sum(axis=1) == pytest.approx(0, abs=1e-6)
    means = differences.groupby(found["uri"] + "/" + found["track_id"].astype(str)).mean()
    assert means.to_numpy() == pytest.approx(0, abs=1e-6)
    ann = found[(found["person"] == "Ann") & (found["time_s"] == 1.0)]
    assert ann["rises"].item() == "sad"
    happy = timeline.to_pandas(video=TALK, track=0)["p_happy"]
    assert ann["d_happy"].item() == pytest.approx(0.05 - happy.mean(), abs=1e-6)


def test_a_person_has_one_baseline_in_all_videos(tmp_path: Path) -> None:
    videos = {
        "/a.mp4": Seen(duration_s=1, moments_s=GRID_S[:5], faces=run_of(0, "hhhhh", 0.1)),
        "/b.mp4": Seen(duration_s=1, moments_s=GRID_S[:5], faces=run_of(3, "sssss", 0.1)),
    }
    out = write_tables(tmp_path / "out", videos)
    by_track = open_timeline(out).baseline().df()
    assert by_track["d_happy"].to_numpy() == pytest.approx(0, abs=1e-6)
    assign_by_position(out, ["Ann"])
    by_person = open_timeline(out).baseline().df()
    assert by_person["d_happy"].to_numpy() == pytest.approx([0.325] * 5 + [-0.325] * 5, abs=1e-6)
    assert open_timeline(out).baseline(by="track").df()["d_happy"].abs().max() < 1e-6


@pytest.mark.parametrize("window_s", [0.1, 0.4, 1.0, 100.0])
def test_smoothed_is_the_mean_around(timeline: Timeline, window_s: float) -> None:
    for track in (0, 1):
        rows = timeline.to_pandas(video=TALK, track=track)
        found = timeline.smooth(window_s, video=TALK, track=track).df()
        times, probs = rows["time_s"].to_numpy(), rows[COLUMNS].to_numpy()
        near = np.abs(times[:, None] - times[None]) <= window_s / 2 + 1e-6
        wanted = (near @ probs) / near.sum(1, keepdims=True)
        assert found["time_s"].tolist() == times.tolist()
        assert found[COLUMNS].to_numpy() == pytest.approx(wanted, abs=1e-6)
        assert found["moments"].tolist() == near.sum(1).tolist()
        assert found["confidence"].to_numpy() == pytest.approx(wanted.max(1), abs=1e-6)
        assert found["emotion"].tolist() == [EMOTIONS[k] for k in wanted.argmax(1)]


def test_a_grid_tells_no_face_from_not_looked_at(tmp_path: Path) -> None:
    moments_s = [t for t in GRID_S if not 1.0 <= t < 2.0]
    faces = [*run_of(0, "hhh", 0.1), *run_of(0, "ss", 0.1, first=11)]
    out = write_tables(tmp_path / "out", {"/v.mp4": Seen(duration_s=4.0, moments_s=moments_s, faces=faces)})
    found = open_timeline(out).resample(0.6).df()
    assert seen(open_timeline(out).resample(0.6), "start_s", "state", "frames", "faces") == [
        (0.0, "face", 3, 3),
        (0.6, "no face", 2, 0),
        (1.2, "not analyzed", 0, 0),
        (1.8, "face", 2, 1),
        (2.4, "face", 3, 1),
        (3.0, "no face", 3, 0),
        (3.6, "no face", 2, 0),
    ]
    assert found["emotion"].tolist()[:5:3] == ["happy", "sad"]
    assert found[found["faces"] == 0][["emotion", *COLUMNS]].isna().to_numpy().all()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"video": EMPTY}, [(None, 0.0, "no face")]),
        ({"video": SHOP}, [(None, 0.0, "face"), (None, 1.0, "no face")]),
        ({"video": EMPTY, "by": "person"}, []),
        ({"video": SHOP, "by": "track"}, [(None, 0.0, "face"), (None, 1.0, "no face")]),
        (
            {"video": TALK, "by": "person", "every_s": 2.0},
            [("Ann", 0.0, "face"), ("Ann", 2.0, "no face"), ("Bo", 0.0, "face"), ("Bo", 2.0, "face")],
        ),
        ({"video": TALK, "start_s": 2.2, "end_s": 3.5}, [(None, 2.0, "face"), (None, 3.0, "no face")]),
    ],
    ids=["no faces", "a video", "nobody", "whoever it is", "persons", "a part"],
)
def test_grids(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    found = timeline.resample(**options).df()
    who = found["person"].tolist() if "person" in found else [None] * len(found)
    assert list(zip(who, found["start_s"], found["state"], strict=True)) == rows


def test_events_are_joined_by_time(timeline: Timeline) -> None:
    events = pa.table(
        {
            "video": ["talk.mp4", SHOP, "empty.mp4", "talk.mp4"],
            "start_s": [0.0, 0.0, 0.0, 10.0],
            "end_s": [0.4, 0.4, 9.0, 11.0],
            "emotion": ["a", "b", "c", "d"],
        }
    )
    found = timeline.join_events(events)
    assert seen(found, "video", "event_emotion", "faces") == [
        ("talk.mp4", "a", 4),
        (SHOP, "b", 0),
        ("empty.mp4", "c", 0),
        ("talk.mp4", "d", 0),
    ]
    rows = found.df()
    assert rows["p_happy"][0] == pytest.approx((0.7 + 0.05) / 2)
    assert rows["emotion"].isna().tolist() == [False, True, True, True]
    ann = timeline.join_events(events.drop_columns(["video"]), video="talk.mp4", person="Ann")
    assert seen(ann, "faces", "emotion")[0] == (2, "happy")


def test_an_event_without_an_end_is_of_the_moment_that_stands_for_it(timeline: Timeline) -> None:
    events = pa.table({"time_s": [0.0, 0.19, 0.2, 0.59, 3.99, 7.0]})
    found = timeline.join_events(events, video=TALK, track=0)
    assert seen(found, "faces") == [(1,), (1,), (1,), (1,), (0,), (0,)]
    sure = timeline.join_events(pa.table({"time_s": [0.6, 0.79, 0.81]}), video=TALK, track=0).df()
    assert sure["p_happy"].to_numpy() == pytest.approx([0.9, 0.9, 0.7])


@pytest.mark.parametrize(
    ("events", "video", "message"),
    [
        (pa.table({"start_s": [0.0], "end_s": [1.0]}), None, "no column video"),
        (pa.table({"at": [0.0]}), "talk.mp4", "need the columns start_s and end_s, or time_s; got at"),
        (pa.table({"time_s": ["soon"]}), "talk.mp4", "numbers of seconds"),
        (
            pa.table({"start_s": [0.0, 5.0], "end_s": [0.0, 2.0]}),
            TALK,
            "got an event from 5 to 2 s .event 2",
        ),
        (pa.table({"time_s": [1.0], "video": ["gone.mp4"]}), None, "has no video gone.mp4"),
    ],
    ids=["no video", "no times", "words", "backward", "unknown"],
)
def test_events_that_cannot_be_placed(timeline: Timeline, events: pa.Table, video: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        timeline.join_events(events, video=video)


def test_no_events(timeline: Timeline) -> None:
    events = pa.table({"time_s": pa.array([], pa.float64())})
    assert timeline.join_events(events, video="talk.mp4").fetchall() == []
