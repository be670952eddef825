"""Select the faces of each track to describe: sharp, frontal and large ones at several times."""

import itertools
from dataclasses import dataclass

import numpy as np

MIN_FACE_PX = 32.0
"""Least height of a face in pixels of the video."""
MAX_YAW = 0.9
"""Largest turn of a face, as the tangent of `yaw_deg` times `NOSE_DEPTH`: about 38 degrees."""
MIN_BLUR = 12.0
"""Least sharpness, the column `blur` of `tracks`."""
GOOD_FACE_PX, GOOD_BLUR = 90.0, 150.0
"""Height and sharpness beyond which a face is not easier to recognize."""
LONGER_TRACKS_S = (0.7, 3.0)
"""Lengths in seconds from which two and three faces of a track are described instead of one."""
HALF_QUALITY_S = 0.5
"""A face counts half if so many seconds of video have to be decoded to reach it."""
TOO_SMALL, TURNED, BLURRED = "too small", "turned away", "blurred"
"""Reasons why a track has no person."""


@dataclass(frozen=True, kw_only=True)
class TrackFaces:
    """Faces of one video in columns of shape `(n,)`, ordered by track and time."""

    track: np.ndarray
    time_s: np.ndarray
    step_s: np.ndarray
    """How long each sampled frame lasts in seconds."""
    boxes: np.ndarray
    """`(n, 4) float64` as x0, y0, x1, y1 in shares of the picture's width and height."""
    face_px: np.ndarray
    blur: np.ndarray
    yaw: np.ndarray


def select_faces(faces: TrackFaces, reach_s: np.ndarray | None = None) -> tuple[np.ndarray, dict[int, str]]:
    """Select the rows of faces to describe; return them, and the reason for each track without any.

    A track is divided into equal parts of time, and each part gives its best face as rated by `rate_faces`.
    """
    quality = rate_faces(faces, reach_s)
    rows: list[int] = []
    reasons: dict[int, str] = {}
    edges = np.flatnonzero(np.diff(faces.track, prepend=-1, append=-1)).tolist()
    for first, end in itertools.pairwise(edges):
        times_s = faces.time_s[first:end]
        length_s = times_s[-1] - times_s[0]
        count = 1 + sum(length_s >= longer_s for longer_s in LONGER_TRACKS_S)
        part = np.minimum((times_s - times_s[0]) * count / max(length_s, 1e-9), count - 1).astype(np.int64)
        track_quality = quality[first:end]
        best = [int(np.where(part == number, track_quality, 0).argmax()) for number in range(count)]
        chosen = sorted({row for row in best if track_quality[row] > 0})
        rows += [first + row for row in chosen]
        if not chosen:
            reasons[int(faces.track[first])] = _explain(faces, slice(first, end))
    return np.array(rows, np.int64), reasons


def mark_best(rating: np.ndarray, track: np.ndarray) -> np.ndarray:
    """Return which faces are the best of their track, `(n,) bool`, one per track, the first of equals."""
    order = np.lexsort((-rating, track))
    is_first = np.zeros(len(track), bool)
    is_first[order] = np.diff(track[order], prepend=-1) != 0
    return is_first


def rate_faces(faces: TrackFaces, reach_s: np.ndarray | None = None) -> np.ndarray:
    """Return how well each face can be recognized, `(n,) float64` in 0–1; 0 if it is not described.

    `reach_s` `(n,)` is how many seconds of video have to be decoded to reach a face; near ones are preferred.
    """
    yaw = np.nan_to_num(np.abs(faces.yaw), nan=np.inf)
    blur = np.nan_to_num(faces.blur, nan=0.0)
    size = np.minimum(faces.face_px / GOOD_FACE_PX, 1)
    sharpness = np.sqrt(np.clip(blur / GOOD_BLUR, 0, 1))
    usable = (faces.face_px >= MIN_FACE_PX) & (yaw <= MAX_YAW) & (blur >= MIN_BLUR)
    rating: np.ndarray = np.where(usable, size * sharpness * np.exp(-((yaw / 0.5) ** 2)), 0.0)
    return rating if reach_s is None else rating / (1 + np.maximum(reach_s, 0) / HALF_QUALITY_S)


def _explain(faces: TrackFaces, track: slice) -> str:
    """Return why no face of a track can be described: the first requirement that all its faces miss."""
    large = faces.face_px[track] >= MIN_FACE_PX
    if not large.any():
        return TOO_SMALL
    frontal = np.abs(faces.yaw[track]) <= MAX_YAW
    return BLURRED if (large & frontal).any() else TURNED
