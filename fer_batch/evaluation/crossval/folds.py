"""Who is trained on and who is asked: clips divided by people, so that nobody is on both sides, or at random,
as it is often published.

The folds of CK+48 by subject are frozen in `ck48_folds.json`: ten lists of subjects' ids. They were made once
by scikit-learn's `StratifiedGroupKFold(10, shuffle=True, random_state=0)`, its groups the subjects and its
strata the seven classes, of the 327 sequences in order of their name; so each fold holds 31 to 38
sequences of 10 to 13 people, and a tenth of each class.
"""

import hashlib
import itertools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from fer_batch.data.clips import Clips
from fer_batch.errors import ConfigError, InputError

FOLDS = Path(__file__).parent / "ck48_folds.json"
FROZEN = 10
"""How many folds that file has."""
PROTOCOLS = ("subject", "random")
DRAWS = 200
"""Parts by subject that are drawn, of which the one with the fairest classes is taken."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How clips are divided; raises ConfigError where it can't be done so."""

    by: tuple[str, ...] = ("subject",)
    """Of `PROTOCOLS`: each is gone through."""
    folds: int = FROZEN
    test_share: float | None = None
    """One part with this share of the clips is asked instead of each fold in turn."""
    repeats: int = 1
    """Each with the next seed, for its folds and its training."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"--folds is {self.folds}; allowed is a whole number from 2")
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise ConfigError(f"--test-share is {self.test_share}; allowed is a share between 0 and 1")
        if self.repeats < 1:
            raise ConfigError(f"--repeats is {self.repeats}; allowed is a whole number from 1")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Clips to be asked of a model that is trained on the others."""

    by: str
    seed: int
    number: int
    """From 1."""
    folds: int
    """How many there are of this protocol and seed."""
    tested: np.ndarray
    """`(N,) bool`."""


def make_folds(data: Clips, protocol: Protocol, seed: int, frozen: Sequence[Sequence[str]]) -> list[Fold]:
    """All folds of `protocol`, those of each seed and way to divide in order; `frozen` are lists of
    subjects' ids to take for those by subject, whatever the seed, where it has any.

    Folds without clips are left out. Raises InputError where the data can't be divided so.
    """
    groups = groups_of(data)
    made: list[Fold] = []
    for each, by in itertools.product(range(seed, seed + protocol.repeats), protocol.by):
        if protocol.test_share is not None:
            drawn = draw_part(data.labels, groups, by, protocol.test_share, each)
            if drawn.all() or not drawn.any():
                raise InputError(
                    f"--test-share {protocol.test_share} of the {len(data)} examples is "
                    f"{'all of them' if drawn.any() else 'none'}: give another share or more data"
                )
            fold, count = np.where(drawn, 0, -1), 1
        elif by == "subject" and frozen:
            fold, count = fold_of(data.subjects, frozen), len(frozen)
        else:
            fold, count = assign_folds(data.labels, groups, by, protocol.folds, each), protocol.folds
        made += [
            Fold(by=by, seed=each, number=number + 1, folds=count, tested=fold == number)
            for number in np.unique(fold[fold >= 0]).tolist()
        ]
    return made


def groups_of(data: Clips) -> np.ndarray:
    """`(N,) str`: what must not be on both sides: the subject, or where it is unknown the images themselves,
    so that the same images are one group.
    """
    groups = data.subjects.astype(object)
    for index in np.flatnonzero(data.subjects == ""):
        images = data.frames[data.starts[index] : data.starts[index + 1]]
        groups[index] = f"images {hashlib.sha1(images.tobytes()).hexdigest()}"
    return groups.astype(str)


def assign_folds(labels: np.ndarray, groups: np.ndarray, by: str, folds: int, seed: int) -> np.ndarray:
    """`(N,) int64`: the fold, from 0, of each example, `(N,) int` its class, `(N,) str` its group: about as
    many of each class in each fold, and by "subject" all of a group in one.

    Raises InputError where there are fewer examples, or groups, than folds.
    """
    names, group = np.unique(groups, return_inverse=True)
    there = len(names) if by == "subject" else len(labels)
    if there < folds:
        unit = "people or different images" if by == "subject" else "examples"
        raise InputError(f"the data has {there} {unit}, fewer than --folds {folds}: give fewer folds")
    made = StratifiedGroupKFold if by == "subject" else StratifiedKFold
    rare = np.bincount(labels).max() < folds  # no class is in each fold then, and scikit-learn refuses it
    strata = np.zeros_like(labels) if rare else labels
    numbers = np.zeros(len(labels), np.int64)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a class smaller than the folds
        parts = made(folds, shuffle=True, random_state=seed).split(strata, strata, group)
        for number, (_, tested) in enumerate(parts):
            numbers[tested] = number
    return numbers


def draw_part(labels: np.ndarray, groups: np.ndarray, by: str, share: float, seed: int) -> np.ndarray:
    """`(N,) bool`: a part with about `share` of the examples of each class; by "subject", with all or none of
    a group's, the fairest to the classes of `DRAWS` parts with that share of the groups.
    """
    random = np.random.default_rng(seed)
    if by == "random":
        drawn = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            members = random.permutation(np.flatnonzero(labels == label))
            drawn[members[: round(share * len(members))]] = True
        return drawn
    names, group = np.unique(groups, return_inverse=True)
    table = np.zeros((len(names), labels.max(initial=0) + 1))
    np.add.at(table, (group, labels), 1)
    count = round(share * len(names))
    parts = [random.permutation(len(names))[:count] for _ in range(DRAWS)]
    unfair = [np.abs(table[part].sum(axis=0) - share * table.sum(axis=0)).sum() for part in parts]
    return np.isin(group, parts[int(np.argmin(unfair))])


def read_folds(path: Path = FOLDS) -> list[list[str]]:
    """The subjects of each fold; raises InputError where the file is no list of lists of ids, each in one
    fold only.
    """
    try:
        folds = json.loads(path.read_text())
        subjects = [subject for fold in folds for subject in fold]
        valid = all(isinstance(fold, list) for fold in folds) and all(isinstance(s, str) for s in subjects)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a readable file of folds: {error}") from error
    if not valid or len(folds) < 2 or len(set(subjects)) < len(subjects):
        raise InputError(f"{path}: folds are two or more lists of subjects' ids, each id in one of them")
    return folds


def fold_of(subjects: np.ndarray, folds: Sequence[Sequence[str]]) -> np.ndarray:
    """`(N,) int64`: the fold, from 0, of each of `(N,) str` subjects; raises InputError for one in none."""
    number = {subject: index for index, fold in enumerate(folds) for subject in fold}
    unknown = sorted(set(subjects.tolist()) - number.keys())
    if unknown:
        raise InputError(
            f"{len(unknown)} of the data's subjects are in no fold ({', '.join(map(repr, unknown[:3]))}…); "
            f"the folds know CK+'s {len(number)} subjects, as in S010_004_00000017.png: use CK+48 as it is"
        )
    return np.array([number[subject] for subject in subjects.tolist()], np.int64)
