"""Proposals of faces on a CPU: batches of P-Net, and non-maximum suppression for each view."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_batch.vision import proposals
from fer_batch.vision.detect import PICTURE_MAX_IOU, FaceDetector
from fer_batch.vision.mtcnn import nms
from fer_batch.vision.proposals import suppress
from fer_batch.vision.views import SearchView

corners = st.integers(0, 30)
sides = st.integers(5, 20)
scores = st.floats(0, 1, width=32)


def make_views(frames: list[np.ndarray]) -> list[SearchView]:
    return [SearchView(Image.fromarray(frame), 0, 0.0, 0.0, 1.0, 40.0, np.inf) for frame in frames]


def test_no_view_gives_no_box() -> None:
    boxes, owners = FaceDetector().propose([], PICTURE_MAX_IOU)
    assert boxes.shape == (0, 4)
    assert owners.shape == (0,)


@pytest.mark.parametrize("max_px", [1, 2**16, 2**30])
def test_boxes_do_not_depend_on_the_batches(
    sample_frames: list[np.ndarray], max_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The views have two sizes, and levels above and below the size of small ones."""
    detector = FaceDetector()
    views = make_views([*sample_frames[:60:20], sample_frames[0][:340, :400], sample_frames[9]])
    alone = [detector.propose([view], PICTURE_MAX_IOU)[0] for view in views]
    assert all(len(boxes) for boxes in alone)
    monkeypatch.setattr(proposals, "MAX_BATCH_PX", max_px)
    boxes, owners = detector.propose(views, PICTURE_MAX_IOU)
    for number, expected in enumerate(alone):
        assert torch.equal(boxes[owners == number], expected)


@settings(deadline=None)
@given(faces=st.lists(st.tuples(corners, corners, sides, sides, scores, st.integers(0, 3)), max_size=12))
def test_suppression_is_that_of_each_owner(faces: list[tuple[float, ...]]) -> None:
    rows = torch.tensor(faces, dtype=torch.float32).reshape(-1, 6)
    boxes, owners = torch.cat([rows[:, :2], rows[:, :2] + rows[:, 2:4]], dim=1), rows[:, 5].long()
    expected = []
    for owner in owners.unique():
        members = (owners == owner).nonzero()[:, 0]
        expected += members[nms(boxes[members], rows[members, 4], 0.4)].tolist()
    assert suppress(boxes, rows[:, 4], owners, 0.4).tolist() == expected
