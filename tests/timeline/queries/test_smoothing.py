"""Smoothed probabilities."""

import numpy as np
import pandas as pd
from hypothesis import given, settings

from fer_batch.schema import EMOTIONS
from fer_batch.timeline.sql import TIME_TOLERANCE_S
from fer_batch.timeline.store import Timeline
from tests.timeline.queries.helpers import COLUMNS, WINDOWS_S, assert_same_rows, list_tracks


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
