"""Folds: each example is tested once, no person is on both sides, and classes are shared evenly."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.data.clips import Clips
from fer_batch.errors import ConfigError, InputError
from fer_batch.evaluation.crossval.crossval import CK48_CLASSES
from fer_batch.evaluation.crossval.folds import (
    Protocol,
    assign_folds,
    assign_frozen_folds,
    draw_part,
    group_clips,
    make_folds,
    read_frozen_folds,
)
from tests.clips import make_clips
from tests.datasets import load_dataset

FOLDS = [["S001", "S002"], ["S003"], ["S004", "S005"], ["S006"]]
PEOPLE = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=20, max_size=60)
"""Class and person of each example."""


def clips_of(people: list[str], labels: list[int], images: list[int] | None = None) -> Clips:
    """Return stills with different images, or with the given grey values."""
    count = len(people)
    shades = np.arange(count) if images is None else np.array(images, np.int64)
    frames = np.broadcast_to(shades.astype(np.uint8)[:, None, None], (count, 48, 48))
    return make_clips(frames, [1] * count, classes=("happy", "sad", "fear"), labels=labels, subjects=people)


@settings(max_examples=25, deadline=None)  # of which one takes scikit-learn 50 ms
@given(people=PEOPLE, folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_test_each_example_once_and_keep_people_together(
    people: list[tuple[int, int]], folds: int, seed: int
) -> None:
    labels = np.array([label for label, _ in people])
    groups = np.array([f"S{person}" for _, person in people])
    at_random = assign_folds(labels, groups, "random", folds, seed)
    assert set(at_random.tolist()) <= set(range(folds))
    table = np.zeros((folds, 3), int)
    np.add.at(table, (at_random, labels), 1)
    if np.bincount(labels).max() >= folds:
        assert (np.ptp(table, axis=0) <= 1).all()  # each class is spread as evenly as possible
    if len(set(groups.tolist())) < folds:
        with pytest.raises(InputError, match=f"fewer than --folds {folds}"):
            assign_folds(labels, groups, "subject", folds, seed)
        return
    by_subject = assign_folds(labels, groups, "subject", folds, seed)
    assert set(by_subject.tolist()) <= set(range(folds))
    for group in set(groups.tolist()):
        assert len(set(by_subject[groups == group].tolist())) == 1


@settings(max_examples=25, deadline=None)  # of which one takes scikit-learn 50 ms
@given(people=PEOPLE, share=st.floats(0.1, 0.6), seed=st.integers(0, 3))
def test_part_has_its_share_of_each_class_and_keeps_people_together(
    people: list[tuple[int, int]], share: float, seed: int
) -> None:
    labels = np.array([label for label, _ in people])
    groups = np.array([f"S{person}" for _, person in people])
    at_random = draw_part(labels, groups, "random", share, seed)
    wanted = share * np.bincount(labels)
    assert (np.abs(np.bincount(labels, at_random) - wanted) <= 0.5).all()
    by_subject = draw_part(labels, groups, "subject", share, seed)
    tested = set(groups[by_subject].tolist())
    assert not tested & set(groups[~by_subject].tolist())
    assert len(tested) == round(share * len(set(groups.tolist())))


def test_part_by_subject_has_fair_classes() -> None:
    random = np.random.default_rng(0)
    groups = np.array([f"S{person}" for person in random.integers(0, 60, 240)])
    labels = random.choice(3, 240, p=(0.6, 0.3, 0.1))
    drawn = draw_part(labels, groups, "subject", 0.3, seed=1)
    shares = np.bincount(labels, drawn) / np.bincount(labels)
    assert shares == pytest.approx(0.3, abs=0.05)


def test_no_examples_have_no_folds() -> None:
    nothing = np.zeros(0, np.int64)
    for by in ("random", "subject"):
        assert not draw_part(nothing, nothing.astype(str), by, 0.3, 0).any()
        with pytest.raises(InputError, match="has 0 "):
            assign_folds(nothing, nothing.astype(str), by, 2, 0)


def test_group_is_a_person_or_equal_images() -> None:
    data = clips_of(["S1", "", "", "S2", "", "S1"], [0, 1, 0, 1, 0, 1], images=[1, 1, 2, 1, 1, 5])
    groups = group_clips(data)
    assert groups[[0, 3, 5]].tolist() == ["S1", "S2", "S1"]
    assert groups[1] == groups[4]
    assert len(set(groups.tolist())) == 4
    assert group_clips(clips_of([], [])).tolist() == []
    with pytest.raises(InputError, match="4 people or different images, fewer than --folds 5"):
        make_folds(data, Protocol(folds=5), 0, [])


def test_folds_depend_on_the_seed_but_frozen_ones_do_not() -> None:
    people = [f"S00{i % 5 + 1}" for i in range(30)]
    data = clips_of(people, [i % 3 for i in range(30)])
    made = make_folds(data, Protocol(by=("random", "subject"), folds=3, repeats=2), 7, FOLDS)
    assert [(fold.seed, fold.by, fold.number, fold.folds) for fold in made] == [
        (seed, by, number, count)
        for seed in (7, 8)
        for by, count in (("random", 3), ("subject", 4))  # the fourth has no clips
        for number in (1, 2, 3)
    ]
    tested = np.array([fold.tested for fold in made])
    assert (tested.reshape(4, 3, 30).sum(axis=1) == 1).all()
    assert (tested[:3] != tested[6:9]).any()
    assert (tested[3:6] == tested[9:12]).all()
    again = make_folds(data, Protocol(by=("random",), folds=3), 8, FOLDS)
    assert (np.array([fold.tested for fold in again]) == tested[6:9]).all()
    (part,) = make_folds(data, Protocol(test_share=0.4), 0, [])
    assert (part.by, part.number, part.folds, part.tested.sum()) == ("subject", 1, 1, 12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": 1}, "folds must be .*, got 1"),
        ({"test_share": 0.0}, "test_share must be .*, got 0.0"),
        ({"test_share": 1.0}, "test_share must be .*, got 1.0"),
        ({"repeats": 0}, "repeats must be .*, got 0"),
    ],
)
def test_invalid_protocol_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Protocol(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "part"), [(0.01, "none"), (0.99, "all of them")])
def test_share_that_leaves_one_side_empty_is_refused(share: float, part: str) -> None:
    data = clips_of(["S1", "S2", "S3"], [0, 1, 2])
    for by in ("random", "subject"):
        with pytest.raises(InputError, match=f"--test-share {share} of the 3 examples is {part}"):
            make_folds(data, Protocol(by=(by,), test_share=share), 0, [])


def test_frozen_folds_hold_each_of_118_subjects_once() -> None:
    folds = read_frozen_folds()
    subjects = [subject for fold in folds for subject in fold]
    assert len(folds) == 10
    assert len(subjects) == len(set(subjects)) == 118
    assert all(subject[0] == "S" and subject[1:].isdigit() and len(subject) == 4 for subject in subjects)
    assert all(10 <= len(fold) <= 13 for fold in folds)


def test_frozen_folds_share_the_classes_evenly(shared: Path) -> None:
    clips, counts = load_dataset(
        "ck48", shared / "data" / "ck48.parquet", classes=CK48_CLASSES, for_training=False
    )
    folds = read_frozen_folds()
    fold = assign_frozen_folds(clips.subjects, folds)
    assert not counts
    assert set(clips.subjects.tolist()) == {subject for each in folds for subject in each}
    assert np.bincount(fold).min() >= 30
    table = np.zeros((10, len(CK48_CLASSES)), int)
    np.add.at(table, (fold, clips.labels), 1)
    fair = table.sum(axis=0) / 10
    assert (np.abs(table - fair) < 2.2).all()  # in sequences
    assert (table > 0).all()


@pytest.mark.parametrize(
    ("subjects", "expected"), [([], []), (["S003"], [1]), (["S005", "S001", "S005", "S006"], [2, 0, 2, 3])]
)
def test_subjects_have_their_frozen_fold(subjects: list[str], expected: list[int]) -> None:
    numbers = assign_frozen_folds(np.array(subjects, str), FOLDS)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == expected


def test_subject_without_a_fold_is_named() -> None:
    with pytest.raises(
        InputError, match=r"2 of the data's subjects are in no fold \('', 'S777'…\).*6 subjects"
    ):
        assign_frozen_folds(np.array(["S777", "S001", "", "S777"]), FOLDS)
