"""Number the persons of a video, and explain why a track has none. This needs no picture."""

import numpy as np
import pyarrow as pa

from fer_batch.people.overlaps import find_tracks_apart
from fer_batch.people.select import TrackFaces, select_faces
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from fer_batch.vision.quality import NOSE_DEPTH

FACES_COLUMNS = (
    "track_id",
    "time_s",
    "step_s",
    "box_x0",
    "box_y0",
    "box_x1",
    "box_y1",
    "face_px",
    "blur",
    "yaw_deg",
)
"""The columns of `tracks` that grouping needs."""
NUMBERED_SCHEMA = pa.schema(
    [
        ("track_id", pa.int32()),
        ("number", pa.int32()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("faces", pa.int32()),
        ("mean", pa.list_(pa.float64())),
    ]
)
"""A track with the number of its person, from 1, or the reason why it has none, its time in view, and the
number of its faces that were described."""
MIN_PERSON_S, MIN_PERSON_SHARE = 1.0, 0.25
"""Least time in view of a person in seconds, and as a share of the time with faces, whichever is less. A face
of a shorter time that resembles no other track belongs to a passer-by, or is not a face."""
TOO_BRIEF = "too brief"


def read_track_faces(rows: pa.Table) -> TrackFaces:
    """Convert rows with FACES_COLUMNS to faces, ordered by track and time."""
    rows = rows.sort_by([("track_id", "ascending"), ("time_s", "ascending")])
    columns = {name: rows.column(name).to_numpy().astype(np.float64) for name in FACES_COLUMNS}
    return TrackFaces(
        track=columns["track_id"].astype(np.int64),
        time_s=columns["time_s"],
        step_s=columns["step_s"],
        boxes=np.stack([columns[f"box_{side}"] for side in ("x0", "y0", "x1", "y1")], axis=1),
        face_px=columns["face_px"],
        blur=columns["blur"],
        yaw=NOSE_DEPTH * np.tan(np.radians(columns["yaw_deg"])),
    )


def divide_tracks(faces: TrackFaces, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which tracks have to be compared, and which are persons without that, `(n,) bool` each.

    `usable` `(n,) bool` tells which tracks have faces to describe, by id. A track has to be compared if
    it and another one are usable and not in view together. Other usable tracks are persons. So is a track
    that is in view together with all others, except brief ones, however little can be seen of its face.
    """
    together = np.eye(len(usable), dtype=bool)
    for a, b in find_tracks_apart(faces):
        together[a, b] = together[b, a] = True
    compared = usable & (~together & usable).any(axis=1)
    is_long = _measure_seconds(faces) >= _find_min_s(faces)
    is_alone = ~(~together & is_long).any(axis=1)
    return compared, (usable | is_alone) & ~compared


def number_without_pictures(rows: pa.Table) -> pa.Table | None:
    """Return rows of NUMBERED_SCHEMA if no two tracks of a video may show one person, else None.

    `rows` has FACES_COLUMNS of `tracks`. No face is described: a single track is a person.
    """
    faces = read_track_faces(rows)
    selected, reasons = select_faces(faces)
    usable = np.isin(np.unique(faces.track), faces.track[selected])
    compared, is_person = divide_tracks(faces, usable)
    if compared.any():
        return None
    labels = np.where(is_person, np.arange(len(usable)), -1)
    return make_numbered(faces, labels, reasons)


def make_numbered(
    faces: TrackFaces,
    labels: np.ndarray,
    reasons: dict[int, str],
    descriptors: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> pa.Table:
    """Return rows of NUMBERED_SCHEMA for tracks with these clusters, -1 for those with one of the `reasons`.

    `descriptors` and `weights` are those of the tracks. With them, each person has its mean at its first
    described track.
    """
    ids, seconds = np.unique(faces.track), _measure_seconds(faces)
    brief = _find_brief(labels, seconds, _find_min_s(faces))
    labels = np.where(np.isin(labels, brief), -1, labels)
    numbers = number_persons(labels, seconds)
    means: list[list[float] | None] = [None] * len(ids)
    if descriptors is not None and weights is not None:
        means = _average_persons(numbers, descriptors, weights)
    return pa.table(
        {
            "track_id": ids,
            "number": pa.array(numbers, mask=numbers == 0),
            "reason": [
                None if n else reasons.get(int(track), TOO_BRIEF)
                for track, n in zip(ids, numbers, strict=True)
            ],
            "seconds": seconds,
            "faces": np.zeros(len(ids)) if weights is None else weights,
            "mean": pa.array(means, pa.list_(pa.float64())),
        }
    ).cast(NUMBERED_SCHEMA)


def number_persons(labels: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Number clusters from 1 by their time in view, longest first, then by their first track.

    `labels` are the clusters of tracks from 0, `seconds` the tracks' times in view. Tracks with the label -1
    have the number 0.
    """
    known = labels >= 0
    clusters, first, position = np.unique(labels[known], return_index=True, return_inverse=True)
    total_s = np.round(np.bincount(position, seconds[known], len(clusters)), 6)
    rank = np.empty(len(clusters), np.int64)
    rank[np.lexsort((first, -total_s))] = np.arange(1, len(clusters) + 1)
    numbers = np.zeros(len(labels), np.int64)
    numbers[known] = rank[position]
    return numbers


def _measure_seconds(faces: TrackFaces) -> np.ndarray:
    """Return the time in view of each track, in order of their ids."""
    ids = np.unique(faces.track)
    seconds: np.ndarray = np.bincount(np.searchsorted(ids, faces.track), faces.step_s, len(ids))
    return seconds


def _find_min_s(faces: TrackFaces) -> float:
    """Return the least time in view of a person."""
    span_s = np.max(faces.time_s + faces.step_s, initial=0) - np.min(faces.time_s, initial=np.inf)
    return float(min(MIN_PERSON_S, MIN_PERSON_SHARE * span_s) - TIME_TOLERANCE_S)


def _find_brief(labels: np.ndarray, seconds: np.ndarray, min_s: float) -> np.ndarray:
    """Return the clusters that are in view for less than `min_s`."""
    known = labels >= 0
    return np.flatnonzero(np.bincount(labels[known], seconds[known]) < min_s)


def _average_persons(
    numbers: np.ndarray, descriptors: np.ndarray, weights: np.ndarray
) -> list[list[float] | None]:
    """Return the mean descriptor of each person at the person's first described track, else None."""
    means: list[list[float] | None] = [None] * len(numbers)
    for number in range(1, int(numbers.max(initial=0)) + 1):
        tracks = np.flatnonzero((numbers == number) & (weights > 0))
        means[tracks[0]] = np.average(descriptors[tracks], axis=0, weights=weights[tracks]).tolist()
    return means
