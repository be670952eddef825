"""Find tracks that cannot show one person, and tracks that may continue one another."""

import itertools

import numpy as np

from fer_batch.people.cluster import Pair
from fer_batch.people.select import TrackFaces
from fer_batch.vision.track import compute_iou

MAX_PAUSE_S = 2.0
"""Longest time between two tracks of one face that was lost for a moment."""
MIN_PAUSE_STEPS = 1.5
"""Shortest such time in steps of sampled frames. Without a pause, a track ends where a cut is found."""
MIN_IOU = 0.5
"""Least IoU of the last box of a track and the first one of the track that continues it."""


def find_tracks_apart(faces: TrackFaces) -> list[Pair]:
    """Return the pairs of positions in the sorted track ids whose tracks are in view at the same moment."""
    ids = np.unique(faces.track)
    order = np.lexsort((faces.track, faces.time_s))
    times_s, track = faces.time_s[order], np.searchsorted(ids, faces.track[order])
    edges = np.flatnonzero(np.diff(times_s, prepend=-np.inf, append=np.inf)).tolist()
    together = {tuple(track[first:end].tolist()) for first, end in itertools.pairwise(edges)}
    pairs = {pair for group in together for pair in itertools.combinations(group, 2)}
    return sorted(pairs)


def find_continuations(faces: TrackFaces) -> list[tuple[Pair, tuple[int, int]]]:
    """Return pairs of tracks of which the second begins in the place of the first, soon after its end.

    Each pair is followed by the row of the last face of the first track and that of the first face of the
    second one. Whether a cut lies between them is not known yet.
    """
    edges = np.flatnonzero(np.diff(faces.track, prepend=-1, append=-1))
    firsts, lasts = edges[:-1], edges[1:] - 1
    found = []
    by_start = np.argsort(faces.time_s[firsts], kind="stable")
    starts_s = faces.time_s[firsts][by_start]
    for a, last in enumerate(lasts.tolist()):
        end_s = faces.time_s[last]
        earliest_s = end_s + MIN_PAUSE_STEPS * faces.step_s[last]
        begin, stop = np.searchsorted(starts_s, [earliest_s, end_s + MAX_PAUSE_S], side="right").tolist()
        for b in by_start[begin:stop].tolist():
            first = int(firsts[b])
            iou = float(compute_iou(faces.boxes[[last]], faces.boxes[[first]])[0, 0])
            if iou >= MIN_IOU:
                found.append(((a, b), (last, first)))
    return found
