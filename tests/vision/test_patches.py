"""Patches for R-Net and O-Net, compared with patches that are cut one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from av.video.reformatter import ColorTrc
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_batch.video.planes import Picture
from fer_batch.vision.patches import (
    BATCH_PATCHES,
    clip_to_pixels,
    cut_from_images,
    cut_from_pictures,
    make_batch,
    run_in_batches,
)

SIDE = 24
CPU = torch.device("cpu")


def make_image(width: int, height: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def clip_one(box: np.ndarray, size: tuple[float, float]) -> tuple[float, ...]:
    """Clip as MTCNN does, box by box."""
    x0, y0, x1, y1 = np.trunc(box).tolist()
    left, top = min(max(x0, 1.0) - 1, size[0] - 1), min(max(y0, 1.0) - 1, size[1] - 1)
    return left, top, max(min(x1, size[0]), left + 1), max(min(y1, size[1]), top + 1)


coordinates = st.floats(-500, 2500, width=32)


@settings(deadline=None)
@given(
    boxes=st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates), max_size=5),
    size=st.tuples(st.floats(1, 2000), st.integers(1, 1080)),
)
def test_boxes_are_clipped_to_at_least_one_pixel(
    boxes: list[tuple[float, ...]], size: tuple[float, float]
) -> None:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    clipped = clip_to_pixels(array, np.tile(size, (len(array), 1)))
    assert clipped.shape == (len(array), 4)
    assert clipped.tolist() == [list(clip_one(box, size)) for box in array]
    assert ((clipped[:, :2] >= 0) & (clipped[:, 2:] >= clipped[:, :2] + 1)).all()


def test_no_boxes_give_no_patches() -> None:
    picture = Picture.from_rgb(make_image(40, 30, 0))
    assert cut_from_images([], np.zeros((0, 4)), [], SIDE).shape == (0, SIDE, SIDE, 3)
    assert cut_from_pictures([picture], np.zeros((0, 4)), [], SIDE).shape == (0, SIDE, SIDE, 3)


def test_patches_of_images_equal_single_ones() -> None:
    images = [Image.fromarray(make_image(90, 60, 0)), Image.fromarray(make_image(31, 200, 1))]
    boxes = np.array([[0, 0, 90, 60], [3, 100, 27, 124], [5, 5, 6, 6], [0, 10, 31, 199]], np.float64)
    owners = [0, 1, 0, 1]
    patches = cut_from_images(images, boxes, owners, SIDE)
    for patch, box, owner in zip(patches, boxes, owners, strict=True):
        alone = images[owner].resize((SIDE, SIDE), Image.Resampling.BOX, tuple(box))
        assert np.array_equal(patch, np.asarray(alone))


@pytest.mark.parametrize("transfer", [ColorTrc.UNSPECIFIED, ColorTrc.SMPTE2084])
def test_patches_of_pictures_equal_single_ones(transfer: int) -> None:
    """The second picture has colours of half the size, another matrix and, in one case, HDR."""
    planes = [Image.fromarray(make_image(64, 48, seed)[..., 0]) for seed in (2, 3, 4)]
    pictures = [
        Picture.from_rgb(make_image(120, 90, 0)),
        Picture(y=planes[0].resize((128, 96)), u=planes[1], v=planes[2], yuv_to_rgb=(1.1,) + (0.5,) * 11),
        Picture.from_rgb(make_image(50, 200, 1)),
    ]
    pictures[1] = replace(pictures[1], transfer=transfer)
    boxes = np.array([[0, 0, 120, 90], [3.5, 10, 67.5, 74], [5, 5, 6, 6], [100, 90, 110, 91.5]])
    owners = [0, 1, 2, 1]
    patches = cut_from_pictures(pictures, boxes, owners, SIDE)
    for patch, box, owner in zip(patches, boxes.tolist(), owners, strict=True):
        assert np.array_equal(patch, pictures[owner].crop_rgb(tuple(box), (SIDE, SIDE)))


def test_batch_is_filled_up_with_black_and_normalized() -> None:
    batch = make_batch([np.full((2, 3, 3), 255, np.uint8)], 2, CPU)
    assert batch.shape == (2, 3, 2, 3)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert (batch[0] == 127.5 / 128).all()
    assert (batch[1] == -127.5 / 128).all()


@pytest.mark.parametrize("count", [1, BATCH_PATCHES["cpu"], 2 * BATCH_PATCHES["cpu"] + 1])
def test_outputs_of_batches_are_in_the_order_of_the_patches(count: int) -> None:
    sizes: list[int] = []

    def network(batch: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(batch))
        return [batch[:, 0, 0, 0], batch[:, 0]]

    patches = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    values, maps = run_in_batches(network, patches, CPU)
    assert (values * 128 + 127.5).tolist() == list(range(count))
    assert maps.shape == (count, 1, 1)
    assert min(sizes) >= 2 or count > BATCH_PATCHES["cpu"]
    assert max(sizes) <= BATCH_PATCHES["cpu"]
