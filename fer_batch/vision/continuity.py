"""Decide whether a face in the place of an earlier one is the same face."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_batch.video.changes import FrameChanges
from fer_batch.video.planes import Frame
from fer_batch.vision.jumps import WHOLE, measure_jump
from fer_batch.vision.likeness import describe_faces, measure_distances

INTERCEPT = 13.4
NEAR_JUMP_WEIGHT, WHOLE_JUMP_WEIGHT = -4.6, -4.6
"""Weights of the logarithms of the jumps around the face and of the whole picture."""
DISTANCE_WEIGHT = -16.1
"""Weight of the distance of the faces' colours."""
UNKNOWN_JUMP = 3.0
"""Jump that is assumed where no frames can be compared. It leaves the decision to the colours."""
REGION_SIDE = 2.0
"""Side of the region around a face in which a jump is measured, in heights of its box."""


@dataclass(frozen=True, kw_only=True)
class FrameView:
    """The parts of a sampled frame from which faces are recognized in the next frames."""

    looks: np.ndarray
    """`(n, bins) float32` histograms of `describe_faces`."""
    regions: np.ndarray
    """`(n, 4)` regions around the faces, as shares of the picture's width and height."""
    changes: FrameChanges | None

    @classmethod
    def from_frame(cls, frame: Frame, boxes: np.ndarray, pixel_aspect: float) -> "FrameView":
        """Describe the faces with boxes `(n, 4)` in pixels of the frame's picture."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        reach = REGION_SIDE / 2 * (boxes[:, 3:] - boxes[:, 1:2]) / np.array([pixel_aspect, 1])
        size = np.array([frame.picture.width, frame.picture.height] * 2)
        return cls(
            looks=describe_faces(frame.picture, boxes, pixel_aspect),
            regions=np.concatenate([centres - reach, centres + reach], axis=1) / size,
            changes=frame.changes,
        )


def is_other_face(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether faces in one place with these `(bins,)` looks differ by their colours."""
    return _add_up(UNKNOWN_JUMP, UNKNOWN_JUMP, before, after) < 0


def score_continuity(
    look: np.ndarray, view: FrameView, face: int, frames: Sequence[FrameChanges], first: int
) -> float:
    """Return the log odds that a face of the last frame is an earlier face in the same place.

    `look` `(bins,)` describes the earlier face, `frames` are the changes of sampled frames up to that of
    `view`, and `first` is the one after the earlier face. The weights are those of a logistic regression.
    """
    near, whole = (
        measure_jump(frames, first, region) or UNKNOWN_JUMP for region in (view.regions[face], WHOLE)
    )
    return _add_up(near, whole, look, view.looks[face])


def _add_up(near: float, whole: float, before: np.ndarray, after: np.ndarray) -> float:
    distance = float(measure_distances(before[None], after[None]).item())
    return (
        INTERCEPT
        + NEAR_JUMP_WEIGHT * math.log(near)
        + WHOLE_JUMP_WEIGHT * math.log(whole)
        + DISTANCE_WEIGHT * distance
    )
