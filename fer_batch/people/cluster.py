"""Cluster described tracks into persons, under constraints."""

import itertools
from collections.abc import Iterable

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

MAX_DISTANCE = 0.42
"""Largest mean distance between the tracks of two groups that are joined, without the noise of single faces.
It is a distance of 0.47 between the means of two faces each."""
FACE_VARIANCE = 0.05
"""Squared distance of a face's descriptor from the mean of its person's, in one clip."""
UNCERTAIN_MARGIN = 0.08
"""Difference to `MAX_DISTANCE` within which the mean distance of a track and a cluster settles nothing."""
FORBIDDEN_DISTANCE = 1e9
"""Distance of tracks of different people. The mean distance of their groups is then above any other."""

Pair = tuple[int, int]


def cluster_tracks(
    descriptors: np.ndarray,
    weights: np.ndarray,
    same: Iterable[Pair] = (),
    apart: Iterable[Pair] = (),
    max_distance: float = MAX_DISTANCE,
) -> np.ndarray:
    """Return the cluster of each track, `(n,) int64` from 0, and -1 for a track that nothing is known about.

    `descriptors` is `(n, d)`, the mean of a track's faces, NaN if none is described. `weights` `(n,)` is the
    number of these faces. The tracks of a pair in `same` show one person, those of a pair in `apart` do not.
    Pairs that contradict `apart` are ignored.

    Tracks of `same` become one unit. Units are joined by average linkage (UPGMA, Sokal and Michener 1958) up
    to `max_distance`.
    """
    count = len(descriptors)
    forbidden = {frozenset(pair) for pair in apart}
    unit = _join_pairs(count, same, forbidden)
    described = np.isfinite(descriptors).all(axis=1) if count else np.zeros(0, bool)
    units = np.unique(unit[described])
    means = np.array(
        [
            np.average(descriptors[at], axis=0, weights=weights[at])
            for at in (described & (unit == u) for u in units)
        ]
    )
    counts = np.array([weights[described & (unit == u)].sum() for u in units])
    labels = np.full(count, -1, np.int64)
    if not len(units):
        return labels
    clusters = np.zeros(1, np.int64)
    if len(units) > 1:
        distances = _measure_distances(means, counts)
        position = {int(u): number for number, u in enumerate(units)}
        for pair in forbidden:
            a, b = sorted(position.get(int(unit[track]), -1) for track in pair)
            if 0 <= a < b:
                distances[len(units) * a - a * (a + 1) // 2 + b - a - 1] = FORBIDDEN_DISTANCE
        clusters = fcluster(linkage(distances, "average"), max_distance, "distance").astype(np.int64) - 1
    known = np.isin(unit, units)
    labels[known] = clusters[np.searchsorted(units, unit[known])]
    return labels


def find_uncertain(descriptors: np.ndarray, weights: np.ndarray, apart: Iterable[Pair] = ()) -> np.ndarray:
    """Return which tracks may belong to another cluster if more of their faces are described, `(n,) bool`.

    These are tracks whose mean distance to the rest of their cluster, or to a cluster without a track that is
    in view with them, is within `UNCERTAIN_MARGIN` of `MAX_DISTANCE`. The arguments are those of
    `cluster_tracks`.
    """
    apart = list(apart)
    labels = cluster_tracks(descriptors, weights, apart=apart)
    known = np.flatnonzero(labels >= 0)
    is_uncertain = np.zeros(len(labels), bool)
    if len(known) < 2:
        return is_uncertain
    distances = squareform(_measure_distances(descriptors[known], weights[known]))
    member = labels[known][:, None] == np.arange(labels.max() + 1)
    sizes = member.sum(axis=0) - member
    with np.errstate(invalid="ignore"):
        means = distances @ member / sizes
    position = np.full(len(labels), -1)
    position[known] = np.arange(len(known))
    for a, b in itertools.chain(apart, ((b, a) for a, b in apart)):
        if labels[a] >= 0 and labels[b] >= 0:
            means[position[a], labels[b]] = np.inf
    is_uncertain[known] = (np.abs(means - MAX_DISTANCE) < UNCERTAIN_MARGIN).any(axis=1)
    return is_uncertain


def _measure_distances(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the distances of all pairs of `(n, d)` means of so many faces, without the faces' noise.

    The result is condensed as that of `scipy.spatial.distance.pdist`. The squared distance of two means
    contains their variances, so that means of few faces would seem to be farther apart.
    """
    distances: np.ndarray = pdist(means, "sqeuclidean")
    variances, place = FACE_VARIANCE / counts, 0
    for number in range(len(means) - 1):  # row by row, because all pairs of many tracks fill the memory
        row = distances[place : place + len(means) - 1 - number]
        row -= variances[number] + variances[number + 1 :]
        place += len(row)
    np.maximum(distances, 0, out=distances)
    return np.sqrt(distances, out=distances)


def _join_pairs(count: int, same: Iterable[Pair], forbidden: set[frozenset[int]]) -> np.ndarray:
    """Return the unit of each track, `(count,) int64`. No unit contains both tracks of a forbidden pair."""
    unit = np.arange(count)
    for a, b in same:
        left, right = np.flatnonzero(unit == unit[a]), np.flatnonzero(unit == unit[b])
        if unit[a] != unit[b] and not any(
            frozenset((i, j)) in forbidden for i in left.tolist() for j in right.tolist()
        ):
            unit[right] = unit[a]
    return unit
