"""Jumps between sampled frames: cuts stand out from motion, bars and flashes."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fer_batch.video.changes import COLUMNS, ROWS, TILE, FrameChanges, measure_changes
from fer_batch.vision.jumps import CUT_MIN_JUMP, is_shot_cut, measure_jump

STEPS = 4
LEFT, RIGHT = (0.0, 0.0, 0.45, 1.0), (0.55, 0.0, 1.0, 1.0)


def scene(seed: int) -> np.ndarray:
    """Return a picture of smooth blobs, twice as wide as a frame."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 10)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((2 * COLUMNS, ROWS), Image.Resampling.BICUBIC)
    return np.asarray(image).astype(float)


def pan(seed: int, frames: int, step: int = 1) -> list[np.ndarray]:
    """Return frames of a camera that moves by some points from frame to frame."""
    return [scene(seed)[:, n * step : n * step + COLUMNS].astype(np.int16) for n in range(frames)]


def sampled(frames: list[np.ndarray]) -> list[FrameChanges]:
    """Sample the first and then every `STEPS`th frame."""
    changes = []
    for last in range(0, len(frames), STEPS):
        points = np.stack(frames[max(last - STEPS, 0) : last + 1])
        steps = measure_changes(points[:-1], points[1:])
        tiles = steps.reshape(-1, ROWS // TILE, TILE, COLUMNS // TILE, TILE).mean(axis=(2, 4))
        changes.append(FrameChanges(steps=tiles, points=points[-1]))
    return changes


def between_bars(frames: list[np.ndarray]) -> list[np.ndarray]:
    return [np.where(np.abs(np.arange(COLUMNS) - 31.5) < 11, frame, 16).astype(np.int16) for frame in frames]


def on_blurred_copy(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Show the picture small before an enlarged, blurred copy of itself, as editors fill upright clips."""
    copies = []
    for frame in frames:
        copy = np.kron(frame.reshape(6, 6, 8, 8).mean(axis=(1, 3)), np.ones((6, 8)))
        copy[:, 20:44] = frame[:, 20:44]
        copies.append(copy.astype(np.int16))
    return copies


@pytest.mark.parametrize("frame", [list, between_bars, on_blurred_copy])
@pytest.mark.parametrize("first", [9, 10, 12])
def test_cut_in_motion_is_found_and_motion_is_none(
    frame: Callable[[list[np.ndarray]], list[np.ndarray]], first: int
) -> None:
    changes = sampled(frame(pan(0, first) + pan(1, 21 - first)))
    jumps = [measure_jump(changes[: n + 1], n) or 0 for n in range(1, len(changes))]
    assert [jump >= CUT_MIN_JUMP for jump in jumps] == [False, False, True, False, False]
    assert [is_shot_cut(changes[: n + 1]) for n in range(1, len(changes))] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert max(jumps[:2]) < 2


def test_cut_in_one_half_of_the_picture_counts_there() -> None:
    still, moving = np.concatenate([pan(2, 21, 0), pan(2, 21)]), pan(0, 10) + pan(1, 11)
    for background in (still[:21], still[21:]):
        frames = [np.where(np.arange(COLUMNS) < 32, a, b) for a, b in zip(background, moving, strict=True)]
        changes = sampled([frame.astype(np.int16) for frame in frames])[:4]
        assert (measure_jump(changes, 3, RIGHT) or 0) > CUT_MIN_JUMP
        assert (measure_jump(changes, 3, LEFT) or 0) < 2


def test_flash_between_two_samples_is_no_jump() -> None:
    frames = pan(0, 13)
    frames[10] = np.clip(frames[10] * 3 + 60, 0, 255).astype(np.int16)
    assert (measure_jump(sampled(frames), 3) or 0) < CUT_MIN_JUMP


def test_object_that_appears_in_a_still_picture_is_no_cut() -> None:
    frames = pan(0, 13, 0)
    changed = [frame.copy() for frame in frames]
    for frame in changed[9:]:
        frame[10:20, 30:40] = 255
    assert not is_shot_cut(sampled(changed))


def test_jump_is_unknown_without_other_steps() -> None:
    changes = sampled(pan(0, 9))
    assert measure_jump([], -1) is None
    assert measure_jump(changes[:1], 0) is None
    single = [FrameChanges(steps=item.steps[-1:], points=item.points) for item in changes]
    assert measure_jump(single[:2], 1) is None
    assert not is_shot_cut(changes[:1])
    assert not is_shot_cut([])


def test_rows_and_columns_may_change() -> None:
    """The picture of a call is turned when the telephone is."""
    changes = sampled(pan(0, 13))
    turned = [
        FrameChanges(steps=np.rot90(c.steps, axes=(1, 2)), points=np.rot90(c.points)) for c in changes[2:]
    ]
    assert measure_jump([*changes[:2], *turned], 2, (0.2, 0.2, 0.8, 1.4)) is not None
