"""Planes and colours: what a picture shows is what the image was."""

import numpy as np
import pytest
from PIL import Image

from fer_batch.video.planes import Picture, yuv_to_rgb_matrix

BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


def flat(y: int, u: int, v: int, weights: tuple[float, float], full: bool) -> Picture:
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
def test_known_colours(
    yuv: tuple[int, int, int], weights: tuple[float, float], full: bool, expected: tuple[int, int, int]
) -> None:
    image = flat(*yuv, weights, full).to_rgb()
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 2


def test_an_image_comes_back(sample_frames: list[np.ndarray]) -> None:
    image = sample_frames[0]
    picture = Picture.from_rgb(image)
    assert (picture.width, picture.height, picture.shrink) == (640, 360, 1.0)
    assert np.abs(picture.to_rgb().astype(int) - image).max() <= 3


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 640, 360), (160, 90)), ((100, 40, 420, 220), (80, 45)), ((8, 8, 56, 56), (48, 48))],
)
def test_a_part_is_the_mean_of_what_it_covers(
    sample_frames: list[np.ndarray], box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    image = sample_frames[0]
    part = Picture.from_rgb(image).crop_rgb(box, size)
    assert part.shape == (size[1], size[0], 3)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, box=box))
    assert np.abs(part.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("weights", [BT601, BT709, BT2020])
def test_grey_is_what_rgb_is_without_colour(weights: tuple[float, float]) -> None:
    for full in (True, False):
        for y in (0, 16, 60, 128, 235, 255):
            picture = flat(y, 128, 128, weights, full)
            assert abs(int(picture.to_grey(picture.y)[0, 0]) - int(picture.to_rgb()[0, 0, 1])) <= 1
