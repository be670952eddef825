"""Faces in frames, by MTCNN (Zhang et al. 2016, arXiv:1604.02878) as facenet-pytorch ships it with its
weights.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import MTCNN

TALLEST_PX = 1080
"""Higher frames are shrunk to this: the smallest wanted face then still has the pixels that O-Net looks at
(48)."""


CASCADE = (0.5, 0.6, 0.7)
"""Scores that P-Net, R-Net and O-Net each ask for; what is kept is for `min_score` to say. The library's
own 0.6, 0.7, 0.7 lost 2 % of enlarged FER2013 faces and gained no precision."""


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Faces of one frame, in pixels of the frame as given."""

    boxes: np.ndarray
    """`(n, 4) float32`, xyxy; may reach beyond the frame."""
    scores: np.ndarray
    """`(n,) float32`, 0–1."""
    landmarks: np.ndarray
    """`(n, 5, 2) float32`: the face's left-in-picture eye, right-in-picture eye, nose, mouth corners (left,
    right)."""


NO_FACES = Detections(
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    landmarks=np.zeros((0, 5, 2), np.float32),
)


class FaceDetector:
    """Finds faces that score at least `min_score`, looking for sizes from `min_face` of the frame's height.

    Very large frames are shrunk first, and pixels that are not square are made so.
    """

    def __init__(self, min_face: float, min_score: float, device: str = "cpu") -> None:
        self.min_face = min_face
        self.min_score = min_score
        self.device = torch.device(device)
        self.networks = MTCNN(
            keep_all=True, thresholds=list(CASCADE), post_process=False, device=self.device
        ).eval()

    def detect(self, image: np.ndarray, pixel_aspect: float = 1.0) -> Detections:
        """Faces in one `(H, W, 3) uint8` RGB frame whose pixels are `pixel_aspect` times as wide as high.

        One frame at a time, so that a frame's faces never depend on its neighbours in a batch.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, TALLEST_PX / height)
        small_height, small_width = round(height * shrink), round(width * shrink * pixel_aspect)
        smallest = self.min_face * small_height
        if min(small_height, small_width) < max(smallest, 12):
            return NO_FACES
        if (small_height, small_width) != (height, width):
            image = _resize(image, small_height, small_width)
        self.networks.min_face_size = smallest
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ragged arrays of the library
                boxes, scores, landmarks = self.networks.detect(image, landmarks=True)
        except (RuntimeError, ValueError) as error:
            if "non-empty" in str(error) or "stack expects" in str(error):
                # facenet-pytorch's own words where one of its networks refuses every candidate
                return NO_FACES
            raise
        if boxes is None:
            return NO_FACES
        boxes, scores, landmarks = (np.asarray(a, np.float32) for a in (boxes, scores, landmarks))
        keep = scores >= self.min_score
        scale = np.array([width / small_width, height / small_height], np.float32)
        return Detections(
            boxes=boxes[keep] * np.tile(scale, 2), scores=scores[keep], landmarks=landmarks[keep] * scale
        )


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last in memory
    small = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).contiguous().numpy()
