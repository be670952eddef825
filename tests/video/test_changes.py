"""Changes between decoded frames: points of all pixel formats, steps by tile, and changes of light."""

import av
import numpy as np
import pytest

from fer_batch.video.changes import COLUMNS, ROWS, TILE, ChangeMeter, measure_changes, sample_points

RAMP = np.linspace(20, 220, 640).astype(np.uint8)[None, :, None].repeat(360, 0).repeat(3, 2)
"""A grey picture that gets brighter from left to right."""


def frame_of(image: np.ndarray, pixels: str = "yuv420p") -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image)).reformat(format=pixels)


@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuvj444p", "yuv422p10le", "yuv420p12le", "p010le", "nv12", "gray", "gbrp", "gbrp10le"],
)
def test_points_are_brightness_from_0_to_255(pixels: str) -> None:
    points = sample_points(frame_of(RAMP, pixels))
    assert points.shape == (ROWS, COLUMNS)
    assert points[0, 0] == pytest.approx(25, abs=15)
    assert points[-1, -1] == pytest.approx(215, abs=20)
    assert (np.diff(points.astype(int), axis=1) >= -1).all()


@pytest.mark.parametrize("pixels", ["rgb24", "bgra", "yuyv422", "pal8", "monow"])
@pytest.mark.parametrize("size", [(2, 2), (30, 50), (361, 643)])
def test_frames_of_all_kinds_and_sizes_have_points(pixels: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    frame = av.VideoFrame(size[1], size[0], pixels) if pixels == "pal8" else frame_of(image, pixels)
    points = sample_points(frame)
    assert points.shape == (ROWS, COLUMNS)
    assert ((points >= 0) & (points <= 255)).all()


def test_steps_count_all_recorded_frames_since_the_last_sampled_one() -> None:
    meter = ChangeMeter()
    meter.record_points(sample_points(frame_of(RAMP)))
    assert meter.take_changes(0, False).steps.shape == (0, ROWS // TILE, COLUMNS // TILE)
    changed = RAMP.copy()
    changed[:40, :40] = 255
    for image in (RAMP, changed, changed):
        meter.record_points(sample_points(frame_of(image)))
    steps = meter.take_changes(0, False).steps
    assert (steps[:, 0, 0] > 100).tolist() == [False, True, False]
    assert steps[:, 1:, 1:].max() < 2


@pytest.mark.parametrize(
    ("turns", "mirrored", "place"),
    [(0, False, (0, 0)), (1, False, (-1, 0)), (2, False, (-1, -1)), (3, False, (0, -1)), (0, True, (-1, 0))],
)
def test_changes_are_those_of_the_upright_frame(turns: int, mirrored: bool, place: tuple[int, int]) -> None:
    meter = ChangeMeter()
    corner = RAMP.copy()
    corner[:40, :40] = 255
    for image in (RAMP, corner):
        meter.record_points(sample_points(frame_of(image)))
    (step,) = meter.take_changes(turns, mirrored).steps
    assert step.shape == ((9, 16) if turns % 2 == 0 else (16, 9))
    assert step[place] == step.max() > 100


def test_change_of_light_is_no_change() -> None:
    scene = np.random.default_rng(0).integers(30, 150, (1, ROWS, COLUMNS)).astype(np.int16)
    other = np.random.default_rng(1).integers(30, 150, (1, ROWS, COLUMNS)).astype(np.int16)
    assert measure_changes(scene, scene * 5 // 4 + 20).mean() < 1
    assert measure_changes(scene, scene // 2).mean() < 1
    assert measure_changes(scene, other).mean() > 25
    assert measure_changes(scene, 180 - scene).mean() > 25
