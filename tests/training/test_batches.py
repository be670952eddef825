"""Training windows that are drawn from clips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.data.clips import Clips
from fer_batch.training.batches import BatchSource, draw_sequences, stretch_clips
from tests.clips import make_clips
from tests.training.examples import make_bars, make_config


def number_clips(lengths: list[int]) -> Clips:
    """Make clips whose first two pixels are the number of the clip and of the frame."""
    clip = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(0)])
    frames = np.zeros((len(clip), 48, 48), np.uint8)
    frames[:, 0, 0], frames[:, 0, 1] = clip, frame
    return make_clips(frames, lengths, classes="abcde", labels=7 * np.arange(len(lengths)) % 5)


def make_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(
    lengths: list[int], chosen: list[int], length: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw windows; return the numbers of clips and frames, `(B, T)` each, and the labels."""
    windows = draw_sequences(number_clips(lengths), np.array(chosen, np.int64), length, make_generator(seed))
    frames, labels = windows.frames, windows.labels
    assert windows.clip_ids.shape == windows.moving.shape == labels.shape
    assert frames.dtype == np.uint8
    assert labels.dtype == np.int64
    assert frames.shape == (*labels.shape, 48, 48)
    return frames[..., 0, 0].astype(int), frames[..., 0, 1].astype(int), labels


@pytest.mark.parametrize("lengths", [[], [1, 3]])
@pytest.mark.parametrize("length", [1, 9])
def test_no_chosen_clips_give_no_windows(lengths: list[int], length: int) -> None:
    source, _, labels = draw(lengths, [], length)
    assert len(source) == len(labels) == 0
    assert 1 <= labels.shape[1] <= length


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(0, 2**31),
    st.data(),
)
def test_labels_belong_to_the_frames(lengths: list[int], length: int, seed: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    source, frame, labels = draw(lengths, chosen, length, seed)
    assert labels.shape[0] == len(chosen)
    assert 1 <= labels.shape[1] <= length
    assert (labels == number_clips(lengths).labels[source]).all()
    assert (frame < np.array(lengths)[source]).all()


def test_windows_have_all_lengths_and_half_are_full() -> None:
    steps = [draw([1, 1], [0], 5, seed)[2].shape[1] for seed in range(200)]
    assert set(steps) == {1, 2, 3, 4, 5}
    assert 90 <= steps.count(5) <= 150


def test_a_window_of_one_frame_has_the_chosen_clip() -> None:
    source, _, _ = draw([1] * 50, list(range(50)), 1)
    assert source[:, 0].tolist() == list(range(50))


def draw_full_windows(lengths: list[int], batch: int, length: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Draw windows of full length that begin with clip 0; return their clips and frames."""
    for seed in range(50):
        source, frame, _ = draw(lengths, [0] * batch, length, seed)
        if source.shape[1] == length:
            return source, frame
    raise AssertionError("no window of full length was drawn")


def test_expressions_last_for_a_while_and_change_in_some_windows() -> None:
    source, _ = draw_full_windows([1] * 200, 2000)
    changes = (np.diff(source, axis=1) != 0).sum(axis=1)
    assert 0.3 < (changes > 0).mean() < 0.6
    assert changes[changes > 0].mean() < 3
    assert (source[changes == 0, 0] == 0).mean() > 0.9  # they have the chosen clip


def test_clips_run_forwards_or_backwards_and_some_frames_are_dropped() -> None:
    source, frame = draw_full_windows([12], 1000)
    assert (source == 0).all()
    steps = np.diff(frame, axis=1)
    rising, falling = (steps >= 0).all(axis=1), (steps <= 0).all(axis=1)
    assert (rising | falling).all()
    assert 0.4 < rising.mean() < 0.6
    assert 0.35 < (np.abs(steps) > 1).any(axis=1).mean() < 0.55
    assert len(np.unique(frame[:, 0])) > 2


def test_a_short_clip_is_stretched_over_the_window() -> None:
    _, frame = draw_full_windows([3], 500)
    assert {tuple(sorted(set(row))) for row in frame.tolist()} >= {(0, 1, 2)}
    assert (np.abs(np.diff(frame, axis=1)) <= 1).all()


def test_windows_depend_on_the_seed_only() -> None:
    first, again, other = (draw([1] * 30, list(range(30)), 9, seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 2**31))
def test_equal_clip_ids_are_the_same_clip_and_clips_of_several_frames_move(
    lengths: list[int], length: int, seed: int
) -> None:
    chosen = np.arange(len(lengths))
    windows = draw_sequences(number_clips(lengths), chosen, length, make_generator(seed))
    source = windows.frames[..., 0, 0].astype(int)
    for clip_numbers, clip_ids in zip(source, windows.clip_ids, strict=True):
        for clip_id in set(clip_ids.tolist()):
            assert len(set(clip_numbers[clip_ids == clip_id].tolist())) == 1
        assert len(set(clip_ids.tolist())) >= len(set(clip_numbers.tolist()))
        assert (np.diff(clip_ids) >= 0).all() or (np.diff(clip_ids) <= 0).all()
    assert (windows.moving == (np.array(lengths)[source] > 1)).all()
    assert windows.moving.dtype == bool


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


@pytest.mark.parametrize(("examples", "world"), [(3, 3), (7, 2), (23, 3), (40, 4)])
def test_workers_get_different_examples_and_the_same_number(examples: int, world: int) -> None:
    bars = make_bars([number % 3 for number in range(examples)])
    taken = []
    for rank in range(world):
        source = BatchSource(make_config(batch_size=4), bars, None, "stills", rank, world)
        drawn = source.draw_epoch(0, torch.Generator().manual_seed(rank))
        taken.append([frame.tobytes() for windows, _ in drawn for frame in windows.frames])
    assert len({len(frames) for frames in taken}) == 1
    assert len(taken[0]) == max(1, examples // world // 4) * min(4, examples // world)
    everything = [frame for frames in taken for frame in frames]
    assert len(set(everything)) == len(everything)
