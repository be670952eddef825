"""Boxes that are proposed on a device for many views, compared with those of the detector on a CPU."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fer_batch.video.planes import Picture
from fer_batch.vision import batched
from fer_batch.vision.batched import propose_boxes
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.track import compute_iou
from fer_batch.vision.views import SearchView, view_picture

MAX_IOU = 0.7
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(min_face=0.15)


@pytest.fixture(scope="module")
def pictures(sample_frames: list[np.ndarray]) -> list[Picture]:
    """Two pictures of one size, and one of another, with odd sides, between them."""
    images = [sample_frames[0], sample_frames[120][:333, :561], sample_frames[120]]
    return [Picture.from_rgb(image) for image in images]


@pytest.fixture(scope="module")
def views(detector: FaceDetector, pictures: list[Picture]) -> list[SearchView]:
    return [view_picture(number, p, None, detector.min_face, 1.0) for number, p in enumerate(pictures)]


def propose(detector: FaceDetector, views: Sequence[SearchView]) -> tuple[Tensor, Tensor]:
    return propose_boxes(views, detector.pnet, detector.rnet, CPU, MAX_IOU)


def test_no_views_have_no_boxes(detector: FaceDetector) -> None:
    boxes, owners = propose(detector, [])
    assert (boxes.shape, boxes.dtype, owners.shape, owners.dtype) == (
        (0, 4),
        torch.float32,
        (0,),
        torch.int64,
    )


@pytest.mark.parametrize("size", [(8, 6), (160, 90)])
def test_blank_and_tiny_views_have_no_boxes(detector: FaceDetector, size: tuple[int, int]) -> None:
    boxes, owners = propose(detector, [SearchView(Image.new("RGB", size), 0, 0, 0, 1, 16, np.inf)] * 2)
    assert (boxes.shape, owners.shape) == ((0, 4), (0,))


def test_faces_are_those_of_the_cpu(
    detector: FaceDetector, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = detector.search(pictures)
    monkeypatch.setattr(detector, "propose", lambda views, _: propose(detector, views))
    for ours, theirs in zip(detector.search(pictures), expected, strict=True):
        assert len(ours) == len(theirs) > 0
        assert compute_iou(ours.boxes, theirs.boxes).max(axis=0).min() > 0.8


def test_boxes_do_not_depend_on_the_other_views(
    detector: FaceDetector, views: list[SearchView], monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, owners = propose(detector, views)
    assert {0, 1, 2} == set(owners.tolist())
    monkeypatch.setattr(batched, "MAX_SCAN_PIXELS", 1)
    monkeypatch.setattr(batched, "MAX_PATCHES", 3)
    for number, view in enumerate(views):
        alone, _ = propose(detector, [view])
        iou = compute_iou(alone.numpy(), boxes[owners == number].numpy())
        assert iou.shape[0] == iou.shape[1]
        assert iou.max(axis=0).min() > 0.99
