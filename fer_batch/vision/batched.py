"""Propose faces in many views at once: the pyramid, P-Net, R-Net and NMS stay on the device.

On a GPU, the start of a network and the copy of its result take longer than the work on one view. So views
of equal size are scanned together, and only the boxes that remain after R-Net are copied.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fer_batch.video.planes import Picture
from fer_batch.video.tone import make_tone_table
from fer_batch.vision.mtcnn import (
    LEVEL_MAX_IOU,
    PNET_MIN_SCORE,
    RNET_MIN_SCORE,
    RNET_PX,
    batched_nms,
    bbreg,
    generateBoundingBox,
    rerec,
)
from fer_batch.vision.views import SearchView, list_levels

Network = Callable[[Tensor], Sequence[Tensor]]

MAX_SCAN_PIXELS = 2**24
"""Pixels that are scanned together: 32 views of 960×540. With its maps, P-Net needs about 2 GB for them."""
MAX_PATCHES = 1024
"""Patches per batch of R-Net."""


@torch.inference_mode()
def propose_boxes(
    views: Sequence[SearchView], pnet: Network, rnet: Network, device: torch.device, max_iou: float
) -> tuple[Tensor, Tensor]:
    """Return the square boxes that P-Net and R-Net accept, and the view of each.

    The boxes are `(n, 4) float32` xyxy in pixels of their view, and the indices of the views `(n,) int64`;
    both are on the CPU. `max_iou` is the largest IoU of two boxes of a view that are both kept.
    """
    all_boxes, all_owners = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    for members in _group_views(views):
        first = views[members[0]]
        images = load_images([views[index] for index in members], device)
        levels = list_levels(first.image.size, first.min_face_px, first.max_face_px)
        boxes, owners = _scan_pyramid(images, levels, pnet, max_iou)
        boxes, owners = _check_patches(images, boxes, owners, rnet, max_iou)
        all_boxes.append(boxes.cpu())
        all_owners.append(torch.tensor(members)[owners.cpu()])
    return torch.cat(all_boxes), torch.cat(all_owners)


def _group_views(views: Sequence[SearchView]) -> Iterator[list[int]]:
    """Yield the indices of views of equal size and range, of at most `MAX_SCAN_PIXELS` together."""
    shapes = [(view.image.size, view.min_face_px, view.max_face_px) for view in views]
    for shape in sorted(set(shapes)):
        members = [index for index, other in enumerate(shapes) if other == shape]
        count = max(MAX_SCAN_PIXELS // (shape[0][0] * shape[0][1]), 1)
        yield from (members[first : first + count] for first in range(0, len(members), count))


def load_images(views: Sequence[SearchView], device: torch.device) -> Tensor:
    """Return the RGB images `(n, 3, H, W)`, 0–255, of views of one size."""
    pictures = [view.image for view in views if isinstance(view.image, Picture)]
    if len(pictures) < len(views):
        pixels = torch.from_numpy(np.stack([np.asarray(view.to_rgb()) for view in views]))
        return pixels.to(device).permute(0, 3, 1, 2).float()
    width, height = pictures[0].size
    y, u, v = (
        torch.from_numpy(np.stack([np.asarray(getattr(picture, name)) for picture in pictures])).to(device)
        for name in ("y", "u", "v")
    )
    colours = torch.stack([u, v], dim=1).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    planes = torch.cat([y[:, None], colours[:, :, :height, :width]], dim=1).float()  # (n, 3, H, W)
    matrix = torch.tensor([picture.yuv_to_rgb for picture in pictures], device=device).reshape(-1, 3, 4)
    rgb = torch.einsum("nij,njhw->nihw", matrix[:, :, :3], planes) + matrix[:, :, 3, None, None]
    rgb = _round(rgb).clamp(0, 255)
    for number, picture in enumerate(pictures):
        if (tone := make_tone_table(picture.transfer)) is not None:
            rgb[number] = torch.from_numpy(tone).to(device).float()[rgb[number].long()]
    return rgb


def _scan_pyramid(
    images: Tensor, levels: Sequence[tuple[float, tuple[int, int]]], pnet: Network, max_iou: float
) -> tuple[Tensor, Tensor]:
    """Run P-Net on all levels of images `(n, 3, H, W)`, 0–255; returns square boxes and each one's image."""
    all_boxes = [images.new_zeros(0, 9)]
    all_owners = [torch.zeros(0, dtype=torch.int64, device=images.device)]
    source = images
    for scale, (width, height) in levels:
        while source.shape[3] >= 2 * width and source.shape[2] >= 2 * height:
            source = F.avg_pool2d(source, 2, ceil_mode=True, count_include_pad=False)
            source = _round(source)
        rows = _make_resize_matrix(source.shape[2], height, source.device)
        columns = _make_resize_matrix(source.shape[3], width, source.device)
        shifts, probs = pnet(_normalize(rows @ _round(source @ columns.T)))
        boxes, owners = generateBoundingBox(shifts, probs[:, 1], scale, PNET_MIN_SCORE)
        kept = batched_nms(boxes[:, :4], boxes[:, 4], owners, LEVEL_MAX_IOU)
        all_boxes.append(boxes[kept])
        all_owners.append(owners[kept])
    boxes, owners = torch.cat(all_boxes), torch.cat(all_owners)
    kept = batched_nms(boxes[:, :4], boxes[:, 4], owners, max_iou)
    return correct_boxes(boxes[kept]), owners[kept]


def correct_boxes(boxes: Tensor) -> Tensor:
    """Shift the boxes of P-Net by its corrections, and make them squares, `(n, 4)`.

    A row of `boxes`, `(n, 9)`, is left, top, right, bottom, score and four shifts in sides of the box.
    """
    sides = boxes[:, 2:4] - boxes[:, :2]
    return rerec(boxes[:, :4] + boxes[:, 5:] * sides.repeat(1, 2))


def _check_patches(
    images: Tensor, boxes: Tensor, owners: Tensor, rnet: Network, max_iou: float
) -> tuple[Tensor, Tensor]:
    """Run R-Net on the content of the boxes; returns the accepted and corrected boxes and their images."""
    height, width = images.shape[2:]
    left, top, right, bottom = boxes.trunc().unbind(1)
    left, top = (left.clamp(min=1) - 1).clamp(max=width - 1), (top.clamp(min=1) - 1).clamp(max=height - 1)
    right = torch.maximum(right.clamp(max=width), left + 1)
    bottom = torch.maximum(bottom.clamp(max=height), top + 1)
    pixels = torch.stack([owners.to(boxes.dtype), left, top, right, bottom], dim=1)  # (n, 5)
    sums = F.pad(images, (1, 0, 1, 0)).int().cumsum(2, dtype=torch.int32).cumsum(3, dtype=torch.int32)
    shifts, scores = [boxes.new_zeros(0, 4)], [boxes.new_zeros(0)]
    for part in pixels.split(MAX_PATCHES) if len(pixels) else ():  # the networks refuse empty batches
        part_shifts, probs = rnet(_normalize(_cut_patches(sums, part)))
        shifts.append(part_shifts)
        scores.append(probs[:, 1])
    all_shifts, all_scores = torch.cat(shifts), torch.cat(scores)
    passed = all_scores > RNET_MIN_SCORE
    boxes, owners, all_shifts, all_scores = (part[passed] for part in (boxes, owners, all_shifts, all_scores))
    kept = batched_nms(boxes, all_scores, owners, max_iou)
    return rerec(bbreg(boxes[kept], all_shifts[kept])), owners[kept]


def _cut_patches(sums: Tensor, boxes: Tensor) -> Tensor:
    """Return the content of boxes as patches `(n, 3, RNET_PX, RNET_PX)`, 0–255.

    `sums` `(n, 3, H + 1, W + 1) int32` has the sum of the pixels above and to the left of each corner.
    `boxes` is `(n, 5)`: the image, and whole pixels as xyxy.
    """
    owner, left, top, right, bottom = boxes.unbind(1)
    x0, x1 = _find_sources(left, right, RNET_PX)  # (n, RNET_PX)
    y0, y1 = _find_sources(top, bottom, RNET_PX)
    x0, x1, y0, y1 = x0[:, None], x1[:, None], y0[:, :, None], y1[:, :, None]
    sums, images = sums.permute(0, 2, 3, 1), owner.long()[:, None, None]
    total = sums[images, y1, x1] - sums[images, y0, x1] - sums[images, y1, x0] + sums[images, y0, x0]
    patches = total / ((y1 - y0) * (x1 - x0))[..., None]  # (n, RNET_PX, RNET_PX, 3)
    return patches.permute(0, 3, 1, 2)


def _make_resize_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """Return the matrix `(target, source)` that resizes as Pillow's BOX."""
    first, end = _find_sources(
        torch.zeros(1, device=device), torch.full((1,), float(source), device=device), target
    )
    pixels = torch.arange(source, device=device)[:, None]
    return ((pixels >= first) & (pixels < end)).float().T / (end - first).T


def _find_sources(start: Tensor, end: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Return the first pixel and the end of the pixels that Pillow's BOX averages, each `(n, target) int64`.

    The ranges from `start` to `end`, both `(n,)`, are resized to `target` pixels. Pillow takes each pixel
    whose centre lies in a new pixel, with equal weights.
    """
    step = ((end - start) / target)[:, None].double()
    centres = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * step
    reach = step.clamp(min=1) / 2
    return (centres - reach + 0.5).long(), (centres + reach + 0.5).long()


def _round(pixels: Tensor) -> Tensor:
    """Round pixels as in 8-bit images."""
    return pixels.add(0.5).floor()


def _normalize(pixels: Tensor) -> Tensor:
    """Scale pixels, 0–255, for the networks, channels last."""
    normalized = (_round(pixels) - 127.5) * 0.0078125
    return normalized.contiguous(memory_format=torch.channels_last)
