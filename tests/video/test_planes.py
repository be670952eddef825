"""Colours of pictures, from images and from decoded frames."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fer_batch.video.planes import Picture, yuv_to_rgb_matrix
from tests.video.helpers import read_segment, to_rgb, write_rotated_video

BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


def make_flat_picture(y: int, u: int, v: int, weights: tuple[float, float], full: bool) -> Picture:
    planes = [Image.new("L", size, value) for size, value in (((8, 6), y), ((4, 3), u), ((4, 3), v))]
    return Picture(
        y=planes[0], u=planes[1], v=planes[2], yuv_to_rgb=yuv_to_rgb_matrix(*weights, full_range=full)
    )


@pytest.mark.parametrize(
    ("yuv", "weights", "full", "expected"),
    [
        ((16, 128, 128), BT601, False, (0, 0, 0)),
        ((235, 128, 128), BT601, False, (255, 255, 255)),
        ((0, 128, 128), BT601, True, (0, 0, 0)),
        ((255, 128, 128), BT709, True, (255, 255, 255)),
        ((81, 90, 240), BT601, False, (255, 0, 0)),
        ((63, 102, 240), BT709, False, (255, 0, 0)),
        ((74, 97, 240), BT2020, False, (255, 0, 0)),
        ((145, 54, 34), BT601, False, (0, 255, 0)),
        ((173, 42, 26), BT709, False, (0, 255, 0)),
        ((41, 240, 110), BT601, False, (0, 0, 255)),
        ((76, 85, 255), BT601, True, (254, 0, 0)),
    ],
)
def test_yuv_becomes_the_expected_rgb(
    yuv: tuple[int, int, int], weights: tuple[float, float], full: bool, expected: tuple[int, int, int]
) -> None:
    image = make_flat_picture(*yuv, weights, full).to_rgb()
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_rgb_image_survives_the_conversion(sample_frames: list[np.ndarray]) -> None:
    image = sample_frames[0]
    picture = Picture.from_rgb(image)
    assert (picture.width, picture.height, picture.shrink) == (640, 360, 1.0)
    assert np.abs(picture.to_rgb().astype(int) - image).max() <= 3


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 640, 360), (160, 90)), ((100, 40, 420, 220), (80, 45)), ((8, 8, 56, 56), (48, 48))],
)
def test_crop_averages_the_covered_area(
    sample_frames: list[np.ndarray], box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    image = sample_frames[0]
    crop = Picture.from_rgb(image).crop_rgb(box, size)
    assert crop.shape == (size[1], size[0], 3)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, box=box))
    assert np.abs(crop.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("weights", [BT601, BT709, BT2020])
def test_grey_equals_rgb_without_colour(weights: tuple[float, float]) -> None:
    for full in (True, False):
        for y in (0, 16, 60, 128, 235, 255):
            picture = make_flat_picture(y, 128, 128, weights, full)
            assert abs(int(picture.to_grey(picture.y)[0, 0]) - int(picture.to_rgb()[0, 0, 1])) <= 1


@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "nv12", "rgb24", "gbrp", "gray", "yuva420p"],
)
def test_pixel_formats_have_the_colours_of_ffmpeg(small_frames: list[np.ndarray], pixels: str) -> None:
    frame = av.VideoFrame.from_ndarray(small_frames[0], format="rgb24").reformat(format=pixels)
    for frame.colorspace, frame.color_range in itertools.product((1, 2, 5, 7), (0, 1, 2)):
        expected = frame.to_ndarray(format="rgb24").astype(int)
        ours = Picture.from_decoded(frame, mirrored=False).to_rgb().astype(int)
        assert np.abs(ours - expected).mean() < 4
        assert np.abs((ours - expected).mean(axis=(0, 1))).max() < 3


@pytest.mark.parametrize("degrees", [0, 90])
def test_picture_is_at_most_1080_pixels_high(
    tmp_path: Path, small_frames: list[np.ndarray], degrees: int
) -> None:
    high = np.ascontiguousarray(np.tile(small_frames[0], (16, 1, 1)))
    frame = read_segment(write_rotated_video(tmp_path / "video.mp4", [high], degrees))[0][0]
    assert (frame.picture.width, frame.picture.height) == (120, 1080)
    assert frame.picture.shrink == pytest.approx(1440 / 1080)
    assert abs(to_rgb(frame).mean() - high.mean()) < 2
