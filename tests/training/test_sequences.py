"""Training sequences: frames and labels belong together, expressions hold for a while, a seed decides."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.data.clips import Clips
from fer_batch.training.sequences import draw_sequences, stretch_clips


def numbered(lengths: list[int]) -> Clips:
    """Clips whose frames say in their first two pixels which clip and which of its frames they are."""
    clip = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(0)])
    frames = np.zeros((len(clip), 48, 48), np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = clip, frame
    count = len(lengths)
    return Clips(
        frames=frames,
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        labels=(7 * np.arange(count) % 5).astype(np.int64),
        splits=np.full(count, "train"),
        classes=("a", "b", "c", "d", "e"),
        votes=np.zeros((count, 5), np.float32),
        subjects=np.full(count, ""),
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(
    lengths: list[int], chosen: list[int], length: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which clip and which of its frames each moment shows `(B, T)`, and the labels."""
    windows = draw_sequences(numbered(lengths), np.array(chosen, np.int64), length, seeded(seed))
    frames, labels = windows.frames, windows.labels
    assert windows.holds.shape == windows.moving.shape == labels.shape
    assert frames.dtype == np.uint8
    assert labels.dtype == np.int64
    assert frames.shape == (*labels.shape, 48, 48)
    return frames[..., 0, 0].astype(int), frames[..., 0, 1].astype(int), labels


@pytest.mark.parametrize("lengths", [[], [1, 3]])
@pytest.mark.parametrize("length", [1, 9])
def test_nothing_chosen_gives_no_windows(lengths: list[int], length: int) -> None:
    source, _, labels = drawn(lengths, [], length)
    assert len(source) == len(labels) == 0
    assert 1 <= labels.shape[1] <= length


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.data(),
)
def test_labels_are_those_of_the_clips_that_are_seen(
    lengths: list[int], length: int, seed: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    source, frame, labels = drawn(lengths, chosen, length, seed)
    assert labels.shape[0] == len(chosen)
    assert 1 <= labels.shape[1] <= length
    assert (labels == numbered(lengths).labels[source]).all()
    assert (frame < np.array(lengths)[source]).all()


def test_all_lengths_of_window_come_up_and_half_are_whole() -> None:
    steps = [drawn([1, 1], [0], 5, seed)[2].shape[1] for seed in range(200)]
    assert set(steps) == {1, 2, 3, 4, 5}
    assert 90 <= steps.count(5) <= 150


def test_a_window_of_one_shows_the_chosen_clip() -> None:
    source, _, _ = drawn([1] * 50, list(range(50)), 1)
    assert source[:, 0].tolist() == list(range(50))


def long_windows(lengths: list[int], batch: int, length: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Sources and frames of the first batch with windows of full length, clip 0 always chosen."""
    for seed in range(50):
        source, frame, _ = drawn(lengths, [0] * batch, length, seed)
        if source.shape[1] == length:
            return source, frame
    raise AssertionError("no window of full length came up")


def test_expressions_hold_for_a_while_and_change_in_some_windows() -> None:
    source, _ = long_windows([1] * 200, 2000)
    changes = (np.diff(source, axis=1) != 0).sum(axis=1)
    assert 0.3 < (changes > 0).mean() < 0.6
    assert changes[changes > 0].mean() < 3


def test_where_nothing_changes_it_is_the_chosen_clip() -> None:
    source, _ = long_windows([1] * 200, 2000)
    held = source[(np.diff(source, axis=1) == 0).all(axis=1)]
    assert (held[:, 0] == 0).mean() > 0.9


def test_a_clip_of_several_frames_runs_on_or_back_and_some_moments_are_dropped() -> None:
    source, frame = long_windows([12], 1000)
    assert (source == 0).all()
    steps = np.diff(frame, axis=1)
    rising, falling = (steps >= 0).all(axis=1), (steps <= 0).all(axis=1)
    assert (rising | falling).all()
    assert 0.4 < rising.mean() < 0.6
    assert 0.35 < (np.abs(steps) > 1).any(axis=1).mean() < 0.55
    assert len(np.unique(frame[:, 0])) > 2


def test_a_clip_is_stretched_over_the_window() -> None:
    _, frame = long_windows([3], 500)
    assert {tuple(sorted(set(row))) for row in frame.tolist()} >= {(0, 1, 2)}
    assert (np.abs(np.diff(frame, axis=1)) <= 1).all()


def test_the_seed_decides() -> None:
    first, again, other = (drawn([1] * 30, list(range(30)), 9, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 2**31))
def test_moments_of_a_hold_show_the_same_clip_and_motion_is_of_several_frames(
    lengths: list[int], length: int, seed: int
) -> None:
    chosen = np.arange(len(lengths))
    windows = draw_sequences(numbered(lengths), chosen, length, seeded(seed))
    source = windows.frames[..., 0, 0].astype(int)
    for shown, holds in zip(source, windows.holds, strict=True):
        for hold in set(holds.tolist()):
            assert len(set(shown[holds == hold].tolist())) == 1
        assert len(set(holds.tolist())) >= len(set(shown.tolist()))
        assert (np.diff(holds) >= 0).all() or (np.diff(holds) <= 0).all()
    assert (windows.moving == (np.array(lengths)[source] > 1)).all()
    assert windows.moving.dtype == bool


@pytest.mark.parametrize(
    ("frames", "length", "shown"),
    [(1, 3, [0, 0, 0]), (3, 3, [0, 1, 2]), (2, 3, [0, 0, 1]), (4, 2, [0, 2])],
)
def test_a_clip_is_stretched_over_a_window(frames: int, length: int, shown: list[int]) -> None:
    windows = stretch_clips(numbered([frames, frames]), np.array([1, 0]), length)
    assert windows.shape == (2, length, 48, 48)
    assert windows[:, :, 0, 0].tolist() == [[1] * length, [0] * length]
    assert windows[:, :, 0, 1].tolist() == [shown, shown]


def test_no_clips_make_no_windows() -> None:
    assert stretch_clips(numbered([2]), np.zeros(0, np.int64), 3).shape == (0, 3, 48, 48)
