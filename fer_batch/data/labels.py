"""What data sets call their classes and splits, and which of their rows are held out where they don't say."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from fer_batch.errors import InputError

SYNONYMS = {
    "afraid": "fear",
    "anger": "angry",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "scared": "fear",
    "surprised": "surprise",
}
SPLITS = {
    "training": "train",
    "train": "train",
    "publictest": "select",
    "validation": "select",
    "valid": "select",
    "val": "select",
    "privatetest": "test",
    "test": "test",
}
SELECT_ONE_IN = 10
CALIBRATE_ONE_IN = 25


def canonical(label: object) -> str:
    """The project's name of a class: lower case, and the adjective of the seven emotions where a noun or
    another form of the same word is given ("Happiness": "happy"). Other names stay as they are.
    """
    name = str(label).strip().lower()
    return SYNONYMS.get(name, name)


def check_classes(given: str, found: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise InputError, that begins with `given`, where canonical names in `found` are none of `allowed`, by
    any of their names.
    """
    if wrong := sorted(set(found) - {canonical(name) for name in allowed}):
        raise InputError(
            f"{given}: has other classes than those allowed: {', '.join(wrong)}; allowed are "
            f"{', '.join(allowed)}: rename them or leave them out (`train` takes --leave-out and --classes)"
        )


def held_out(keys: Sequence[str], split: str) -> np.ndarray:
    """`(N,) bool`: which rows become the split "select" (1 in 10) or "calibrate" (1 in 25), by the hash of
    their keys.

    Rows of one key stay together, each key's answer is its own whatever the others are, and the two splits
    are independent: they read different digits. Only where there are so few keys that the hash chooses none
    of two ("select") or ten ("calibrate"), the first in order of the hash goes; and where it chooses all, the
    last stays.
    """
    digits, one_in = (slice(0, 8), SELECT_ONE_IN) if split == "select" else (slice(8, 16), CALIBRATE_ONE_IN)
    numbers = {key: int(hashlib.sha1(key.encode()).hexdigest()[digits], 16) for key in set(keys)}
    chosen = {key for key, number in numbers.items() if number % one_in == 0}
    if not chosen and len(numbers) >= (2 if split == "select" else 10):
        chosen = {min(numbers, key=lambda key: (numbers[key], key))}
    if chosen and len(chosen) == len(numbers):
        chosen.remove(max(numbers, key=lambda key: (numbers[key], key)))
    return np.array([key in chosen for key in keys], bool)
