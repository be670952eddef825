"""Sharpness, roll and yaw, compared with faces of known pose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from fer_batch.vision.quality import estimate_roll_deg, estimate_yaw, measure_sharpness

FRONTAL = np.array([[-30, -20], [30, -20], [0, 10], [-20, 40], [20, 40]], np.float64)
"""Eyes, nose and mouth corners around the centre of a face."""
NO_LANDMARKS = np.zeros((0, 5, 2), np.float32)


def rotate_frontal(degrees: float) -> np.ndarray:
    """Rotate `FRONTAL` clockwise in the picture, where y points down."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (FRONTAL @ turn.T)[None]


@pytest.mark.parametrize(
    ("measure", "empty"),
    [
        (measure_sharpness, np.zeros((0, 48, 48), np.uint8)),
        (estimate_roll_deg, NO_LANDMARKS),
        (estimate_yaw, NO_LANDMARKS),
    ],
)
def test_no_faces_give_empty_arrays(measure: object, empty: np.ndarray) -> None:
    result = measure(empty)
    assert result.shape == (0,)
    assert result.dtype == np.float32


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_blank_crop_has_sharpness_0(grey: int) -> None:
    assert measure_sharpness(np.full((2, 48, 48), grey, np.uint8)).tolist() == [0, 0]


def test_linear_gradient_has_sharpness_0() -> None:
    assert measure_sharpness(np.tile(np.arange(48, dtype=np.uint8), (1, 48, 1))).tolist() == [0]


def test_blur_reduces_sharpness(sample_frames: list[np.ndarray]) -> None:
    face = Image.fromarray(sample_frames[0]).convert("L").crop((100, 60, 240, 200)).resize((48, 48))
    blurred = [face.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 0.5, 1, 2, 4)]
    values = measure_sharpness(np.stack([np.asarray(image) for image in blurred]))
    assert values.dtype == np.float32
    assert (np.diff(values) < 0).all()
    assert values[-1] < values[0] / 50


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_sharpness_does_not_depend_on_brightness_or_mirroring(seed: int) -> None:
    crop = np.random.default_rng(seed).integers(0, 200, (1, 48, 48), dtype=np.uint8)
    value = measure_sharpness(crop)
    assert value[0] > 0
    for other in (crop + 50, crop[:, :, ::-1], crop[:, ::-1], crop.swapaxes(1, 2)):
        assert measure_sharpness(other) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("degrees", [0, 5, 30, 90, 135, -5, -45, -90])
def test_roll_is_the_clockwise_angle(degrees: float) -> None:
    result = estimate_roll_deg(rotate_frontal(degrees))
    assert result.dtype == np.float32
    assert result[0] == pytest.approx(degrees, abs=1e-3)


@settings(deadline=None)
@given(degrees=st.floats(-179, 179), size=st.floats(0.05, 50), x=st.floats(-999, 999), y=st.floats(-999, 999))
def test_pose_does_not_depend_on_size_or_place(degrees: float, size: float, x: float, y: float) -> None:
    face = rotate_frontal(degrees) * size + [x, y]
    assert estimate_roll_deg(face)[0] == pytest.approx(degrees, abs=0.01)
    assert estimate_yaw(face)[0] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("nose_x", "expected"), [(0, 0), (15, 0.5), (30, 1), (-30, -1), (-45, -1.5), (900, 3), (-900, -3)]
)
@pytest.mark.parametrize("degrees", [0, 40, -100])
def test_yaw_is_the_place_of_the_nose_between_the_eyes(
    nose_x: float, expected: float, degrees: float
) -> None:
    face = FRONTAL.copy()
    face[2, 0] = nose_x
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    result = estimate_yaw((face @ turn.T)[None])
    assert result.dtype == np.float32
    assert result[0] == pytest.approx(expected, abs=1e-4)


def test_mirroring_changes_the_signs_of_roll_and_yaw() -> None:
    face = rotate_frontal(12)
    face[0, 2] += [9, 2]
    mirrored = (face * [-1, 1])[:, [1, 0, 2, 4, 3]]
    assert estimate_roll_deg(mirrored)[0] == pytest.approx(-estimate_roll_deg(face)[0], abs=1e-3)
    assert estimate_yaw(mirrored)[0] == pytest.approx(-estimate_yaw(face)[0], abs=1e-3)


def test_eyes_in_one_place_give_finite_numbers() -> None:
    face = np.zeros((1, 5, 2), np.float32)
    face[0, 2] = [5, 5]
    assert np.isfinite(estimate_roll_deg(face)).all()
    assert np.isfinite(estimate_yaw(face)).all()
