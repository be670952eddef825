"""Histograms of the colours of faces, and their distances."""

import numpy as np
import pytest

from fer_batch.video.planes import Picture
from fer_batch.vision.likeness import BINS, describe_faces, measure_distances

MAN, WOMAN = [92, 154, 226, 290], [432, 100, 520, 212]


@pytest.fixture(scope="module")
def pictures(sample_frames: list[np.ndarray]) -> list[Picture]:
    return [Picture.from_rgb(image) for image in sample_frames[:40:5]]


def test_histograms_are_roots_of_shares(pictures: list[Picture]) -> None:
    looks = describe_faces(pictures[0], np.array([MAN, WOMAN]))
    assert (looks.shape, looks.dtype) == ((2, BINS), np.float32)
    assert (looks**2).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert describe_faces(pictures[0], np.zeros((0, 4))).shape == (0, BINS)


def test_face_is_like_itself_and_unlike_another(pictures: list[Picture]) -> None:
    first = describe_faces(pictures[0], np.array([MAN, WOMAN]))
    for picture in pictures:
        distances = measure_distances(first, describe_faces(picture, np.array([MAN, WOMAN])))
        assert distances.shape == (2, 2)
        assert distances.diagonal().max() < 0.2
        assert min(distances[0, 1], distances[1, 0]) > 0.5


@pytest.mark.parametrize(
    "box",
    [[-50, -50, 20, 40], [600, 330, 700, 420], [-900, -900, 1500, 1500], [5000, 10, 5100, 90], [9, 9, 9, 9]],
    ids=["corner", "other corner", "larger than the picture", "outside", "empty"],
)
def test_any_box_has_histograms(pictures: list[Picture], box: list[int]) -> None:
    looks = describe_faces(pictures[0], np.array([box]))
    assert (looks**2).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_pixels_need_not_be_square(pictures: list[Picture], sample_frames: list[np.ndarray]) -> None:
    narrow = Picture.from_rgb(np.ascontiguousarray(sample_frames[0][:, ::2]))
    box = np.array([MAN], float)
    one = describe_faces(pictures[0], box)
    other = describe_faces(narrow, box / [2, 1, 2, 1], pixel_aspect=2.0)
    assert measure_distances(one, other).max() < 0.06
