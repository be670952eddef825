"""Shot cuts and changed regions, from thumbnails."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.vision.motion import THUMBNAIL_SHAPE, find_changed_region, is_shot_cut

SCENE = np.tile(np.linspace(40, 200, 32), (18, 1))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (np.zeros((18, 32)), np.zeros((18, 32)), False),
        (SCENE, SCENE, False),
        (SCENE, SCENE + 30, False),
        (SCENE, SCENE * 0.5, False),
        (SCENE * 0.3, SCENE, False),
        (SCENE, SCENE[:, ::-1], True),
        (SCENE, 255 - SCENE, True),
        (SCENE.astype(np.uint8), SCENE.astype(np.uint8), False),
        (SCENE.astype(np.uint8), SCENE[:, ::-1].astype(np.uint8), True),
    ],
)
def test_other_picture_is_a_cut_and_other_light_is_none(
    before: np.ndarray, after: np.ndarray, expected: bool
) -> None:
    assert is_shot_cut(before, after) is expected


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize(
    "where",
    [np.s_[:, :3], np.s_[:, -3:], np.s_[-3:, 6:26], np.s_[:, :6], np.s_[:, -6:]],
    ids=["left tenth", "right tenth", "caption", "left fifth", "right fifth"],
)
def test_object_in_a_still_picture_is_no_cut(where: tuple, grey: int) -> None:
    after = SCENE.copy()
    after[where] = grey
    assert not is_shot_cut(SCENE, after)
    assert not is_shot_cut(after, SCENE)


def test_slow_fade_is_no_cut() -> None:
    fade = [SCENE * (1 - step / 10) for step in (*range(8), *range(7, -1, -1))]
    assert not any(is_shot_cut(before, after) for before, after in itertools.pairwise(fade))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cut_does_not_depend_on_direction(seed: int) -> None:
    before, after = np.random.default_rng(seed).uniform(0, 255, (2, 18, 32))
    assert is_shot_cut(before, after) == is_shot_cut(after, before)
    assert not is_shot_cut(before, before)


def test_camera_noise_is_no_cut() -> None:
    noise = np.random.default_rng(0).normal(0, 10, SCENE.shape)
    assert not is_shot_cut(SCENE, SCENE + noise)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param([], None, id="no change"),
        pytest.param([(5, 6, 10, 11)], [8, 3, 13, 8], id="one cell"),
        pytest.param([(0, 1, 0, 1)], [0, 0, 3, 3], id="corner"),
        pytest.param([(0, 1, 0, 1), (17, 18, 31, 32)], [0, 0, 32, 18], id="two distant cells"),
        pytest.param([(6, 10, 4, 6)], None, id="in the face"),
        pytest.param([(6, 10, 4, 6), (12, 13, 20, 21)], [18, 10, 23, 15], id="in the face and elsewhere"),
    ],
)
def test_changed_region_is_one_box_without_known_faces(
    cells: list[tuple[int, int, int, int]], expected: list[int] | None
) -> None:
    """A cell is 10 pixels; the face covers columns 4 to 6 and rows 7 to 9."""
    before, after = np.zeros((2, *THUMBNAIL_SHAPE), np.float32)
    for top, bottom, left, right in cells:
        after[top:bottom, left:right] = 5.0
    faces = np.array([[40, 70, 60, 90]], np.float32)
    box = find_changed_region(before, after, faces, (320, 180))
    assert (None if box is None else (box / 10).tolist()) == expected
