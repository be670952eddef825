"""Shares of emotions."""

from typing import Any

import pytest

from fer_batch.schema import EMOTIONS
from fer_batch.timeline.store import Timeline
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


def test_shares_of_a_group_sum_to_one(timeline: Timeline) -> None:
    sums = timeline.shares(by=["track"], every_s=0.6).df().groupby(["uri", "track_id", "start_s"])
    assert sums["share"].sum().to_numpy() == pytest.approx(1)
    assert sums["mean"].sum().to_numpy() == pytest.approx(1)
