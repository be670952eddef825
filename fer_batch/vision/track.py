"""Assign the faces of successive frames to tracks by their overlap and their likeness."""

import math
from collections import deque

import numpy as np

from fer_batch.video.changes import FrameChanges
from fer_batch.video.sampling import SampleGrid
from fer_batch.vision.continuity import FrameView, is_other_face, score_continuity
from fer_batch.vision.dissolves import FRAMES_PER_S, MAX_DISSOLVE_S, find_dissolve
from fer_batch.vision.iou import compute_iou

GROWTH = 1.5
"""Factor by which boxes are enlarged before they are compared. A face that moves by its own width between two
frames, as walking people do at 5 frames a second, then still overlaps its last box."""
MIN_IOU = 0.12
"""Minimum IoU of the enlarged boxes of one track."""
MAX_HEIGHT_RATIO = 2.5
"""Largest change of a face's height from one frame to the next, as a factor."""
FLASH_MIN_IOU = 0.5
"""Least IoU of a face in a flash with the face before and after it."""
MAX_RECENT_FRAMES = 64
"""Frames whose changes are kept, for tracks that were last seen some frames ago."""


class Tracker:
    """Assign the faces of each frame to tracks, numbered from 0.

    A face is compared with every track that was seen in the last `max_gap_s` seconds, at the track's last box
    and at that box moved on with its last speed. It continues a track only if it is the same face by
    `score_continuity`. The assignment has the largest total IoU (Kuhn 1955). A track in which one face
    dissolves into another is divided there. So a track depends on nothing older than its last two boxes, its
    live neighbours and the longest dissolve.

    Between two frames at most `max_step_s` seconds count, so a track ends after frames without its face, and
    not where a video has no frames.
    """

    def __init__(self, max_gap_s: float, max_step_s: float = math.inf) -> None:
        self.max_gap_s, self.max_step_s = max_gap_s, max_step_s
        self.next_id = 0
        self._joined: dict[int, int] = {}
        """Tracks of a single frame that belong to another track, as of faces in the light of a flash."""
        self._divided: list[tuple[int, float, int]] = []
        """Tracks, the times from which they show another face, and the tracks of that face."""
        self._grid = SampleGrid(FRAMES_PER_S, 0.0, math.inf)
        """Selects the frames among which dissolves are sought."""
        self._history: deque[tuple[float, np.ndarray, dict[int, np.ndarray]]] = deque()
        """Times, points, and looks by track, of the frames in which a dissolve may have begun."""
        self._clock_s, self._last_s = 0.0, -math.inf
        self._frame = -1
        self._recent: list[FrameChanges] = []
        """Changes of the last frames, if all of them have any."""
        self._ids = np.zeros(0, np.int64)
        self._boxes = np.zeros((0, 4), np.float64)
        self._speeds = np.zeros((0, 4), np.float64)
        """Pixels per second, the same for both corners."""
        self._seen_s = np.zeros(0, np.float64)
        """Time of the last face, by the tracker's clock."""
        self._frames = np.zeros((0, 2), np.int64)
        """Number of the first frame and of the last frame with a face."""
        self._looks: list[np.ndarray | None] = []
        """Appearance of the last face."""

    def update(self, time_s: float, boxes: np.ndarray, view: FrameView | None = None) -> np.ndarray:
        """Return the tracks, `(n,) int64`, of the `(n, 4)` boxes of a later frame.

        The unit of the boxes must be the same in all frames. Without a `view`, places alone decide.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self._advance(time_s, view)
        tracks = np.full(len(boxes), -1, np.int64)
        elapsed_s = self._clock_s - self._seen_s
        scores = self._compare(self._boxes + self._speeds * elapsed_s[:, None], boxes)
        if view is not None:
            self._rule_out_others(scores, view)
        matches = [(track, face) for track, face in match_tracks(scores) if scores[track, face] > 0]
        for track, face in matches:
            tracks[face] = self._ids[track]
        for track, face in matches:
            self._join_flash(track, boxes[face], tracks)
        for track, face in matches:
            shift = _compute_centre(boxes[face]) - _compute_centre(self._boxes[track])
            self._speeds[track] = np.tile(shift / max(elapsed_s[track], 1e-9), 2)
            self._boxes[track], self._seen_s[track] = boxes[face], self._clock_s
            self._frames[track, 1] = self._frame
            self._looks[track] = None if view is None else view.looks[face]
        new = np.flatnonzero(tracks < 0)
        tracks[new] = self.next_id + np.arange(len(new))
        self.next_id += len(new)
        self._ids = np.concatenate([self._ids, tracks[new]])
        self._boxes = np.concatenate([self._boxes, boxes[new]])
        self._speeds = np.concatenate([self._speeds, np.zeros((len(new), 4))])
        self._seen_s = np.concatenate([self._seen_s, np.full(len(new), self._clock_s)])
        self._frames = np.concatenate([self._frames, np.full((len(new), 2), self._frame)])
        self._looks += [None if view is None else view.looks[face] for face in new]
        if view is not None and view.changes is not None:
            self._divide_dissolves(time_s, tracks, view, view.changes.points)
        return tracks

    def correct_track(self, track: int, time_s: float) -> int:
        """Return the track of a face that `update` assigned, by what later frames have shown."""
        for divided, start_s, other in self._divided:
            if track == divided and time_s >= start_s:
                track = other
        return self._joined.get(track, track)

    def _divide_dissolves(
        self, time_s: float, tracks: np.ndarray, view: FrameView, points: np.ndarray
    ) -> None:
        """Divide the tracks in which another face has appeared by a dissolve that has just ended."""
        if not self._grid.take(time_s):
            return
        history = self._history
        looks = {int(track): view.looks[face] for face, track in enumerate(tracks)}
        history.append((time_s, points, looks))
        while history[0][0] < time_s - MAX_DISSOLVE_S or history[0][1].shape != points.shape:
            history.popleft()
        for face, track in enumerate(tracks.tolist()):
            frames = [frame for frame in history if track in frame[2]]
            found = find_dissolve([frame[1] for frame in frames], view.regions[face])
            if found and is_other_face(frames[found[0]][2][track], looks[track]):
                self._divided.append((track, frames[found[1]][0], self.next_id))
                self._ids[self._ids == track] = self.next_id
                looks[self.next_id] = looks.pop(track)
                self.next_id += 1

    def _advance(self, time_s: float, view: FrameView | None) -> None:
        """Go to the next frame and end the tracks that were not seen for too long."""
        self._clock_s += min(time_s - self._last_s, self.max_step_s) if self._frame >= 0 else time_s
        self._last_s = time_s
        self._frame += 1
        if view is not None and view.changes is not None:
            self._recent = [*self._recent, view.changes][-MAX_RECENT_FRAMES:]
        live = self._clock_s - self._seen_s <= self.max_gap_s + 1e-4
        self._ids, self._boxes, self._speeds = self._ids[live], self._boxes[live], self._speeds[live]
        self._seen_s, self._frames = self._seen_s[live], self._frames[live]
        self._looks = [look for look, is_live in zip(self._looks, live, strict=True) if is_live]

    def _rule_out_others(self, scores: np.ndarray, view: FrameView) -> None:
        """Set the scores `(tracks, n)` of other faces in the same place to 0."""
        for track, face in np.argwhere(scores > 0).tolist():
            look = self._looks[track]
            first = len(self._recent) - (self._frame - int(self._frames[track, 1]))
            if look is not None and score_continuity(look, view, face, self._recent, first) < 0:
                scores[track, face] = 0

    def _join_flash(self, track: int, box: np.ndarray, tracks: np.ndarray) -> None:
        """Join a track that took the place of this one for one frame, and ends with it."""
        if self._frame - self._frames[track, 1] != 2:
            return
        is_flash = (self._frames == self._frame - 1).all(axis=1) & ~np.isin(self._ids, tracks)
        for other in np.flatnonzero(is_flash).tolist():
            places = self._boxes[[other]]
            neighbours = np.stack([box, self._boxes[track]])
            if compute_iou(places, neighbours).min() > FLASH_MIN_IOU:
                self._joined[int(self._ids[other])] = int(self._ids[track])

    def _compare(self, expected: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the IoU of each live track and each box, `(tracks, n)`; 0 where they cannot match."""
        enlarged = _enlarge(boxes)
        iou = np.maximum(
            compute_iou(_enlarge(self._boxes), enlarged), compute_iou(_enlarge(expected), enlarged)
        )
        old, new = (np.maximum(b[:, 3] - b[:, 1], 1e-9) for b in (self._boxes, boxes))
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


def _compute_centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _enlarge(boxes: np.ndarray) -> np.ndarray:
    margin = (GROWTH - 1) / 2 * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
