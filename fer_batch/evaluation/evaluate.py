"""A checkpoint against labelled data, through the same recognizer that analysis uses."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.errors import ConfigError, InputError
from fer_batch.evaluation.metrics import measure
from fer_batch.model.recognize import Recognizer
from fer_batch.training.datasets import Clips, load_dataset
from fer_batch.training.labels import SPLITS

SPLIT_NAMES = ("Training", "PublicTest", "PrivateTest", "train", "calibrate", "select", "val", "test")
BY_DEFAULT = ("test", "select", "train")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a checkpoint is to be tried on."""

    parts: list[Clips]
    """Those of the split, of each data set."""
    labels: np.ndarray
    """`(n,) int64`, index into the model's classes, of all parts in order."""
    split: str
    data: list[dict[str, Any]]
    """Of each data set `name`, `path`, `n`, and `left_out` (`{reason: count}`)."""


def evaluate(
    data: Sequence[tuple[str, str]],
    *,
    split: str | None = None,
    checkpoint: Path | None = None,
    flip: bool = True,
    on_loaded: Callable[[Examples], None] = lambda examples: None,
) -> dict[str, Any]:
    """All figures of `measure`, and `model_id`, `data` (see `Examples`), `split`, `temperature`, `flip`.

    `data` are (name, path) of data sets (see `load_dataset`), with nothing dropped but what can't be read;
    `split` is one of `SPLIT_NAMES` in any case, None for the first of test, select, train that the data has.
    The packaged checkpoint answers where none is given. Raises FerBatchError where one of them can't be used.
    """
    split = split_name(split)
    recognizer = Recognizer(checkpoint, flip=flip)
    examples = load_examples(data, split, recognizer.card.classes)
    on_loaded(examples)
    probs = np.concatenate([predict(recognizer, clips) for clips in examples.parts])
    return {
        **measure(probs, examples.labels, recognizer.card.classes),
        "model_id": recognizer.card.model_id,
        "data": examples.data,
        "split": examples.split,
        "temperature": recognizer.card.temperature,
        "flip": flip,
    }


def split_name(given: str | None) -> str | None:
    """A split's name as the data sets have it, from FER2013's or its own, in any case; raises ConfigError."""
    if given is None:
        return None
    name = SPLITS.get(given.lower(), given.lower())
    if name not in (*SPLITS.values(), "calibrate"):
        raise ConfigError(f"--split is {given}; allowed is {', '.join(SPLIT_NAMES)}")
    return name


def load_examples(data: Sequence[tuple[str, str]], split: str | None, classes: Sequence[str]) -> Examples:
    """The clips of `split` of each data set, None for the first of `BY_DEFAULT` that occurs; labels are
    matched by name to the model's `classes`.

    Raises InputError where a data set can't be read, has nothing in the split, or has a class that the
    model doesn't know.
    """
    loaded = [load_dataset(name, Path(path), classes=classes, for_training=False) for name, path in data]
    if split is None:
        there = set().union(*(clips.splits.tolist() for clips, _ in loaded))
        split = next((s for s in BY_DEFAULT if s in there), BY_DEFAULT[0])
    parts, said = [], []
    for (name, path), (clips, left_out) in zip(data, loaded, strict=True):
        chosen = clips.take(clips.splits == split)
        if not len(chosen):
            has = Counter(clips.splits.tolist())
            raise InputError(
                f"--data {name}={path} has nothing in the split {split}; it has "
                f"{', '.join(f'{s} ({n})' for s, n in sorted(has.items()))}: name one of these as --split, "
                "and evaluate data sets without a split in common one by one"
            )
        parts.append(chosen)
        said.append({"name": name, "path": path, "n": len(chosen), "left_out": dict(left_out)})
    return Examples(
        parts=parts, labels=np.concatenate([clips.labels for clips in parts]), split=split, data=said
    )


def predict(recognizer: Recognizer, clips: Clips) -> np.ndarray:
    """Probabilities `(N, classes) float32` of each clip at its last frame.

    A clip is a track of its own, its frames as far apart as the moments of a window that the model was
    trained with; so a still is a window of one.
    """
    lengths = np.diff(clips.starts)
    tracks = np.repeat(np.arange(len(clips)), lengths)
    last = clips.starts[1:] - 1
    wanted = np.zeros(len(clips.frames), bool)
    wanted[last] = True
    times = (np.arange(len(clips.frames)) - clips.starts[tracks]) / recognizer.card.window_rate_hz
    return recognizer.recognize(clips.frames, tracks, times, wanted)[last]
