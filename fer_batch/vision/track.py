"""Which face is which from moment to moment: tracks by overlap, ended by gaps and by shot cuts."""

import numpy as np
from scipy.optimize import linear_sum_assignment

GROW = 1.5
"""Boxes are grown by this before they are compared, so that a face that moves by its own width between two
moments, as walkers do at 5 moments a second, still overlaps itself."""
MIN_OVERLAP = 0.12
"""Least overlap (intersection over union of the grown boxes) of a face with its own last box."""
MAX_RESIZE = 1.8
"""Most that a face's height can change from one moment to the next, as a factor."""
CUT_CHANGE = 28.0
"""Mean change of a cell's grey value (0–255) across a cut, at least."""
CUT_SHARE = 0.65
"""Share of the frame's cells that change across a cut, at least."""


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`(n, 4)` and `(m, 4)` xyxy boxes to their `(n, m)` intersection over union, 0–1; 0 for empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a new shot begins between two frames, given their `(h, w)` thumbnails of grey values 0–255."""
    change = np.abs(after.astype(np.float32) - before.astype(np.float32))
    return bool(change.mean() >= CUT_CHANGE and (change >= CUT_CHANGE / 3).mean() >= CUT_SHARE)


class Tracker:
    """Gives each face of each moment its track, from 0 up, in order of time.

    A face is matched to the last box of every track seen in the last `max_gap_s` seconds; which goes with
    which is the assignment of the largest total overlap (Kuhn 1955). So a track depends on nothing older
    than its live neighbours.
    """

    def __init__(self, max_gap_s: float) -> None:
        self.max_gap_s = max_gap_s
        self.ids = np.zeros(0, np.int64)
        self.boxes = np.zeros((0, 4), np.float64)
        self.seen_s = np.zeros(0, np.float64)
        self.next_id = 0

    def cut(self) -> None:
        """End every track: what follows is another shot."""
        self.ids, self.boxes, self.seen_s = self.ids[:0], self.boxes[:0], self.seen_s[:0]

    def update(self, time_s: float, boxes: np.ndarray) -> np.ndarray:
        """The `(n, 4)` boxes of a later moment to their tracks, `(n,) int64`. Boxes in pixels of square
        aspect.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        live = time_s - self.seen_s <= self.max_gap_s + 1e-4
        self.ids, self.boxes, self.seen_s = self.ids[live], self.boxes[live], self.seen_s[live]
        answer = np.full(len(boxes), -1, np.int64)
        score = overlap(_grow(self.boxes), _grow(boxes))  # (tracks, n)
        old, new = (np.maximum(b[:, 3] - b[:, 1], 1e-9) for b in (self.boxes, boxes))
        resize = np.maximum(old[:, None] / new[None], new[None] / old[:, None])
        score = np.where((score >= MIN_OVERLAP) & (resize <= MAX_RESIZE), score, 0)
        rows, columns = linear_sum_assignment(score, maximize=True)
        for track, face in zip(rows, columns, strict=True):
            if score[track, face] > 0:
                answer[face] = self.ids[track]
                self.boxes[track], self.seen_s[track] = boxes[face], time_s
        fresh = np.flatnonzero(answer < 0)
        answer[fresh] = self.next_id + np.arange(len(fresh))
        self.next_id += len(fresh)
        self.ids = np.concatenate([self.ids, answer[fresh]])
        self.boxes = np.concatenate([self.boxes, boxes[fresh]])
        self.seen_s = np.concatenate([self.seen_s, np.full(len(fresh), time_s)])
        return answer


def _grow(boxes: np.ndarray) -> np.ndarray:
    margin = (GROW - 1) / 2 * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
