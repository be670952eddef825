"""Peaks of an emotion's probability."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.schema import probability_column
from fer_batch.timeline.sql import TIME_TOLERANCE_S
from fer_batch.timeline.store import Timeline
from tests.timeline.queries.helpers import WINDOWS_S, assert_same_rows, list_tracks, select


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"emotion": "fear"}, []),
        ({"video": "shop.mp4"}, [("happy", 0.4, 0.9)]),
        (
            {"person": "Ann", "emotion": "happy", "distance_s": 0.7},
            [("happy", 0.6, 0.9), ("happy", 1.6, 0.7)],
        ),
        ({"person": "Ann", "emotion": "happy", "distance_s": 5.0}, [("happy", 0.6, 0.9)]),
        ({"person": "Ann", "threshold": 0.8}, [("happy", 0.6, 0.9)]),
    ],
    ids=["none", "equal ones", "near", "far", "threshold"],
)
def test_peaks(timeline: Timeline, options: Any, rows: list[Any]) -> None:
    assert select(timeline.peaks(**options), "emotion", "time_s", "probability") == rows


@settings(max_examples=10, deadline=None)
@given(
    distance_s=WINDOWS_S, emotion=st.sampled_from([None, "angry", "sad"]), threshold=st.sampled_from([0, 0.6])
)
def test_peaks_are_higher_than_rows_around(
    random_timeline: Timeline, distance_s: float, emotion: str | None, threshold: float
) -> None:
    found = random_timeline.peaks(emotion, threshold, distance_s).df()
    parts = []
    for track in list_tracks(random_timeline):
        time_s, name = track["time_s"].to_numpy(), track["emotion"].to_numpy()
        values = track["confidence" if emotion is None else probability_column(emotion)].to_numpy()
        away = time_s - time_s[:, None]
        near = (np.abs(away) <= distance_s + TIME_TOLERANCE_S) & (values >= threshold)
        if emotion is None:
            near &= name == name[:, None]
        beaten = (near & (away < 0) & (values >= values[:, None])).any(1)
        beaten |= (near & (away > 0) & (values > values[:, None])).any(1)
        track = track.assign(probability=values, emotion=emotion or name)
        parts.append(track[~beaten & (values >= threshold)])
    assert_same_rows(found, pd.concat(parts))
