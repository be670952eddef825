"""Baselines, smoothed probabilities and rows on a grid of intervals."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from fer_batch.schema import EMOTIONS
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.sql import TIME_TOLERANCE_S
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, write_tables
from tests.timeline.queries.helpers import COLUMNS, WINDOWS_S, assert_same_rows, list_tracks, select
from tests.timeline.videos import EMPTY, GRID_S, SHOP, TALK, make_track


def test_differences_have_mean_zero(timeline: Timeline) -> None:
    found = timeline.baseline().df()
    differences = found[[f"d_{name}" for name in EMOTIONS]]
    assert differences.to_numpy().sum(axis=1) == pytest.approx(0, abs=1e-6)
    means = differences.groupby(found["uri"] + "/" + found["track_id"].astype(str)).mean()
    assert means.to_numpy() == pytest.approx(0, abs=1e-6)
    ann = found[(found["person"] == "Ann") & (found["time_s"] == 1.0)]
    assert ann["rises"].item() == "sad"
    happy = timeline.to_pandas(video=TALK, track=0)["p_happy"]
    assert ann["d_happy"].item() == pytest.approx(0.05 - happy.mean(), abs=1e-6)


def test_person_has_one_baseline_in_all_videos(tmp_path: Path) -> None:
    videos = {
        "/a.mp4": VideoContent(duration_s=1, moments_s=GRID_S[:5], faces=make_track(0, "hhhhh", 0.1)),
        "/b.mp4": VideoContent(duration_s=1, moments_s=GRID_S[:5], faces=make_track(3, "sssss", 0.1)),
    }
    out = write_tables(tmp_path / "out", videos)
    by_track = open_timeline(out).baseline().df()
    assert by_track["d_happy"].to_numpy() == pytest.approx(0, abs=1e-6)
    assign_by_position(out, ["Ann"])
    by_person = open_timeline(out).baseline().df()
    assert by_person["d_happy"].to_numpy() == pytest.approx([0.325] * 5 + [-0.325] * 5, abs=1e-6)
    assert open_timeline(out).baseline(by="track").df()["d_happy"].abs().max() < 1e-6


@pytest.mark.parametrize("by", ["person", "track"])
def test_baseline_is_mean_of_the_same_face(random_timeline: Timeline, by: str) -> None:
    found = random_timeline.baseline(by).df()
    rows = random_timeline.to_pandas()
    who = rows["uri"] + rows["track_id"].astype(str)
    if by == "person":
        assert rows["person"].nunique() == 2
        who = rows["person"].fillna(who)
    names = [f"d_{name}" for name in EMOTIONS]
    rows[names] = rows[COLUMNS] - rows[COLUMNS].astype(float).groupby(who).transform("mean")
    assert_same_rows(found.drop(columns="rises"), rows)
    assert (found[names].max(axis=1) == [found[f"d_{e}"][k] for k, e in enumerate(found["rises"])]).all()


@settings(max_examples=10, deadline=None)
@given(window_s=WINDOWS_S)
def test_smoothed_rows_are_means_of_rows_around(random_timeline: Timeline, window_s: float) -> None:
    found = random_timeline.smooth(window_s).df()
    parts = []
    for track in list_tracks(random_timeline):
        time_s, probs = track["time_s"].to_numpy(), track[COLUMNS].to_numpy(float)
        near = np.abs(time_s[:, None] - time_s) <= window_s / 2 + TIME_TOLERANCE_S
        track[COLUMNS] = means = (near @ probs) / near.sum(1, keepdims=True)
        parts.append(track.assign(confidence=means.max(1), moments=near.sum(1)))
    assert_same_rows(found.drop(columns="emotion"), pd.concat(parts))
    chosen = found["emotion"].map({name: k for k, name in enumerate(EMOTIONS)}).to_numpy()
    probs = found[COLUMNS].to_numpy()
    assert (probs[np.arange(len(found)), chosen] == probs.max(1)).all()


def test_state_tells_no_face_from_not_analyzed(tmp_path: Path) -> None:
    moments_s = [t for t in GRID_S if not 1.0 <= t < 2.0]
    faces = [*make_track(0, "hhh", 0.1), *make_track(0, "ss", 0.1, first=11)]
    out = write_tables(
        tmp_path / "out", {"/v.mp4": VideoContent(duration_s=4.0, moments_s=moments_s, faces=faces)}
    )
    found = open_timeline(out).resample(0.6).df()
    assert select(open_timeline(out).resample(0.6), "start_s", "state", "frames", "faces") == [
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
    ids=["no faces", "a video", "no person", "tracks", "persons", "a part"],
)
def test_intervals_cover_each_video(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    found = timeline.resample(**options).df()
    who = found["person"].tolist() if "person" in found else [None] * len(found)
    assert list(zip(who, found["start_s"], found["state"], strict=True)) == rows
