"""Timelines on a grid of intervals."""

from pathlib import Path
from typing import Any

import pytest

from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import VideoContent, write_tables
from tests.timeline.queries.helpers import COLUMNS, select
from tests.timeline.videos import EMPTY, GRID_S, SHOP, TALK, make_track


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
