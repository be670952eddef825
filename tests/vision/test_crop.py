"""Crops of faces: position, framing, grey values and the edge of the frame."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_batch.config import CROP_SIZE_PX
from fer_batch.video.planes import Picture, yuv_to_rgb_matrix
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.vision.crop import crop_faces


def crop_rgb_faces(
    image: np.ndarray, boxes: np.ndarray, scale: float, pixel_aspect: float = 1.0
) -> np.ndarray:
    return crop_faces(Picture.from_rgb(image), boxes, scale, pixel_aspect)


def make_gradient(height: int = 120, width: int = 200) -> np.ndarray:
    """Return a grey image that brightens by 1 per pixel to the right."""
    row = np.arange(width, dtype=np.uint8)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def make_square(x: float, y: float, side: float) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.zeros((0, 4), np.float32), []])
def test_no_boxes_give_no_crops(boxes: np.ndarray) -> None:
    crops = crop_rgb_faces(make_gradient(), boxes, 0.96)
    assert crops.shape == (0, CROP_SIZE_PX, CROP_SIZE_PX)
    assert crops.dtype == np.uint8


def test_box_of_48_pixels_is_copied_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    crop = crop_rgb_faces(image, np.array([[30, 20, 78, 68]]), 1.0)[0]
    expected = np.asarray(Picture.from_rgb(image).y)[20:68, 30:78]
    assert np.array_equal(crop, expected)


@pytest.mark.parametrize(("factor", "place"), [(2, (17, 31)), (3, (0, 0)), (4, (5, 8))])
def test_larger_face_is_shrunk_to_48_pixels(factor: int, place: tuple[int, int]) -> None:
    pattern = np.kron(np.indices((12, 12)).sum(axis=0) % 2 * 200 + 25, np.ones((4, 4))).astype(np.uint8)
    large = np.kron(pattern, np.ones((factor, factor), np.uint8))
    image = np.zeros((260, 300, 3), np.uint8)
    top, left = place
    image[top : top + len(large), left : left + len(large)] = large[..., None]
    box = np.array([[left, top, left + len(large), top + len(large)]])
    crop = crop_rgb_faces(image, box, 1.0)[0].astype(int)
    assert np.abs(crop - pattern).mean() < 25
    assert np.array_equal(crop > 127, pattern > 127)


@pytest.mark.parametrize("scale", [0.5, 0.96, 1.0, 1.3])
def test_crop_is_centred_and_sized_by_the_height_of_its_box(scale: float) -> None:
    crop = crop_rgb_faces(make_gradient(), np.array([[80, 30, 110, 90]]), scale)[0].astype(float)
    side = 60 * scale
    middle = crop[:, 23:25].mean()
    assert middle == pytest.approx(95 - 0.5, abs=0.75)
    slope = (crop[:, -8:].mean() - crop[:, :8].mean()) / 40
    assert slope == pytest.approx(side / CROP_SIZE_PX, rel=0.05)


@pytest.mark.parametrize("pixel_aspect", [0.5, 1.0, 4 / 3, 2.0])
def test_crop_is_square_on_the_screen(pixel_aspect: float) -> None:
    crop = crop_rgb_faces(make_gradient(), np.array([make_square(100, 60, 60)]), 1.0, pixel_aspect)[0].astype(
        float
    )
    slope = (crop[:, -8:].mean() - crop[:, :8].mean()) / 40
    assert slope == pytest.approx(60 / pixel_aspect / CROP_SIZE_PX, rel=0.05)


def test_anamorphic_picture_gives_the_crop_of_the_displayed_picture(sample_frames: list[np.ndarray]) -> None:
    seen = sample_frames[0]
    stored = np.asarray(Image.fromarray(seen).resize((320, 360), Image.Resampling.BOX))
    box = np.array([[120.0, 80.0, 220.0, 210.0]])
    expected = crop_rgb_faces(seen, box, 0.96)[0].astype(int)
    crop = crop_rgb_faces(stored, box / [2, 1, 2, 1], 0.96, 2.0)[0].astype(int)
    assert np.abs(crop - expected).mean() < 3


def test_crops_are_in_the_order_of_the_boxes() -> None:
    boxes = np.array([make_square(40, 60, 30), make_square(160, 60, 30), make_square(100, 60, 30)])
    together = crop_rgb_faces(make_gradient(), boxes, 1.0)
    apart = np.concatenate([crop_rgb_faces(make_gradient(), boxes[n : n + 1], 1.0) for n in range(3)])
    assert np.array_equal(together, apart)
    assert together.mean(axis=(1, 2)) == pytest.approx([39.5, 159.5, 99.5], abs=1)


def test_grey_is_luma() -> None:
    image = np.zeros((60, 180, 3), np.uint8)
    for channel in range(3):
        image[:, 60 * channel : 60 * channel + 60, channel] = 255
    crops = crop_rgb_faces(image, np.array([make_square(30 + 60 * n, 30, 40) for n in range(3)]), 1.0)
    assert crops[:, 24, 24].tolist() == pytest.approx([76, 150, 29], abs=1)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (make_square(-300, 60, 40), 0),
        (make_square(600, 60, 40), 199),
        (make_square(600, -900, 40), 199),
        (make_square(-300, 900, 40), 0),
        (make_square(-20, 60, 40), 0),
        (make_square(220, 60, 40), 199),
    ],
)
def test_box_outside_the_frame_repeats_the_nearest_edge(box: list[float], expected: int) -> None:
    crop = crop_rgb_faces(make_gradient(), np.array([box]), 1.0)[0]
    assert crop.shape == (CROP_SIZE_PX, CROP_SIZE_PX)
    assert (crop == expected).all()


@pytest.mark.parametrize(
    ("x", "y", "outside"),
    [
        (0, 60, np.s_[:, :22]),
        (200, 60, np.s_[:, 26:]),
        (100, 0, np.s_[:22, :]),
        (100, 120, np.s_[26:, :]),
    ],
)
def test_edge_is_repeated_outside_the_frame(x: float, y: float, outside: tuple) -> None:
    random = np.random.default_rng(1)
    image = np.repeat(random.integers(0, 256, (120, 200, 1), dtype=np.uint8), 3, axis=2)
    crop = crop_rgb_faces(image, np.array([make_square(x, y, 48)]), 1.0)[0]
    padded = np.pad(np.asarray(Picture.from_rgb(image).y), 50, mode="edge")[y + 26 : y + 74, x + 26 : x + 74]
    assert np.array_equal(crop, padded)
    assert crop[outside].size


@settings(deadline=None, max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    corner=st.tuples(st.floats(-150, 150), st.floats(-150, 150)),
    sides=st.tuples(st.floats(0, 150), st.floats(0, 150)),
    scale=st.floats(0.5, 1.5),
    pixel_aspect=st.floats(0.4, 2.5),
)
def test_crop_of_any_box_stays_within_the_grey_range_of_the_frame(
    shape: tuple[int, int],
    corner: tuple[float, float],
    sides: tuple[float, float],
    scale: float,
    pixel_aspect: float,
) -> None:
    image = np.random.default_rng(shape).integers(50, 200, (*shape, 3), dtype=np.uint8)
    box = np.array([[*corner, corner[0] + sides[0], corner[1] + sides[1]]])
    crops = crop_rgb_faces(image, box, scale, pixel_aspect)
    assert crops.shape == (1, CROP_SIZE_PX, CROP_SIZE_PX)
    grey = np.asarray(Picture.from_rgb(image).y)
    assert grey.min() <= crops.min() <= crops.max() <= grey.max()


@settings(deadline=None)
@given(x=st.floats(-30, 230), y=st.floats(-30, 150), side=st.floats(24, 160))
def test_crop_shows_the_content_of_its_box(x: float, y: float, side: float) -> None:
    rows, columns = np.indices((120, 200))
    image = np.repeat((rows * 0.6 + columns * 0.8)[..., None], 3, axis=2).astype(np.uint8)
    crop = crop_rgb_faces(image, np.array([make_square(x, y, side)]), 1.0)[0].astype(float)
    centres = (np.arange(CROP_SIZE_PX) + 0.5) / CROP_SIZE_PX * side - side / 2
    at_y, at_x = np.clip(y + centres - 0.5, 0, 119), np.clip(x + centres - 0.5, 0, 199)
    expected = at_y[:, None] * 0.6 + at_x[None] * 0.8
    assert np.abs(crop - expected).max() < 0.5 * side / CROP_SIZE_PX + 2.5


def test_limited_range_is_expanded_to_full_grey_range() -> None:
    luma = np.repeat(np.array([[0, 16, 17, 125, 235, 255]], np.uint8), 48, axis=0).repeat(48, axis=1)
    colour = Image.new("L", (144, 24), 200)
    limited = Picture(
        y=Image.fromarray(luma),
        u=colour,
        v=colour,
        yuv_to_rgb=yuv_to_rgb_matrix(0.299, 0.114, full_range=False),
    )
    boxes = np.array([make_square(24 + 48 * number, 24, 48) for number in range(6)])
    crops = crop_faces(limited, boxes, 1.0)
    assert crops.max(axis=(1, 2)).tolist() == crops.min(axis=(1, 2)).tolist() == [0, 0, 1, 127, 255, 255]


def test_crop_of_luma_equals_crop_of_the_converted_frame(
    sample_frames: list[np.ndarray], sample: Path
) -> None:
    """The two differ by rounding only."""
    frame = next(iter(SegmentReader(Segment.whole(sample), 5.0)))
    boxes = np.array([[120.0, 80.0, 220.0, 210.0], [-20.0, -10.0, 60.0, 90.0], [600.0, 300.0, 700.0, 420.0]])
    ours = crop_faces(frame.picture, boxes, 0.96).astype(int)
    others = crop_rgb_faces(sample_frames[0], boxes, 0.96).astype(int)
    assert np.abs(ours - others).mean() < 2
    assert np.abs(ours - others).max() < 12
