"""Sharpness and pose, compared with faces of known pose."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.quality import NOSE_DEPTH, NOSE_DROP, estimate_pose_deg, measure_sharpness

HEAD = np.array([[-1, 0, 0], [1, 0, 0], [0, NOSE_DROP, NOSE_DEPTH], [-0.8, 2.2, 0.1], [0.8, 2.2, 0.1]])
"""Eyes, nose and mouth corners of a head of mean shape; y points down and z to the camera."""


def rotate(roll_deg: float, yaw_deg: float, pitch_deg: float, head: np.ndarray = HEAD) -> np.ndarray:
    """Raise, turn and tilt a head; return its five points, `(5, 3)`."""
    roll, yaw, pitch = np.radians([roll_deg, yaw_deg, pitch_deg])
    raised = [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    turned = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    tilted = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    rotated: np.ndarray = head @ (np.array(tilted) @ np.array(turned) @ np.array(raised)).T
    return rotated


def test_no_faces_give_empty_arrays() -> None:
    for result, shape in (
        (measure_sharpness(np.zeros((0, 48, 48), np.uint8)), (0,)),
        (estimate_pose_deg(np.zeros((0, 5, 2), np.float32)), (0, 3)),
    ):
        assert result.shape == shape
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


@settings(deadline=None)
@given(
    roll_deg=st.floats(-179, 179),
    yaw_deg=st.floats(-75, 75),
    pitch_deg=st.floats(-27, 40),
    size=st.floats(5, 500),
    place=st.tuples(st.floats(-999, 999), st.floats(-999, 999)),
)
def test_pose_of_a_mean_head_is_exact_at_any_size_and_place(
    roll_deg: float, yaw_deg: float, pitch_deg: float, size: float, place: tuple[float, float]
) -> None:
    landmarks = rotate(roll_deg, yaw_deg, pitch_deg)[:, :2] * size + place
    result = estimate_pose_deg(landmarks[None])
    assert result.dtype == np.float32
    assert result[0] == pytest.approx([roll_deg, yaw_deg, pitch_deg], abs=0.1)


@settings(deadline=None)
@given(
    yaw_deg=st.floats(-45, 45),
    pitch_deg=st.floats(-10, 20),
    distance=st.floats(18, 100),
    depth=st.floats(-0.1, 0.1),
    drop=st.floats(-0.1, 0.1),
)
def test_pose_of_other_heads_near_the_camera_is_roughly_right(
    yaw_deg: float, pitch_deg: float, distance: float, depth: float, drop: float
) -> None:
    """The unit is half the distance between the eyes: 18 are about 60 cm, and 0.1 are 3 mm."""
    head = HEAD.copy()
    head[2] += (0, drop, depth)
    points = rotate(10, yaw_deg, pitch_deg, head)
    landmarks = points[:, :2] * distance / (distance - points[:, 2:])
    errors_deg = np.abs(estimate_pose_deg(landmarks[None])[0] - [10, yaw_deg, pitch_deg])
    assert (errors_deg < [0.1, 10, 17]).all()


@given(offset=st.floats(-0.1, 0.1), drop=st.floats(0, 4))
def test_head_that_looks_down_is_not_turned(offset: float, drop: float) -> None:
    """With the nose at its lowest place, a small offset to one side is no turn."""
    landmarks = np.array([[[-1, 0], [1, 0], [offset, drop], [-0.8, 2], [0.8, 2]]])
    _, yaw_deg, pitch_deg = estimate_pose_deg(landmarks)[0]
    assert abs(yaw_deg) < 12
    assert pitch_deg > -46


def test_corners_of_the_mouth_do_not_change_the_pose() -> None:
    landmarks = rotate(5, 20, -10)[None, :, :2]
    smile = landmarks.copy()
    smile[0, 3:, 1] -= 0.5
    assert estimate_pose_deg(smile).tolist() == estimate_pose_deg(landmarks).tolist()


def test_portraits_look_into_the_camera(sample_frames: list[np.ndarray]) -> None:
    for face in FaceDetector(min_face=0.2).detect(sample_frames[0]):
        _, yaw_deg, pitch_deg = estimate_pose_deg(np.array([face.landmarks]))[0]
        assert abs(yaw_deg) < 8
        assert abs(pitch_deg) < 12


def test_mirroring_changes_the_signs_of_roll_and_yaw() -> None:
    landmarks = rotate(12, 25, 8)[None, :, :2]
    mirrored = (landmarks * [-1, 1])[:, [1, 0, 2, 4, 3]]
    assert estimate_pose_deg(mirrored) == pytest.approx(estimate_pose_deg(landmarks) * [-1, -1, 1], abs=1e-3)


@pytest.mark.parametrize("nose", [(0, 0), (5, 5), (-1e6, 0), (0, 1e6)])
def test_eyes_in_one_place_give_finite_numbers(nose: tuple[float, float]) -> None:
    landmarks = np.zeros((1, 5, 2), np.float32)
    landmarks[0, 2] = nose
    pose = estimate_pose_deg(landmarks)
    assert np.isfinite(pose).all()
    assert (np.abs(pose) <= [180, 90, 180]).all()
