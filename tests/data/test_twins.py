"""Copies of images among other images."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fer_batch.data.twins import IMAGES_PER_BLOCK, find_twins
from tests.datasets import random_images


def draw_faces(count: int, seed: int = 0) -> np.ndarray:
    """Draw smooth random images, in which neighbouring pixels are alike as in photos."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 12, 12), np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((48, 48))) for image in coarse])


def compress(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        compress,
        lambda image: (image * 0.5 + 60).astype(np.uint8),
        lambda image: np.asarray(Image.fromarray(image).resize((40, 40)).resize((48, 48))),
    ],
    ids=["same", "compressed", "brighter", "resized"],
)
def test_copies_are_found_and_other_images_are_not(change: Callable[[np.ndarray], np.ndarray]) -> None:
    images = draw_faces(30)
    copies = np.stack([change(image) for image in images[10:13]])
    assert np.flatnonzero(find_twins(images, np.concatenate([draw_faces(50, 1), copies]))).tolist() == [
        10, 11, 12,
    ]  # fmt: skip


def test_blank_images_have_no_twins() -> None:
    blank = np.stack([np.full((48, 48), grey, np.uint8) for grey in (0, 0, 128, 255)])
    assert not find_twins(blank, np.concatenate([blank, random_images(3)])).any()


def test_images_beyond_the_first_block_are_compared_and_no_images_have_no_twins() -> None:
    images = random_images(IMAGES_PER_BLOCK + 3)
    assert np.flatnonzero(find_twins(images, images[-2:])).tolist() == [len(images) - 2, len(images) - 1]
    assert find_twins(images[:0], images).shape == (0,)
    assert not find_twins(images[:5], images[:0]).any()
