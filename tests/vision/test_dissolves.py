"""Dissolves between shots."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.video.changes import FrameChanges
from fer_batch.vision.continuity import FrameView
from fer_batch.vision.dissolves import find_dissolve
from fer_batch.vision.track import Tracker

WHOLE = (0.0, 0.0, 1.0, 1.0)


def scene(seed: int) -> np.ndarray:
    """Return a picture with some large shapes, as points of a frame."""
    shapes = np.random.default_rng(seed).uniform(20, 235, (6, 8))
    return shapes.repeat(6, 0).repeat(8, 1)


def blend(weights: list[float], seed: int = 0) -> list[np.ndarray]:
    before, after = scene(seed), scene(seed + 1)
    return [(before * (1 - weight) + after * weight).astype(np.int16) for weight in weights]


def test_no_frames_have_no_dissolve() -> None:
    assert find_dissolve([], WHOLE) is None


@settings(deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(2, 10))
def test_dissolve_is_found_with_its_middle_as_soon_as_it_has_ended(seed: int, steps: int) -> None:
    weights = [0.0, 0.0, *(step / steps for step in range(1, steps)), 1.0, 1.0]
    found = find_dissolve(blend(weights, seed), WHOLE)
    assert found is not None
    first, middle = found
    assert first == 1
    assert middle - (1 + (steps + 1) // 2) in (0, 1)  # pixels are rounded


@pytest.mark.parametrize(
    "weights",
    [[0.0] * 6, [0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.3, 0.7, 1.0, 0.2], [0.0, 0.5, 0.2, 0.8, 1.0]],
    ids=["still picture", "hard cut", "flash", "unsteady"],
)
def test_other_changes_are_no_dissolve(weights: list[float]) -> None:
    assert find_dissolve(blend(weights), WHOLE) is None


@pytest.mark.parametrize("end", [0.0, 0.3])
def test_fade_of_one_scene_is_no_dissolve(end: float) -> None:
    fade = [(scene(0) * share).astype(np.int16) for share in (*np.linspace(1, end, 5), end)]
    assert find_dissolve(fade, WHOLE) is None


def test_motion_is_no_dissolve() -> None:
    assert find_dissolve([np.roll(scene(0), 8 * n, axis=1).astype(np.int16) for n in range(6)], WHOLE) is None


def test_dissolve_beside_a_region_does_not_count() -> None:
    frames = blend([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    for frame in frames:
        frame[:, :32] = scene(5)[:, :32]
    assert find_dissolve(frames, (0.0, 0.0, 0.5, 1.0)) is None
    assert find_dissolve(frames, (0.5, 0.0, 1.0, 1.0)) is not None


@pytest.mark.parametrize("is_other", [True, False], ids=["other face", "same face"])
def test_track_is_divided_where_another_face_has_half_the_weight(is_other: bool) -> None:
    tracker = Tracker(0.5)
    weights = [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    tracks = []
    for number, (weight, points) in enumerate(zip(weights, blend(weights), strict=True)):
        looks = np.zeros((1, 2), np.float32)
        looks[..., 1] = np.sqrt(weight if is_other else 0)
        looks[..., 0] = np.sqrt(1 - looks[..., 1] ** 2)
        changes = FrameChanges(steps=np.zeros((1, 9, 12), np.float32), points=points)
        view = FrameView(looks=looks, regions=np.array([WHOLE]), changes=changes)
        tracks.append(tracker.update(number / 5, np.array([[0.2, 0.2, 0.4, 0.4]]), view).item())
    corrected = [tracker.correct_track(track, number / 5) for number, track in enumerate(tracks)]
    assert corrected == ([0, 0, 0, 1, 1, 1, 1, 1] if is_other else [0] * 8)
