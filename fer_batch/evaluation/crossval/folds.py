"""Folds: divisions of clips by subject, so that no person is on both sides, or at random.

The folds of CK+48 by subject are frozen in `ck48_folds.json`: ten lists of subject ids. scikit-learn's
`StratifiedGroupKFold(10, shuffle=True, random_state=0)` made them from the 327 sequences in order of their
names, with subjects as groups and the seven classes as strata. Each fold holds 31 to 38 sequences of 10 to 13
people, and a tenth of each class.
"""

import hashlib
import itertools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fer_batch.data.clips import Clips
from fer_batch.errors import InputError
from fer_batch.fields import Range, check_fields

FROZEN_FOLDS_FILE = Path(__file__).parent / "ck48_folds.json"
FROZEN_FOLDS = 10
DIVISIONS = ("subject", "random")
CANDIDATE_PARTS = 200
"""Random parts by subject, of which the one with the fairest classes is taken."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How clips are divided into training and test data. Raises ConfigError for a value out of range."""

    by: tuple[str, ...] = ("subject",)
    """Any of `DIVISIONS`; each is evaluated."""
    folds: Annotated[int, Range(at_least=2)] = FROZEN_FOLDS
    test_share: Annotated[float | None, Range(above=0, below=1)] = None
    """Share of the clips in the single test part, between 0 and 1; None tests each fold in turn."""
    repeats: Annotated[int, Range(at_least=1)] = 1
    """Number of repetitions, each with the next seed for its folds and its training."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Clips that test a model which is trained on the other clips."""

    by: str
    """One of `DIVISIONS`."""
    seed: int
    number: int
    """From 1."""
    folds: int
    """Number of folds of this division and seed."""
    tested: np.ndarray
    """`(N,) bool`: whether a clip is in the fold."""


def make_folds(data: Clips, protocol: Protocol, seed: int, frozen: Sequence[Sequence[str]]) -> list[Fold]:
    """Return all folds of a protocol, ordered by seed and division. Folds without clips are left out.

    `frozen` are lists of subject ids. If there are any, they are the folds by subject for every seed.

    Raises InputError if the data cannot be divided in this way.
    """
    groups = group_clips(data)
    made: list[Fold] = []
    for fold_seed, by in itertools.product(range(seed, seed + protocol.repeats), protocol.by):
        if protocol.test_share is not None:
            drawn = draw_part(data.labels, groups, by, protocol.test_share, fold_seed)
            if drawn.all() or not drawn.any():
                raise InputError(
                    f"--test-share {protocol.test_share} of the {len(data)} examples is "
                    f"{'all of them' if drawn.any() else 'none'}: give another share or more data"
                )
            fold, count = np.where(drawn, 0, -1), 1
        elif by == "subject" and frozen:
            fold, count = assign_frozen_folds(data.subjects, frozen), len(frozen)
        else:
            fold = assign_folds(data.labels, groups, by, protocol.folds, fold_seed)
            count = protocol.folds
        made += [
            Fold(by=by, seed=fold_seed, number=number + 1, folds=count, tested=fold == number)
            for number in np.unique(fold[fold >= 0]).tolist()
        ]
    return made


def group_clips(data: Clips) -> np.ndarray:
    """Return the group of each clip, `(N,) str`; a group must not be on both sides of a division.

    The group is the subject. For an unknown subject it is a hash of the images, so that equal images are in
    one group.
    """
    groups = data.subjects.astype(object)
    for index in np.flatnonzero(data.subjects == ""):
        images = data.frames[data.starts[index] : data.starts[index + 1]]
        groups[index] = f"images {hashlib.sha1(images.tobytes()).hexdigest()}"
    return groups.astype(str)


def assign_folds(labels: np.ndarray, groups: np.ndarray, by: str, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each example, `(N,) int64` from 0, with about equal numbers of each class per fold.

    `labels` is `(N,) int`, `groups` `(N,) str`. By "subject", a group is in one fold as a whole.

    Raises InputError if there are fewer examples, or groups, than folds.
    """
    group_names, group = np.unique(groups, return_inverse=True)
    available = len(group_names) if by == "subject" else len(labels)
    if available < folds:
        unit = "people or different images" if by == "subject" else "examples"
        raise InputError(f"the data has {available} {unit}, fewer than --folds {folds}: give fewer folds")
    splitter = StratifiedGroupKFold if by == "subject" else StratifiedKFold
    # scikit-learn refuses classes that are all smaller than the number of folds.
    strata = np.zeros_like(labels) if np.bincount(labels).max() < folds else labels
    numbers = np.zeros(len(labels), np.int64)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # about one class that small
        parts = splitter(folds, shuffle=True, random_state=seed).split(strata, strata, group)
        for number, (_, tested) in enumerate(parts):
            numbers[tested] = number
    return numbers


def draw_part(labels: np.ndarray, groups: np.ndarray, by: str, share: float, seed: int) -> np.ndarray:
    """Draw a part with about `share` of the examples of each class, `(N,) bool`.

    By "subject", a group is inside or outside as a whole. Of `CANDIDATE_PARTS` with this share of the groups,
    the one with the fairest classes is taken.
    """
    random = np.random.default_rng(seed)
    if by == "random":
        drawn = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            drawn[members[: round(share * len(members))]] = True
        return drawn
    group_names, group = np.unique(groups, return_inverse=True)
    table = np.zeros((len(group_names), labels.max(initial=0) + 1))
    np.add.at(table, (group, labels), 1)
    count = round(share * len(group_names))
    parts = [random.permutation(len(group_names))[:count] for _ in range(CANDIDATE_PARTS)]
    unfairness = [np.abs(table[part].sum(axis=0) - share * table.sum(axis=0)).sum() for part in parts]
    return np.isin(group, parts[int(np.argmin(unfairness))])


def read_frozen_folds(path: Path = FROZEN_FOLDS_FILE) -> list[list[str]]:
    """Read the subject ids of each fold."""
    folds: list[list[str]] = json.loads(path.read_text())
    return folds


def assign_frozen_folds(subjects: np.ndarray, folds: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the fold of each of `(N,) str` subjects, `(N,) int64` from 0.

    Raises InputError for a subject that is in no fold.
    """
    number = {subject: index for index, fold in enumerate(folds) for subject in fold}
    unknown = sorted(set(subjects.tolist()) - number.keys())
    if unknown:
        raise InputError(
            f"{len(unknown)} of the data's subjects are in no fold ({', '.join(map(repr, unknown[:3]))}…); "
            f"the folds contain CK+'s {len(number)} subjects, with file names such as "
            "S010_004_00000017.png: use the unchanged CK+48"
        )
    return np.array([number[subject] for subject in subjects.tolist()], np.int64)
