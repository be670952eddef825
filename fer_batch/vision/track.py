"""Which face is which from moment to moment: tracks by overlap, ended by gaps and by shot cuts."""

import numpy as np

GROW = 1.5
"""Boxes are grown by this before they are compared, so that a face that moves by its own width between two
moments, as walkers do at 5 moments a second, still overlaps itself."""
MIN_OVERLAP = 0.12
"""Least overlap (intersection over union of the grown boxes) of a face with its own last box."""
MAX_RESIZE = 2.5
"""Most that a face's height can change from one moment to the next, as a factor."""
CUT_CHANGE = 0.25
"""Change of half of a frame's cells across a cut, in standard deviations of its grey values. Between
moments of one shot 0.12 was the most among 29 clips; between clips in different places 0.41 was the
least."""
FLATTEST = 12.0
"""Standard deviation below which a frame counts as no more contrasty than this: dark frames are mostly
noise."""


def compute_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`(n, 4)` and `(m, 4)` xyxy boxes to their `(n, m)` intersection over union, 0–1; 0 for empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)


def is_shot_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a new shot begins between two frames, given their `(h, w)` thumbnails of grey values 0–255.

    Compared is the median cell, so that what moves through a still picture is no cut; and it must have
    changed both in plain grey values, less a change of all alike, and in those of a frame brought to mean 0
    and deviation 1: so that neither light that rises and falls nor large things that come and go are cuts.
    """
    one, other = before.astype(np.float32), after.astype(np.float32)
    spread = max(float(one.std() + other.std()) / 2, FLATTEST)
    difference = other - one
    plain = np.median(np.abs(difference - np.median(difference))) / spread
    one, other = ((image - image.mean()) / max(float(image.std()), FLATTEST) for image in (one, other))
    return bool(min(plain, np.median(np.abs(other - one))) >= CUT_CHANGE)


def match_tracks(score: np.ndarray) -> list[tuple[int, int]]:
    """The rows and columns of `(tracks, n)` scores that go together, so that their sum is the largest."""
    if not score.size:
        return []
    if min(score.shape) == 1:
        track, face = np.unravel_index(score.argmax(), score.shape)
        return [(int(track), int(face))]
    from scipy.optimize import linear_sum_assignment  # half a second, which one face at a time does without

    rows, columns = linear_sum_assignment(score, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


class Tracker:
    """Gives each face of each moment its track, from 0 up, in order of time.

    A face is matched to every track seen in the last `max_gap_s` seconds, at its last box or where that box
    would be had it moved on as before; which goes with which is the assignment of the largest total overlap
    (Kuhn 1955). So a track depends on nothing older than its last two boxes and its live neighbours.
    """

    def __init__(self, max_gap_s: float) -> None:
        self.max_gap_s = max_gap_s
        self.next_id = 0
        self.cut()

    def cut(self) -> None:
        """End every track: what follows is another shot."""
        self.ids = np.zeros(0, np.int64)
        self.boxes = np.zeros((0, 4), np.float64)
        self.speeds = np.zeros((0, 4), np.float64)
        """Pixels a second, the same for both corners."""
        self.seen_s = np.zeros(0, np.float64)

    def update(self, time_s: float, boxes: np.ndarray) -> np.ndarray:
        """The `(n, 4)` boxes of a later moment to their tracks, `(n,) int64`. Boxes in square pixels."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self._keep(time_s - self.seen_s <= self.max_gap_s + 1e-4)
        answer = np.full(len(boxes), -1, np.int64)
        since_s = time_s - self.seen_s
        score = self._scores(self.boxes + self.speeds * since_s[:, None], boxes)
        for track, face in match_tracks(score):
            if score[track, face] > 0:
                answer[face] = self.ids[track]
                shift = (_centres(boxes[face]) - _centres(self.boxes[track])) / max(since_s[track], 1e-9)
                self.speeds[track] = np.tile(shift, 2)
                self.boxes[track], self.seen_s[track] = boxes[face], time_s
        fresh = np.flatnonzero(answer < 0)
        answer[fresh] = self.next_id + np.arange(len(fresh))
        self.next_id += len(fresh)
        self.ids = np.concatenate([self.ids, answer[fresh]])
        self.boxes = np.concatenate([self.boxes, boxes[fresh]])
        self.speeds = np.concatenate([self.speeds, np.zeros((len(fresh), 4))])
        self.seen_s = np.concatenate([self.seen_s, np.full(len(fresh), time_s)])
        return answer

    def _keep(self, live: np.ndarray) -> None:
        self.ids, self.boxes = self.ids[live], self.boxes[live]
        self.speeds, self.seen_s = self.speeds[live], self.seen_s[live]

    def _scores(self, expected: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """How well `(n, 4)` boxes fit each live track, `(tracks, n)`; 0 where they can't be it."""
        grown = _grow(boxes)
        score = np.maximum(compute_iou(_grow(self.boxes), grown), compute_iou(_grow(expected), grown))
        old, new = (np.maximum(b[:, 3] - b[:, 1], 1e-9) for b in (self.boxes, boxes))
        resize = np.maximum(old[:, None] / new[None], new[None] / old[:, None])
        return np.where((score >= MIN_OVERLAP) & (resize <= MAX_RESIZE), score, 0)


def _centres(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _grow(boxes: np.ndarray) -> np.ndarray:
    margin = (GROW - 1) / 2 * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
