"""Assign the faces of successive frames to tracks by their overlap."""

import numpy as np

GROWTH = 1.5
"""Factor by which boxes are enlarged before they are compared. A face that moves by its own width between two
frames, as walking people do at 5 frames a second, then still overlaps its last box."""
MIN_IOU = 0.12
"""Minimum IoU of the enlarged boxes of one track."""
MAX_HEIGHT_RATIO = 2.5
"""Largest change of a face's height from one frame to the next, as a factor."""


class Tracker:
    """Assign the faces of each frame to tracks, numbered from 0.

    A face is compared with every track that was seen in the last `max_gap_s` seconds, at the track's last box
    and at that box moved on with its last speed. The assignment has the largest total IoU (Kuhn 1955). So a
    track depends on nothing older than its last two boxes and its live neighbours.
    """

    def __init__(self, max_gap_s: float) -> None:
        self.max_gap_s = max_gap_s
        self.next_id = 0
        self.end_tracks()

    def end_tracks(self) -> None:
        """End every track, at a shot cut."""
        self.ids = np.zeros(0, np.int64)
        self.boxes = np.zeros((0, 4), np.float64)
        self.speeds = np.zeros((0, 4), np.float64)
        """Pixels per second, the same for both corners."""
        self.seen_s = np.zeros(0, np.float64)

    def update(self, time_s: float, boxes: np.ndarray) -> np.ndarray:
        """Return the tracks, `(n,) int64`, of the `(n, 4)` boxes of a later frame, in square pixels."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        live = time_s - self.seen_s <= self.max_gap_s + 1e-4
        self.ids, self.boxes = self.ids[live], self.boxes[live]
        self.speeds, self.seen_s = self.speeds[live], self.seen_s[live]
        tracks = np.full(len(boxes), -1, np.int64)
        elapsed_s = time_s - self.seen_s
        scores = self._compare(self.boxes + self.speeds * elapsed_s[:, None], boxes)
        for track, face in match_tracks(scores):
            if scores[track, face] > 0:
                tracks[face] = self.ids[track]
                shift = _compute_centre(boxes[face]) - _compute_centre(self.boxes[track])
                self.speeds[track] = np.tile(shift / max(elapsed_s[track], 1e-9), 2)
                self.boxes[track], self.seen_s[track] = boxes[face], time_s
        new = np.flatnonzero(tracks < 0)
        tracks[new] = self.next_id + np.arange(len(new))
        self.next_id += len(new)
        self.ids = np.concatenate([self.ids, tracks[new]])
        self.boxes = np.concatenate([self.boxes, boxes[new]])
        self.speeds = np.concatenate([self.speeds, np.zeros((len(new), 4))])
        self.seen_s = np.concatenate([self.seen_s, np.full(len(new), time_s)])
        return tracks

    def _compare(self, expected: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the IoU of each live track and each box, `(tracks, n)`; 0 where they cannot match."""
        enlarged = _enlarge(boxes)
        iou = np.maximum(
            compute_iou(_enlarge(self.boxes), enlarged), compute_iou(_enlarge(expected), enlarged)
        )
        old, new = (np.maximum(b[:, 3] - b[:, 1], 1e-9) for b in (self.boxes, boxes))
        height_ratio = np.maximum(old[:, None] / new[None], new[None] / old[:, None])
        return np.where((iou >= MIN_IOU) & (height_ratio <= MAX_HEIGHT_RATIO), iou, 0)


def match_tracks(scores: np.ndarray) -> list[tuple[int, int]]:
    """Return the (row, column) pairs of `(tracks, n)` scores that have the largest sum."""
    if not scores.size:
        return []
    if min(scores.shape) == 1:
        track, face = np.unravel_index(scores.argmax(), scores.shape)
        return [(int(track), int(face))]
    from scipy.optimize import linear_sum_assignment  # takes half a second, which videos of one face save

    rows, columns = linear_sum_assignment(scores, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def compute_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the `(n, m)` intersection over union of `(n, 4)` and `(m, 4)` xyxy boxes; 0 for empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)


def _compute_centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _enlarge(boxes: np.ndarray) -> np.ndarray:
    margin = (GROWTH - 1) / 2 * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
