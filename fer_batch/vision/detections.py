"""Face detections: arrays for one picture, and one object per face for the public API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LANDMARK_NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Left and right are those of the picture."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A detected face. Coordinates are pixels of the image and may lie outside it."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom."""
    score: float
    """Detector score, 0–1."""
    landmarks: tuple[tuple[float, float], ...]
    """x and y of each of `LANDMARK_NAMES`."""

    def __repr__(self) -> str:
        left, top, right, bottom = self.box
        return f"<Face {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}, score {self.score:.2f}>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON."""
        points = {name: list(point) for name, point in zip(LANDMARK_NAMES, self.landmarks, strict=True)}
        return {"box": list(self.box), "score": self.score, "landmarks": points}


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The faces of one picture, in square pixels whose side is the height of the picture's pixels."""

    boxes: np.ndarray
    """`(n, 4) float32`, xyxy; may extend beyond the picture."""
    scores: np.ndarray
    """`(n,) float32`, 0–1."""
    landmarks: np.ndarray
    """`(n, 5, 2) float32`, x and y of each of `LANDMARK_NAMES`."""

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, selected: np.ndarray) -> "Detections":
        """Select faces by indices or a mask."""
        return Detections(
            boxes=self.boxes[selected], scores=self.scores[selected], landmarks=self.landmarks[selected]
        )

    def sort_by_x(self) -> "Detections":
        return self.take(np.argsort(self.boxes[:, 0], kind="stable"))

    def to_faces(self) -> list[Face]:
        return [
            Face(box=tuple(box), score=score, landmarks=tuple((x, y) for x, y in points))
            for box, score, points in zip(
                self.boxes.tolist(), self.scores.tolist(), self.landmarks.tolist(), strict=True
            )
        ]


NO_FACES = Detections(
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    landmarks=np.zeros((0, 5, 2), np.float32),
)


def join_detections(parts: Sequence[Detections]) -> Detections:
    """Concatenate the faces of all parts in their order."""
    return Detections(
        boxes=np.concatenate([NO_FACES.boxes, *(p.boxes for p in parts)]),
        scores=np.concatenate([NO_FACES.scores, *(p.scores for p in parts)]),
        landmarks=np.concatenate([NO_FACES.landmarks, *(p.landmarks for p in parts)]),
    )
