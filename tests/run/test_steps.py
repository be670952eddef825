"""The duration of sampled frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.run.steps import measure_steps
from tests.runs import measure_video_steps


def grid(first_s: float, count: int, step_s: float) -> list[float]:
    return [first_s + number * step_s for number in range(count)]


THREE_S = grid(0.0, 15, 0.2)
SLOW = grid(0.0, 10, 0.2) + grid(2.0, 8, 2.0) + grid(18.0, 10, 0.2)


@pytest.mark.parametrize(
    ("times_s", "end_s", "expected"),
    [
        (THREE_S, 3.0, [0.2] * 15),
        (THREE_S, 2.84, [0.2] * 14 + [0.04]),
        (THREE_S, 9.0, [0.2] * 15),
        (THREE_S + grid(63.0, 15, 0.2), 66.0, [0.2] * 30),
        (SLOW, 20.0, [0.2] * 10 + [2.0] * 8 + [0.2] * 10),
        (grid(0.0, 6, 2.0), 12.0, [2.0] * 6),
        ([0.0, 0.2, 60.2], 60.4, [0.2, 0.2, 0.2]),
        ([60.0, 120.0, 120.2, 120.4, 120.6, 120.8], 121.0, [0.2] * 6),
        ([0.0], 8.0, [8.0]),
        ([0.0, 5.0], 10.0, [5.0, 5.0]),
        ([1.0, 1.0, 1.2, 1.2, 1.2], 1.4, [0.0, 0.2, 0.0, 0.0, 0.2]),
        ([0.5], 0.4, [0.0]),
        ([], 0.0, []),
    ],
    ids=[
        "even", "end of the read part", "nothing after it", "pause of a minute", "slow section",
        "slow video", "pause before the last frame", "pause after the first", "one frame", "two frames",
        "equal times", "end before the frame", "no frames",
    ],
)  # fmt: skip
def test_steps(times_s: list[float], end_s: float, expected: list[float]) -> None:
    assert measure_video_steps(times_s, end_s) == pytest.approx(expected)


def sample(frames_s: np.ndarray, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the times and numbers of the first frames in the cells of a grid."""
    index = np.flatnonzero(np.diff(np.floor(frames_s * fps + 1e-9), prepend=-1))
    return frames_s[index], index


@pytest.mark.parametrize("frame_rate", [5.5, 6, 7, 8, 9, 11, 12, 13, 14.985, 23.976, 29.97, 59.94])
@pytest.mark.parametrize("fps", [1, 3, 5, 7.5])
def test_rates_that_are_no_multiple_have_no_pauses(frame_rate: float, fps: float) -> None:
    frames_s = np.arange(400) / frame_rate
    sampled_s, index = sample(frames_s, fps)
    steps_s = measure_video_steps(sampled_s.tolist(), 400 / frame_rate, index.tolist(), 400)
    ends_s = sampled_s + steps_s
    assert (ends_s[:-1] == sampled_s[1:]).mean() > 0.99
    assert ends_s == pytest.approx([*sampled_s[1:], 400 / frame_rate], abs=1e-9)


@pytest.mark.parametrize("frame_rate", [7, 12, 23.976, 29.97])
def test_frames_before_a_pause_last(frame_rate: float) -> None:
    """Neither the pause nor the mean frame rate, which the end is computed with, add seconds."""
    frames_s = np.concatenate([np.arange(100), 60 * frame_rate + np.arange(100)]) / frame_rate
    sampled_s, index = sample(frames_s, 5)
    end_s = frames_s[-1] + frames_s[-1] / 200
    ends_s = sampled_s + measure_video_steps(sampled_s.tolist(), end_s, index.tolist(), 200)
    before = np.flatnonzero(sampled_s < 50)[-1]
    assert ends_s[[before, -1]] == pytest.approx([100 / frame_rate, 60 + 100 / frame_rate], abs=1e-9)


gap_lists = st.lists(st.sampled_from([0.0, 0.04, 0.2, 0.21, 0.5, 2.0, 60.0]), max_size=12)


@given(st.lists(gap_lists, max_size=4))
def test_steps_are_those_of_each_video_alone(videos: list[list[float]]) -> None:
    times_s = [np.cumsum([1.0, *gaps]) for gaps in videos]
    end_s = np.array([times[-1] + 0.1 for times in times_s])
    counts = [len(times) for times in times_s]
    number = np.repeat(np.arange(len(videos)), counts)
    index = np.concatenate([np.zeros(0, np.int64), *(5 * np.arange(count) for count in counts)])
    frames = 5 * np.array(counts, np.int64)
    together = measure_steps(number, np.concatenate([np.zeros(0), *times_s]), index, end_s, frames)
    alone = [measure_video_steps(times, end) for times, end in zip(times_s, end_s, strict=True)]
    assert together.tolist() == [step for steps in alone for step in steps]


@given(gap_lists)
def test_frames_never_overlap(gaps: list[float]) -> None:
    times_s = np.cumsum([1.0, *gaps])
    steps_s = np.array(measure_video_steps(times_s.tolist(), times_s[-1] + 0.1))
    assert (steps_s >= 0).all()
    assert (times_s[:-1] + steps_s[:-1] <= times_s[1:] + 1e-9).all()
    assert (times_s + steps_s)[-1] <= times_s[-1] + 0.1 + 1e-9
