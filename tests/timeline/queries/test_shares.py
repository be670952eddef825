"""Shares of emotions."""

from math import isnan, nan
from typing import Any

import pytest

from fer_batch.schema import EMOTIONS
from fer_batch.timeline.store import Timeline, open_timeline
from fer_batch.timeline.views import UNSURE_CONFIDENCE
from tests.runs import VideoContent, write_tables
from tests.timeline.queries.helpers import select
from tests.timeline.videos import EMPTY


@pytest.mark.parametrize(
    ("options", "columns", "rows"),
    [
        ({"video": EMPTY}, ["emotion"], []),
        (
            {"video": "shop.mp4"},
            ["emotion", "moments", "seconds", "share", "mean"],
            [("happy", 3, 0.6, 1.0, 0.9)]
            + [(e, 0, 0.0, 0.0, 0.0167) for e in sorted({*EMOTIONS} - {"happy"})],
        ),
        (
            {"by": ["person"], "video": "talk.mp4"},
            ["person", "emotion", "moments"],
            [("Ann", "happy", 7), ("Ann", "sad", 3)]
            + [("Ann", e, 0) for e in sorted({*EMOTIONS} - {"happy", "sad"})]
            + [("Bo", "sad", 7), ("Bo", "happy", 4), ("Bo", "neutral", 1)]
            + [("Bo", e, 0) for e in sorted({*EMOTIONS} - {"happy", "sad", "neutral"})],
        ),
        ({"by": [], "start_s": 0.4, "end_s": 0.8, "track": 0}, ["emotion", "moments"], [("happy", 4)]),
        ({"by": [], "every_s": 1.0, "person": "Ann"}, ["start_s", "moments"], [(0.0, 5), (1.0, 3), (1.0, 2)]),
    ],
    ids=["no faces", "one video", "persons", "an interval", "every second"],
)
def test_shares(timeline: Timeline, options: Any, columns: list[str], rows: list[Any]) -> None:
    found = select(timeline.shares(**options), *columns)
    if options.get("by") == []:
        found = [row for row in found if row[-1]]
    assert found == rows


@pytest.mark.parametrize("unsure", [False, True])
@pytest.mark.parametrize("weigh", ["count", "probability"])
def test_shares_of_a_group_sum_to_one(timeline: Timeline, weigh: str, unsure: bool) -> None:
    shares = timeline.shares(by=["track"], every_s=0.6, weigh=weigh, unsure=unsure).df()
    sums = shares.groupby(["uri", "track_id", "start_s"])
    assert sums["share"].sum().to_numpy() == pytest.approx(1)
    assert sums["mean"].sum().to_numpy() == pytest.approx(1)


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    """Faces with confidences around 0.5, one without a confidence, and one video of only such faces."""
    values = [("happy", 0.9), ("happy", 0.5), ("sad", 0.36), ("happy", 0.24), ("sad", nan)]
    faces = [(track, 0.0, emotion, p, 0.1 * track) for track, (emotion, p) in enumerate(values)]
    step = {"duration_s": 0.2, "moments_s": [0.0]}
    videos = {
        "/a.mp4": VideoContent(**step, faces=faces, columns={4: {"confidence": None}}),
        "/nan.mp4": VideoContent(**step, faces=faces[4:]),
    }
    return open_timeline(write_tables(tmp_path_factory.mktemp("doubtful") / "out", videos))


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [("happy", 3, 0.6), ("sad", 2, 0.4)]),
        ({"weigh": "probability"}, [("happy", 3, 0.82), ("sad", 2, 0.18)]),
        ({"unsure": True}, [("unsure", 3, 0.6), ("happy", 2, 0.4)]),
        ({"unsure": True, "weigh": "probability"}, [("happy", 2, 0.7), ("unsure", 3, 0.3)]),
        ({"min_confidence": UNSURE_CONFIDENCE}, [("happy", 2, 1.0)]),
        ({"min_confidence": UNSURE_CONFIDENCE, "unsure": True}, [("happy", 2, 1.0)]),
    ],
    ids=str,
)
def test_shares_of_doubtful_faces(doubtful: Timeline, options: Any, rows: list[Any]) -> None:
    found = select(doubtful.shares(by=[], video="a.mp4", **options), "emotion", "moments", "share")
    assert [row for row in found if row[1]] == rows
    assert all(row[2] == 0 for row in found if not row[1])
    assert len(found) == len(EMOTIONS) + options.get("unsure", False)


def test_unsure_faces_have_no_mean_but_a_time(doubtful: Timeline) -> None:
    shares = doubtful.shares(by=[], video="a.mp4", unsure=True).df().set_index("emotion")
    assert isnan(shares["mean"]["unsure"])
    assert shares["seconds"]["unsure"] == pytest.approx(0.6)


def test_shares_without_any_weight_are_null(doubtful: Timeline) -> None:
    assert doubtful.shares(by=[], video="nan.mp4", weigh="probability").df()["share"].isna().all()
    assert doubtful.shares(by=[], video="nan.mp4").df()["share"].sum() == 1
