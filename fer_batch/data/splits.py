"""Division of labelled examples into the splits for training, selection, calibration and testing."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from fer_batch.data.images import LabelledExample
from fer_batch.data.twins import find_twins

HELD_OUT_ONE_IN = {"select": 10, "calibrate": 25, "test": 5}
MIN_KEYS = {"select": 2, "calibrate": 10, "test": 5}
"""Number of keys from which a split is never empty."""


def divide_for_training(
    datasets: Sequence[Sequence[LabelledExample]], counts: Counter[str]
) -> list[LabelledExample]:
    """Give each example of several data sets its split, and drop training examples that would leak.

    1. Examples without a split become "train". In a data set without a selection split, 1 in 10 training
       examples becomes "select".
    2. Training examples with an image that shows the same picture as one of another split, in any data set,
       are dropped ("twins_dropped" in `counts`), and so are training images of one uniform grey
       ("blank_dropped").
    3. 1 in 25 of the remaining training examples becomes "calibrate", and its twins are dropped.

    Training images that occur with different labels are kept, and counted as "contradictory".
    """
    rows = [row for dataset in datasets for row in _ensure_selection_split(dataset)]
    rows = _drop_twins(rows, ("select", "test"), counts)
    rows = _drop_training(
        rows, counts, "blank_dropped", lambda row: bool(row.images.min() == row.images.max())
    )
    _count_contradictory(rows, counts)
    return _drop_twins(_hold_out(rows, "calibrate"), ("calibrate",), counts)


def choose_held_out(keys: Sequence[str], split: str) -> np.ndarray:
    """Choose the rows of a split of `HELD_OUT_ONE_IN` by the hash of their keys.

    Returns a `(N,) bool` mask. Rows with the same key are chosen together, and the choice of a key does not
    depend on the other keys. The splits are independent, because they use different digits of the hash.

    There are two exceptions for few keys. If the hash chooses none of at least `MIN_KEYS` keys, the first key
    in order of the hash is chosen. If it chooses all keys, the last one is not.
    """
    first = 8 * list(HELD_OUT_ONE_IN).index(split)
    numbers = {key: int(hashlib.sha1(key.encode()).hexdigest()[first : first + 8], 16) for key in set(keys)}
    chosen = {key for key, number in numbers.items() if number % HELD_OUT_ONE_IN[split] == 0}
    if not chosen and len(numbers) >= MIN_KEYS[split]:
        chosen = {min(numbers, key=lambda key: (numbers[key], key))}
    if chosen and len(chosen) == len(numbers):
        chosen.remove(max(numbers, key=lambda key: (numbers[key], key)))
    return np.array([key in chosen for key in keys], bool)


def _ensure_selection_split(rows: Sequence[LabelledExample]) -> list[LabelledExample]:
    rows = [dataclasses.replace(row, split=row.split or "train") for row in rows]
    if any(row.split == "select" for row in rows):
        return rows
    return _hold_out(rows, "select")


def _hold_out(rows: list[LabelledExample], split: str) -> list[LabelledExample]:
    """Move a part of the training examples to `split`, by subject if it is known, else by image."""
    keys = [row.subject or _hash_image(row.images) for row in rows if row.split == "train"]
    chosen = iter(choose_held_out(keys, split).tolist())
    return [
        dataclasses.replace(row, split=split) if row.split == "train" and next(chosen) else row
        for row in rows
    ]


def _drop_twins(
    rows: list[LabelledExample], splits: Sequence[str], counts: Counter[str]
) -> list[LabelledExample]:
    """Drop the training examples with an image that shows the same picture as one of `splits`."""
    held_out = [row.images for row in rows if row.split in splits]
    training = [row.images for row in rows if row.split == "train"]
    if not held_out or not training:
        return rows
    is_twin = find_twins(np.concatenate(training), np.concatenate(held_out))
    starts = np.cumsum([0, *(len(images) for images in training[:-1])])
    dropped = iter(np.logical_or.reduceat(is_twin, starts).tolist())
    return _drop_training(rows, counts, "twins_dropped", lambda row: next(dropped))


def _drop_training(
    rows: list[LabelledExample],
    counts: Counter[str],
    reason: str,
    is_dropped: Callable[[LabelledExample], bool],
) -> list[LabelledExample]:
    """Drop training examples, and count them under `reason`."""
    kept = [row for row in rows if row.split != "train" or not is_dropped(row)]
    if len(kept) < len(rows):
        counts[reason] += len(rows) - len(kept)
    return kept


def _count_contradictory(rows: list[LabelledExample], counts: Counter[str]) -> None:
    labels: dict[str, set[str]] = {}
    training = [(_hash_image(row.images), row.label) for row in rows if row.split == "train"]
    for key, label in training:
        labels.setdefault(key, set()).add(label)
    if contradictory := sum(len(labels[key]) > 1 for key, _ in training):
        counts["contradictory"] += contradictory


def _hash_image(image: np.ndarray) -> str:
    return hashlib.sha1(image.tobytes()).hexdigest()
