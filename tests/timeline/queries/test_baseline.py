"""Baselines of persons and tracks."""

from pathlib import Path

import pytest

from fer_batch.schema import EMOTIONS
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, write_tables
from tests.timeline.queries.helpers import COLUMNS, assert_same_rows
from tests.timeline.videos import GRID_S, TALK, make_track


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
