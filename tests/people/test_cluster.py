"""Clusters of tracks: joined where descriptors are near, under constraints, which always hold."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.people.cluster import MAX_DISTANCE, cluster_tracks, find_uncertain
from fer_batch.people.number import number_persons

PEOPLE = np.eye(3) * 0.6
"""The descriptors of three people, 0.85 apart."""


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    """Return the groups of positions with the same label from 0."""
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist()) - {-1}}


def test_no_tracks_have_no_clusters() -> None:
    assert cluster_tracks(np.zeros((0, 128)), np.zeros(0)).tolist() == []


def test_near_descriptors_are_one_person() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (6, 3))
    descriptors = PEOPLE[[0, 1, 0, 2, 1, 0]] + noise
    labels = cluster_tracks(descriptors, np.full(6, 2))
    assert partition(labels) == {frozenset({0, 2, 5}), frozenset({1, 4}), frozenset({3})}


def test_tracks_in_view_at_once_are_two_persons_even_with_equal_descriptors() -> None:
    labels = cluster_tracks(PEOPLE[[0, 0, 0]], np.ones(3), apart=[(0, 1)])
    assert labels[0] != labels[1]
    assert labels[2] in labels[:2]


def test_undescribed_track_is_unknown_unless_it_continues_a_known_one() -> None:
    descriptors = np.stack([PEOPLE[0], np.full(3, np.nan), np.full(3, np.nan), PEOPLE[1]])
    labels = cluster_tracks(descriptors, np.array([2, 0, 0, 2]), same=[(0, 1)])
    assert partition(labels) == {frozenset({0, 1}), frozenset({3})}
    assert labels[2] == -1


def test_pair_that_contradicts_others_is_ignored() -> None:
    labels = cluster_tracks(PEOPLE[[0, 0, 0]], np.ones(3), same=[(0, 1), (1, 2)], apart=[(0, 2)])
    assert labels[0] == labels[1] != labels[2]


def test_means_of_few_faces_may_be_farther_apart() -> None:
    pair = np.array([[0.0], [0.5]])
    assert len(partition(cluster_tracks(pair, np.array([1, 1])))) == 1
    assert len(partition(cluster_tracks(pair, np.array([9, 9])))) == 2


def test_no_track_is_uncertain_among_few_or_clear_ones() -> None:
    assert find_uncertain(np.zeros((0, 3)), np.zeros(0)).tolist() == []
    assert find_uncertain(PEOPLE[:1], np.ones(1)).tolist() == [False]
    assert not find_uncertain(PEOPLE[[0, 1, 0, 2]], np.full(4, 9)).any()
    undescribed = np.full((2, 3), np.nan)
    assert not find_uncertain(np.concatenate([PEOPLE, undescribed]), np.array([9, 9, 9, 0, 0])).any()


def test_tracks_near_the_largest_distance_are_uncertain() -> None:
    for offset in (-0.05, 0.05):
        near = np.stack([PEOPLE[0], PEOPLE[0] + [0, 0, MAX_DISTANCE + offset], PEOPLE[1]])
        weights = np.full(3, 1000)
        assert find_uncertain(near, weights).tolist() == [True, True, False]
        assert not find_uncertain(near, weights, apart=[(0, 1)]).any()


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_constraints_hold(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(0, 0.3, (count, 3))
    pairs = list(itertools.combinations(range(count), 2))
    apart = [pair for pair in pairs if rng.random() < 0.3]
    same = [pair for pair in pairs if rng.random() < 0.1]
    labels = cluster_tracks(descriptors, np.full(count, 2), same, apart)
    assert all(labels[a] != labels[b] for a, b in apart)
    order = rng.permutation(count)
    place = np.argsort(order)
    moved = cluster_tracks(
        descriptors[order], np.full(count, 2), [], [(int(place[a]), int(place[b])) for a, b in apart]
    )
    alone = cluster_tracks(descriptors, np.full(count, 2), [], apart)
    assert partition(moved[place]) == partition(alone)


def test_persons_are_numbered_by_time_in_view_then_by_appearance() -> None:
    labels, seconds = np.array([0, 1, -1, 2, 0]), np.array([1.0, 3.0, 9.0, 2.0, 1.0])
    assert number_persons(labels, seconds).tolist() == [2, 1, 0, 3, 2]
    assert number_persons(np.full(2, -1), np.ones(2)).tolist() == [0, 0]
    assert number_persons(np.zeros(0, np.int64), np.zeros(0)).tolist() == []
