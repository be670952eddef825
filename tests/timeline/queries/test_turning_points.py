"""Turning points from one emotion to another."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.timeline.sql import MAX_GAP_STEPS, TIME_TOLERANCE_S
from fer_batch.timeline.store import Timeline
from tests.timeline.queries.helpers import STEP_S, assert_same_rows, list_tracks, select


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"video": "empty.mp4"}, []),
        ({"video": "shop.mp4"}, []),
        ({"person": "Ann", "min_s": 0.6}, [(1.0, "happy", "sad", 0.0)]),
        ({"person": "Ann", "min_s": 0.4}, [(1.0, "happy", "sad", 0.0), (1.6, "sad", "happy", 0.0)]),
        ({"person": "Ann", "min_s": 1.0}, []),
        ({"person": "Bo", "min_s": 0.5}, [(1.8, "sad", "happy", 0.2)]),
    ],
    ids=["no faces", "one emotion", "a change", "two", "too short", "over a gap and a doubt"],
)
def test_turning_points(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    found = timeline.turning_points(**options)
    assert select(found, "time_s", "before", "after", "gap_s") == rows


@settings(max_examples=10, deadline=None)
@given(min_s=st.sampled_from([0.0, 0.2, 0.4, 1.0]))
def test_turning_points_are_between_long_runs(random_timeline: Timeline, min_s: float) -> None:
    parts = []
    for track in list_tracks(random_timeline):
        time_s, emotion = track["time_s"].to_numpy(), track["emotion"].to_numpy()
        breaks = (emotion[1:] != emotion[:-1]) | (np.diff(time_s) > MAX_GAP_STEPS * STEP_S)
        runs = np.split(np.arange(len(track)), np.flatnonzero(breaks) + 1)
        long = [run for run in runs if time_s[run[-1]] + STEP_S - time_s[run[0]] >= min_s - TIME_TOLERANCE_S]
        for one, other in itertools.pairwise(long):
            if emotion[one[0]] != emotion[other[0]]:
                gap_s = time_s[other[0]] - time_s[one[-1]] - STEP_S
                change = {"before": emotion[one[0]], "after": emotion[other[0]], "gap_s": gap_s}
                parts.append(track.iloc[other[:1]].assign(**change))
    assert_same_rows(random_timeline.turning_points(min_s).df(), pd.concat(parts))
