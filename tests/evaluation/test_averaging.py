"""The ten crops of a face: their positions, their scaling, and their mirror images."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fer_batch.evaluation.averaging import ten_crops
from tests.evaluation.faces import images


def test_no_faces_have_ten_empty_views() -> None:
    assert [view.shape for view in ten_crops(images(0))] == [(0, 48, 48)] * 10


def test_views_are_corners_and_centre_with_mirror_images() -> None:
    faces = images(3)
    views = list(ten_crops(faces))
    assert {(view.shape, view.dtype) for view in views} == {((3, 48, 48), np.dtype(np.uint8))}
    for (top, left), straight, mirrored in zip(
        [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)], views[::2], views[1::2], strict=True
    ):
        cut = torch.from_numpy(faces[:, top : top + 44, left : left + 44]).float()
        expected = F.interpolate(cut[:, None], size=(48, 48), mode="bilinear")[:, 0].numpy()
        assert np.abs(straight - expected).max() < 0.51  # rounded
        assert np.array_equal(mirrored, straight[:, :, ::-1])


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_views_of_a_blank_face_equal_the_face(value: int) -> None:
    blank = np.full((1, 48, 48), value, np.uint8)
    assert all(np.array_equal(view, blank) for view in ten_crops(blank))
