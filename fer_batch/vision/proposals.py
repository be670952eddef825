"""Propose faces in views on a CPU: the pyramid, P-Net, R-Net and NMS. See `vision.batched` for GPUs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fer_batch.vision.batched import Network, correct_boxes
from fer_batch.vision.mtcnn import (
    LEVEL_MAX_IOU,
    PNET_MIN_SCORE,
    RNET_MIN_SCORE,
    RNET_PX,
    bbreg,
    nms,
    rerec,
)
from fer_batch.vision.patches import (
    MIN_BATCH_IMAGES,
    clip_to_pixels,
    cut_from_images,
    make_batch,
    run_in_batches,
)
from fer_batch.vision.views import PNET_PX, SearchView, build_pyramid

CPU = torch.device("cpu")
SMALL_LEVEL_PX = 8192
"""Pixels below which a level of the pyramid needs `MIN_BATCH_IMAGES` too (measured on AMD: about 7,000)."""
MAX_BATCH_PX = 2**17
"""Pixels of a level that P-Net scans in one batch, unless one image has more. The maps of a larger batch do
not fit into the cache, and the system clears their memory for each batch: nine images took 1.3 to 1.6 times
as long in one batch as in nine."""


def propose_on_cpu(
    views: Sequence[SearchView], pnet: Network, rnet: Network, max_iou: float
) -> tuple[Tensor, Tensor]:
    """Return the square boxes that P-Net and R-Net accept and their views, see `batched.propose_boxes`."""
    return _run_rnet(views, *_run_pnet(views, pnet, max_iou), rnet, max_iou)


def _run_pnet(views: Sequence[SearchView], pnet: Network, max_iou: float) -> tuple[Tensor, Tensor]:
    """Return square boxes `(n, 4)` in pixels of the views, and the index of each one's view `(n,)`."""
    all_boxes, all_owners = [torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.int64)]
    shapes = [(view.image.size, view.min_face_px, view.max_face_px) for view in views]
    for shape in sorted(set(shapes)):
        members = [index for index, other in enumerate(shapes) if other == shape]
        pyramids = [build_pyramid(views[index]) for index in members]
        for levels in zip(*pyramids, strict=True):
            scale, images = levels[0][0], [np.asarray(image) for _, image in levels]
            pixels = images[0].shape[0] * images[0].shape[1]
            count = max(MAX_BATCH_PX // pixels, 1)
            for first in range(0, len(images), count):
                boxes, places = _scan_level(images[first : first + count], scale, pnet)
                all_boxes.append(boxes)
                all_owners.append(torch.tensor(members)[places + first])
    boxes, owners = torch.cat(all_boxes), torch.cat(all_owners)
    kept = suppress(boxes[:, :4], boxes[:, 4], owners, max_iou)
    return correct_boxes(boxes[kept]), owners[kept]


def _scan_level(images: Sequence[np.ndarray], scale: float, pnet: Network) -> tuple[Tensor, Tensor]:
    """Run P-Net on images of one size.

    Returns boxes as in `correct_boxes`, in pixels of the views, and the index of each one's image.
    """
    height, width = images[0].shape[:2]
    least = MIN_BATCH_IMAGES if height * width < SMALL_LEVEL_PX else 1
    shifts, probs = pnet(make_batch(images, least, CPU))
    scores = probs[: len(images), 1]
    places, rows, columns = (scores >= PNET_MIN_SCORE).nonzero(as_tuple=True)
    corners = 2 * torch.stack([columns, rows], dim=1).float()
    low, high = ((corners + 1) / scale).floor(), ((corners + PNET_PX) / scale).floor()
    found = scores[places, rows, columns]
    boxes = torch.cat([low, high, found[:, None], shifts[places, :, rows, columns]], dim=1)
    kept = suppress(boxes[:, :4], found, places, LEVEL_MAX_IOU)
    return boxes[kept], places[kept]


def _run_rnet(
    views: Sequence[SearchView], boxes: Tensor, owners: Tensor, rnet: Network, max_iou: float
) -> tuple[Tensor, Tensor]:
    """Reject and correct the boxes of `_run_pnet`."""
    if not len(boxes):
        return boxes, owners
    images, places = [view.to_rgb() for view in views], owners.numpy()
    pixels = clip_to_pixels(boxes.numpy(), np.array([image.size for image in images])[places])
    patches = cut_from_images(images, pixels, places.tolist(), RNET_PX)
    shifts, probs = run_in_batches(rnet, patches, CPU)
    passed = probs[:, 1] > RNET_MIN_SCORE
    boxes, owners, shifts, scores = boxes[passed], owners[passed], shifts[passed], probs[passed, 1]
    kept = suppress(boxes, scores, owners, max_iou)
    return rerec(bbreg(boxes[kept], shifts[kept])), owners[kept]


def suppress(boxes: Tensor, scores: Tensor, owners: Tensor, max_iou: float) -> Tensor:
    """Return the indices that non-maximum suppression keeps for each owner, the owners in their order."""
    order, counts = owners.argsort(stable=True), owners.bincount()
    kept = [
        members[nms(boxes[members], scores[members], max_iou)] if len(members) > 1 else members
        for members in order.split(counts[counts > 0].tolist())
    ]
    return torch.cat([order[:0], *kept])
