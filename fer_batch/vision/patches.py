"""Cut the patches that R-Net and O-Net classify, and run a network on all of them in batches.

Each patch is scaled to its place in one image of all patches. So a patch costs no copy and no conversion of
its own.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fer_batch.video.planes import Picture, make_rgb_image, resize_plane

BATCH_PATCHES = {"cpu": 32, "cuda": 1024}
"""Patches per batch of R-Net or O-Net. On a CPU, patches in batches of 512 took 1.6 and 2.4 times as long,
because batches of 32 stay in its cache."""
MIN_BATCH_IMAGES = 2
"""Minimum number of images in the batch of a convolution. A single one rounds differently, and a face must
not depend on its batch."""


def clip_to_pixels(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the whole pixels of boxes inside their images, at least one each, as MTCNN cuts patches.

    `boxes` is `(n, 4)` xyxy, `sizes` `(n, 2)` width and height, the result `(n, 4) float64` xyxy.
    """
    corners, sizes = np.trunc(boxes).astype(np.float64), np.asarray(sizes, np.float64)
    low = np.minimum(np.maximum(corners[:, :2], 1) - 1, sizes - 1)
    high = np.maximum(np.minimum(corners[:, 2:], sizes), low + 1)
    return np.concatenate([low, high], axis=1)


def cut_from_images(
    images: Sequence[Image.Image], boxes: np.ndarray, owners: Sequence[int], side: int
) -> np.ndarray:
    """Return the content of boxes of RGB images, `(n, side, side, 3) uint8`.

    `boxes` is `(n, 4)` xyxy in whole pixels, and `owners` has the index of each box's image.
    """
    patches = Image.new("RGB", (side, side * len(boxes)))
    for place, (box, owner) in enumerate(zip(boxes.tolist(), owners, strict=True)):
        patch = images[owner].resize((side, side), Image.Resampling.BOX, tuple(box))
        patches.paste(patch, (0, side * place))
    return np.array(patches).reshape(-1, side, side, 3)  # torch warns of arrays that are read-only


def cut_from_pictures(
    pictures: Sequence[Picture], boxes: np.ndarray, owners: Sequence[int], side: int
) -> np.ndarray:
    """Return the content of boxes of pictures, `(n, side, side, 3) uint8` RGB, each as `Picture.crop_rgb`.

    `boxes` is `(n, 4)` xyxy in pixels, and `owners` has the index of each box's picture.
    """
    patches = np.empty((len(boxes), side, side, 3), np.uint8)
    members: dict[tuple[tuple[float, ...], int], list[int]] = {}
    for index, owner in enumerate(owners):
        members.setdefault((pictures[owner].yuv_to_rgb, pictures[owner].transfer), []).append(index)
    for (matrix, transfer), indices in members.items():
        planes = [Image.new("L", (side, side * len(indices))) for _ in range(3)]
        for place, index in enumerate(indices):
            picture, box = pictures[owners[index]], tuple(boxes[index].tolist())
            for plane, source in zip(planes, (picture.y, picture.u, picture.v), strict=True):
                patch = resize_plane(source, box, picture.size, (side, side))
                plane.paste(patch, (0, side * place))
        rgb = np.asarray(make_rgb_image(planes, matrix, transfer))
        patches[indices] = rgb.reshape(-1, side, side, 3)
    return patches


def run_in_batches(
    network: Callable[[Tensor], Sequence[Tensor]],
    patches: Sequence[np.ndarray] | np.ndarray,
    device: torch.device,
) -> list[Tensor]:
    """Run a network on patches `(n, side, side, 3) uint8`, at least one; returns its outputs on the CPU."""
    size = BATCH_PATCHES[device.type]
    batches = [patches[first : first + size] for first in range(0, len(patches), size)]
    outputs = [network(make_batch(batch, MIN_BATCH_IMAGES, device)) for batch in batches]
    return [torch.cat(parts).cpu()[: len(patches)] for parts in zip(*outputs, strict=True)]


def make_batch(images: Sequence[np.ndarray] | np.ndarray, min_images: int, device: torch.device) -> Tensor:
    """Return `(h, w, 3) uint8` images as a normalized batch `(n, 3, h, w)`, channels last in memory.

    It is filled up with black images to `min_images`.
    """
    stacked = torch.from_numpy(np.stack(images) if isinstance(images, Sequence) else images)
    missing = max(min_images - len(stacked), 0)
    if missing:
        stacked = torch.cat([stacked, stacked.new_zeros(missing, *stacked.shape[1:])])
    return stacked.to(device).float().sub_(127.5).mul_(0.0078125).permute(0, 3, 1, 2)
