"""Follow faces from one sampled frame to the next with O-Net alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fer_batch.video.planes import Frame
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import NO_FACES, Detections, join_detections
from fer_batch.vision.motion import make_thumbnail
from fer_batch.vision.track import compute_iou

SAME_FACE_MIN_IOU = 0.4
"""Minimum IoU of two boxes of one face in one frame."""
FOLLOW_MIN_IOU = 0.3
"""Minimum IoU of a followed face with its expected box."""
SECOND_MIN_SCORE = 0.9
"""Minimum score of a face in O-Net's second attempt. For a lower score, the search around it is better."""
LOST_MAX_IOU = 0.1
"""A face is lost if no face of the frame reaches this IoU with its expected box."""


@dataclass(kw_only=True)
class SampledFrame:
    """A sampled frame and its faces. The faces are added while the frames around it are processed."""

    frame: Frame
    cut: bool
    """Whether a new shot or a picture of another size begins here, so that no face is followed to it."""
    key: bool
    """Whether the whole picture is searched."""
    motion_search: bool = False
    """Whether the region that changed since the key frame before is searched."""
    detected: Detections | None = None
    """Faces of the whole cascade, on key frames."""
    followed: list[Detections] = field(default_factory=list)
    """Faces that were followed to this frame, or detected by a partial search."""
    lost: list[np.ndarray] = field(default_factory=list)
    """Boxes `(n, 4)` of expected faces that are not in the frame."""

    @cached_property
    def thumbnail(self) -> np.ndarray:
        """The `(18, 32) float32` grey thumbnail."""
        return make_thumbnail(self.frame.picture)

    @property
    def faces(self) -> Detections:
        """Each face once, from left to right; detected faces take precedence over followed ones."""
        faces = self.detected or NO_FACES
        for part in self.followed:
            faces = join_detections([faces, part.take(~find_known_faces(part, faces))])
        return faces.sort_by_x()


Walk = tuple[Sequence[SampledFrame], Detections]
"""Frames in the order in which faces are followed through them, and the faces of the frame before."""


def follow_faces(walks: Sequence[Walk], detector: FaceDetector, pixel_aspect: float) -> None:
    """Follow the faces of each walk from frame to frame until they are lost or reach a followed face.

    The results are added to `followed` and `lost` of the frames. One step of all walks is one batch. A face
    is expected to move as in its last step. If O-Net does not confirm the expected box, it tries the box that
    it corrected in the first attempt, and then the cascade searches around the expected box.
    """
    walks = [(frames, faces) for frames, faces in walks if frames and len(faces)]
    shifts = [np.zeros_like(faces.boxes) for _, faces in walks]
    while walks:
        expected = [faces.boxes + shift for (_, faces), shift in zip(walks, shifts, strict=True)]
        next_walks, shifts = [], []
        arrived = _locate_faces([frames[0] for frames, _ in walks], expected, detector, pixel_aspect)
        for (frames, faces), boxes, found in zip(walks, expected, arrived, strict=True):
            frame = frames[0]
            lost = boxes[(compute_iou(boxes, found.boxes) < LOST_MAX_IOU).all(axis=1)]
            if len(lost):
                frame.lost.append(lost)
            found = found.take(~find_known_faces(found, join_detections(frame.followed)))
            found = found.take(_select_best(found))
            if len(found):
                frame.followed.append(found)
                if len(frames) > 1:
                    next_walks.append((frames[1:], found))
                    shifts.append(_measure_shifts(faces.boxes, found.boxes))
        walks = next_walks


def find_known_faces(faces: Detections, others: Detections) -> np.ndarray:
    """Return which faces, `(n,) bool`, are among others of the same frame."""
    return (compute_iou(faces.boxes, others.boxes) >= SAME_FACE_MIN_IOU).sum(axis=1) > 0


def _locate_faces(
    frames: Sequence[SampledFrame], expected: list[np.ndarray], detector: FaceDetector, pixel_aspect: float
) -> list[Detections]:
    """Return the faces at or around the expected boxes `(n, 4)` of each frame."""
    pictures = [frame.frame.picture for frame in frames]
    tried = missing = expected
    located: list[list[Detections]] = [[] for _ in frames]
    for min_score in (detector.min_score, max(detector.min_score, SECOND_MIN_SCORE)):
        refined = detector.refine(pictures, tried, pixel_aspect)
        tried, unconfirmed = [], []
        for parts, boxes, found in zip(located, missing, refined, strict=True):
            iou = compute_iou(boxes, found.boxes).diagonal()
            confirmed = (found.scores >= min_score) & (iou >= FOLLOW_MIN_IOU)
            parts.append(found.take(confirmed))
            tried.append(found.boxes[~confirmed])
            unconfirmed.append(boxes[~confirmed])
        missing = unconfirmed
    near = detector.search_near(pictures, missing, pixel_aspect)
    return [join_detections([*parts, found]) for parts, found in zip(located, near, strict=True)]


def _measure_shifts(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return how far the centres of `(n, 4)` boxes are from the nearest boxes before.

    Growth is left out: with it, O-Net takes an ever larger part of the picture for the face.
    """
    distance = np.abs(after[:, None] - before[None]).sum(axis=2)  # (n, m)
    moved = after - before[distance.argmin(axis=1)]
    return np.tile((moved[:, :2] + moved[:, 2:]) / 2, 2)


def _select_best(faces: Detections) -> np.ndarray:
    """Return which faces, `(n,) bool`, have no higher-scored duplicate."""
    same = compute_iou(faces.boxes, faces.boxes) >= SAME_FACE_MIN_IOU
    rank = np.lexsort((np.arange(len(faces)), -faces.scores)).argsort()
    return (same & (rank[None] < rank[:, None])).sum(axis=1) == 0
