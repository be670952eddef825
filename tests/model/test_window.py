"""Windows of the frames of a track, resampled to a fixed rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.model.card import Card
from fer_batch.model.window import build_windows
from fer_batch.schema import EMOTIONS

RATES_HZ = st.sampled_from([1.0, 3.0, 5.0, 12.5, 30.0])
LENGTHS = st.integers(0, 7).map(lambda half: 2 * half + 1)


@st.composite
def irregular_times(draw: st.DrawFn) -> np.ndarray:
    """Increasing seconds with steps from 1 ms to 9 s, as in phone videos and after lost faces."""
    first = draw(st.integers(0, 100_000))
    steps_ms = draw(
        st.lists(st.one_of(st.integers(1, 60), st.integers(60, 500), st.integers(500, 9000)), max_size=40)
    )
    return np.cumsum([first, *steps_ms]) / 1000


def build_reference(frame: int, times: np.ndarray, rate_hz: float, length: int) -> tuple[list[int], int]:
    """Build one window slot by slot; returns it and the position of its frame."""
    indices, centre = [], 0
    for step in range(-(length // 2), length // 2 + 1):
        slot = times[frame] + step / rate_hz
        nearest = frame if step == 0 else int(np.argmin(np.abs(times - slot)))
        if abs(times[nearest] - slot) <= 0.6 / rate_hz:
            centre = len(indices) if step == 0 else centre
            indices.append(nearest)
    return indices, centre


@pytest.mark.parametrize("length", [1, 9])
def test_no_frames_give_no_windows(length: int) -> None:
    indices, lengths, centres = build_windows(np.zeros(0), 5.0, length)
    assert indices.shape == (0, length)
    assert lengths.shape == centres.shape == (0,)
    assert indices.dtype == lengths.dtype == centres.dtype == np.int64


@pytest.mark.parametrize(
    ("times", "rate_hz", "length", "frame", "indices", "centre"),
    [
        ([3.0], 5.0, 9, 0, [0], 0),
        (np.arange(20) / 5, 5.0, 9, 10, [6, 7, 8, 9, 10, 11, 12, 13, 14], 4),
        (np.arange(20) / 5, 5.0, 9, 0, [0, 1, 2, 3, 4], 0),
        (np.arange(20) / 5, 5.0, 9, 19, [15, 16, 17, 18, 19], 4),
        (np.arange(40) / 10, 5.0, 5, 20, [16, 18, 20, 22, 24], 2),
        (np.arange(9) / 1, 5.0, 9, 4, [4], 0),
        ([0.0, 0.2, 0.4, 1.4, 1.6], 5.0, 9, 2, [0, 1, 2], 2),
        ([0.0, 0.19, 0.41, 0.6], 5.0, 3, 1, [0, 1, 2], 1),
        ([0.0, 0.2, 0.4], 5.0, 1, 1, [1], 0),
    ],
    ids=[
        "alone", "inside", "at the start", "at the end", "twice the rate", "sparse", "a gap", "jitter", "one"
    ],
)  # fmt: skip
def test_known_windows(
    times: list[float], rate_hz: float, length: int, frame: int, indices: list[int], centre: int
) -> None:
    windows, lengths, centres = build_windows(np.asarray(times), rate_hz, length)
    assert windows[frame].tolist() == indices + [-1] * (length - len(indices))
    assert lengths[frame] == len(indices)
    assert centres[frame] == centre


@settings(deadline=None)
@given(irregular_times(), RATES_HZ, LENGTHS)
def test_windows_stay_within_the_half_window_of_the_card(
    times: np.ndarray, rate_hz: float, length: int
) -> None:
    card = Card(classes=EMOTIONS, architecture={}, window_rate_hz=rate_hz, window_length=length)
    indices, _, _ = build_windows(times, rate_hz, length)
    distance = np.where(indices >= 0, np.abs(times[np.maximum(indices, 0)] - times[:, None]), 0)
    assert distance.max() <= card.half_window_s + 1e-9


@settings(deadline=None)
@given(irregular_times(), RATES_HZ, LENGTHS)
def test_each_slot_has_the_nearest_frame(times: np.ndarray, rate_hz: float, length: int) -> None:
    indices, lengths, centres = build_windows(times, rate_hz, length)
    assert indices.shape == (len(times), length)
    for frame, window in enumerate(indices.tolist()):
        expected, centre = build_reference(frame, times, rate_hz, length)
        assert window == expected + [-1] * (length - len(expected))
        assert expected == sorted(expected)
        assert (lengths[frame], centres[frame]) == (len(expected), centre)
        assert window[centre] == frame
        assert window.count(frame) == 1


@settings(deadline=None)
@given(irregular_times(), RATES_HZ, LENGTHS, st.data())
def test_windows_depend_only_on_near_frames(
    times: np.ndarray, rate_hz: float, length: int, data: st.DataObject
) -> None:
    frame = data.draw(st.integers(0, len(times) - 1))
    reach_s = (length // 2 + 1.2) / rate_hz
    near = np.flatnonzero(np.abs(times - times[frame]) <= reach_s)
    whole, lengths, _ = build_windows(times, rate_hz, length)
    part, part_lengths, _ = build_windows(times[near], rate_hz, length)
    here = frame - near[0]
    assert lengths[frame] == part_lengths[here]
    count = lengths[frame]
    assert (whole[frame, :count] == part[here, :count] + near[0]).all()


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 5), st.sampled_from([5.0, 10.0, 15.0, 25.0, 30.0]))
def test_regular_grid_repeats_no_frame(count: int, half: int, fps: float) -> None:
    indices, lengths, _ = build_windows(np.arange(count) / fps, 5.0, 2 * half + 1)
    for row, filled in zip(indices, lengths, strict=True):
        assert (np.diff(row[:filled]) > 0).all()
