"""Training sequences that are drawn from clips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.data.clips import Clips
from fer_batch.training.sequences import HOLD_S, Windows, draw_sequences, stretch_clips
from tests.clips import make_clips

RATE_HZ = 5.0


def number_clips(lengths: list[int]) -> Clips:
    """Make clips whose first two pixels are the number of the clip and of the frame."""
    clip = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(0)])
    frames = np.zeros((len(clip), 48, 48), np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = clip, frame
    return make_clips(frames, lengths, classes="abcde", labels=7 * np.arange(len(lengths)) % 5)


def make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(lengths: list[int], chosen: list[int], length: int, seed: int = 0) -> Windows:
    windows = draw_sequences(
        number_clips(lengths), np.array(chosen, np.int64), length, RATE_HZ, make_generator(seed)
    )
    shape = windows.labels.shape
    for values in (windows.clip_ids, windows.first_labels, windows.next_labels):
        assert (values.shape, values.dtype) == (shape, np.int64)
    assert (windows.next_shares.shape, windows.next_shares.dtype) == (shape, np.float32)
    assert (windows.moving.shape, windows.moving.dtype) == (shape, bool)
    assert (windows.frames.shape, windows.frames.dtype) == ((*shape, 48, 48), np.uint8)
    return windows


def read_numbers(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Read the numbers of the clips and of their frames, `(B, T)` each; they are mixed in a change."""
    return windows.frames[..., 0, 0].astype(int), windows.frames[..., 0, 1].astype(int)


@pytest.mark.parametrize("lengths", [[], [1, 3]])
@pytest.mark.parametrize("length", [1, 9])
def test_no_chosen_clips_give_no_windows(lengths: list[int], length: int) -> None:
    labels = draw(lengths, [], length).labels
    assert len(labels) == 0
    assert 1 <= labels.shape[1] <= length


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.data(),
)
def test_frames_show_the_clips_of_their_labels(
    lengths: list[int], length: int, seed: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    windows = draw(lengths, chosen, length, seed)
    source, frame = read_numbers(windows)
    assert len(source) == len(chosen)
    assert 1 <= source.shape[1] <= length
    pure = windows.next_shares == 0
    clips = number_clips(lengths)
    assert (windows.labels == clips.labels[source])[pure].all()
    assert (windows.labels == windows.first_labels)[pure].all()
    assert (frame < np.array(lengths)[source])[pure].all()
    assert (windows.moving == (np.array(lengths)[source] > 1))[pure].all()
    following = windows.next_shares > 0.5
    assert (windows.labels == np.where(following, windows.next_labels, windows.first_labels)).all()
    assert ((windows.next_shares >= 0) & (windows.next_shares < 1)).all()
    for numbers, clip_ids, row in zip(source, windows.clip_ids, pure, strict=True):
        for clip_id in set(clip_ids[row].tolist()):
            assert len(set(numbers[row & (clip_ids == clip_id)].tolist())) == 1
        assert (np.diff(clip_ids) >= 0).all() or (np.diff(clip_ids) <= 0).all()


def test_frames_of_a_change_are_mixed_from_both_clips() -> None:
    windows = draw_full_windows([1, 1], 500, length=17)
    assert 0.05 < (windows.next_shares > 0).mean() < 0.4
    clips = make_clips(np.full((2, 48, 48), 100, np.uint8), [1, 1], classes="ab", labels=np.array([0, 1]))
    clips.frames[1] = 200
    windows = draw_sequences(clips, np.zeros(500, np.int64), 17, RATE_HZ, make_generator(1))
    greys = windows.frames[:, :, 0, 0].astype(float)
    first, following = 100.0 + 100 * windows.first_labels, 100.0 + 100 * windows.next_labels
    expected = first + windows.next_shares * (following - first)
    np.testing.assert_allclose(greys, expected, atol=0.51)


def test_windows_have_all_lengths_and_half_are_full() -> None:
    steps = [draw([1, 1], [0], 5, seed).labels.shape[1] for seed in range(200)]
    assert set(steps) == {1, 2, 3, 4, 5}
    assert 90 <= steps.count(5) <= 150


def draw_full_windows(lengths: list[int], batch: int, length: int = 9) -> Windows:
    """Draw windows of full length that begin with clip 0."""
    for seed in range(50):
        windows = draw(lengths, [0] * batch, length, seed)
        if windows.labels.shape[1] == length:
            return windows
    raise AssertionError("no window of full length was drawn")


def test_expressions_have_all_durations_and_last_in_some_windows() -> None:
    windows = draw_full_windows([1] * 200, 2000, length=17)
    ids = windows.clip_ids
    changes = np.abs(np.diff(ids, axis=1)).sum(axis=1)
    assert 0.35 < (changes > 0).mean() < 0.65
    assert (read_numbers(windows)[0][(changes == 0) & (windows.next_shares == 0).all(axis=1)] == 0).all()
    holds = np.concatenate(
        [np.bincount(row - row.min())[1:-1] for row in ids if np.ptp(row) > 1]  # complete ones
    )
    shortest, longest = HOLD_S[0] * RATE_HZ, HOLD_S[1] * RATE_HZ
    assert holds.min() <= shortest
    assert shortest < np.median(holds) < longest / 2


def test_clips_run_forwards_or_backwards_and_some_frames_are_dropped() -> None:
    source, frame = read_numbers(draw_full_windows([12], 1000))
    assert (source == 0).all()
    steps = np.diff(frame, axis=1)
    rising, falling = (steps >= 0).all(axis=1), (steps <= 0).all(axis=1)
    assert (rising | falling).all()
    assert 0.4 < rising.mean() < 0.6
    assert 0.35 < (np.abs(steps) > 1).any(axis=1).mean() < 0.55
    assert len(np.unique(frame[:, 0])) > 2


def test_a_short_clip_is_stretched_over_the_window() -> None:
    _, frame = read_numbers(draw_full_windows([3], 500))
    assert {tuple(sorted(set(row))) for row in frame.tolist()} >= {(0, 1, 2)}
    assert (np.abs(np.diff(frame, axis=1)) <= 1).all()


def test_windows_depend_on_the_seed_only() -> None:
    first, again, other = (draw([1] * 30, list(range(30)), 9, seed).frames for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("frames", "chosen", "length", "expected"),
    [
        (1, [1, 0], 3, [0, 0, 0]),
        (3, [1, 0], 3, [0, 1, 2]),
        (2, [1, 0], 3, [0, 0, 1]),
        (4, [1, 0], 2, [0, 2]),
        (2, [], 3, []),
    ],
)
def test_clips_are_stretched_to_a_length(
    frames: int, chosen: list[int], length: int, expected: list[int]
) -> None:
    windows = stretch_clips(number_clips([frames, frames]), np.array(chosen, np.int64), length)
    assert windows.shape == (len(chosen), length, 48, 48)
    assert windows[:, :, 0, 0].tolist() == [[number] * length for number in chosen]
    assert windows[:, :, 0, 1].tolist() == [expected] * len(chosen)
