"""Checkpoints against labelled data, through the same recognizer that analysis uses."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.data.clips import Clips
from fer_batch.data.labels import normalize_label
from fer_batch.errors import ConfigError
from fer_batch.evaluation.averaging import ten_crops
from fer_batch.evaluation.examples import Examples, load_examples, split_name
from fer_batch.evaluation.metrics import measure
from fer_batch.model.recognize import Recognizer
from fer_batch.model.weights import DEFAULT_CHECKPOINT, is_onnx_path, read_card

ENSEMBLE = "ensemble"
AT_ONCE = 500
"""Clips between two words of progress; the answers are the same for any number."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one checkpoint, or all together, say to the examples, looking in one way."""

    checkpoint: str
    """Its short name, different for each, or `ENSEMBLE`."""
    averaging: str
    """One of `AVERAGING`."""
    probs: np.ndarray
    """`(n, C) float32`, rows of sum 1, of `figures["classes"]`."""
    labels: np.ndarray
    """`(n,) int64`, index into the same."""
    figures: dict[str, Any]
    """All of `measure`, and `model_id`, `data`, `left_out` and `split` (see `Examples`), `without_answer`
    (classes of the model that were no answer), `temperature`, `averaging`, and `flip`: whether mirror images
    were read. Of an ensemble the temperature is None, and `members` has the model_ids."""


def evaluate(
    data: Sequence[tuple[str, str]],
    *,
    split: str | None = None,
    checkpoints: Sequence[Path | None] = (None,),
    averaging: Sequence[str] = ("flip",),
    ensemble: bool = False,
    common_classes: bool = False,
    on_loaded: Callable[[Examples], None] = lambda examples: None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> tuple[Examples, list[Answers]]:
    """The examples, and the answers of each checkpoint in each way of `averaging`, in this order; last those
    of the `ensemble`, the mean of all checkpoints' probabilities, in each way.

    `data` are (name, path) of data sets (see `load_dataset`), with nothing dropped but what can't be read;
    `split` is one of `SPLIT_NAMES` in any case, None for the first of test, select, train that the data has.
    A checkpoint of None is the packaged one. With `common_classes` the answers are restricted to the classes
    that the data and all checkpoints have (see `load_examples`), and their probabilities made to sum to 1.

    Raises FerBatchError where one of these can't be used: before anything is answered.
    """
    split = split_name(split)
    averaging = list(dict.fromkeys(averaging))
    if ensemble and len(checkpoints) < 2:
        raise ConfigError("--ensemble takes two or more checkpoints: give --checkpoint again for each")
    names = checkpoint_names(checkpoints)
    recognizers = [
        {flip: Recognizer(path, flip=flip) for flip in {way == "flip" for way in averaging}}
        for path in checkpoints
    ]
    cards = [next(iter(by_flip.values())).card for by_flip in recognizers]
    named = [[normalize_label(name) for name in card.classes] for card in cards]
    shared = [name for name in cards[0].classes if all(normalize_label(name) in has for has in named)]
    if ensemble and not common_classes:
        _check_ensemble(names, named)
    examples = load_examples(data, split, shared, common_classes)
    on_loaded(examples)
    used = {normalize_label(name) for name in examples.classes}
    found: list[Answers] = []
    for name, by_flip, card in zip(names, recognizers, cards, strict=True):
        kept = [
            i for i, label in enumerate(card.classes) if not common_classes or normalize_label(label) in used
        ]
        facts = {
            "classes": [card.classes[i] for i in kept],
            "model_id": card.model_id,
            "temperature": card.temperature,
            "without_answer": [label for i, label in enumerate(card.classes) if i not in kept],
        }
        for way in averaging:
            told = _telling(on_progress, f"{name}, {way}")
            probs = [averaged(by_flip[way == "flip"], clips, way, told) for clips in examples.parts]
            found.append(_answers(examples, name, way, restricted(np.concatenate(probs), kept), facts))
    if ensemble:
        found += [
            _ensemble(examples, way, [one for one in found if one.averaging == way]) for way in averaging
        ]
    return examples, found


def checkpoint_names(checkpoints: Sequence[Path | None]) -> list[str]:
    """A short name for each, no two the same: "default", the name of a training run's folder, or the file's
    without its suffix. Raises CheckpointError where there is no such checkpoint.
    """
    names: list[str] = []
    for given in checkpoints:
        path = given if given is not None and is_onnx_path(given) else read_card(given)[0]
        name = path.absolute().parent.name if path.name == "model.safetensors" else path.stem
        if given is None or path.resolve() == DEFAULT_CHECKPOINT.resolve():
            name = "default"
        taken, number, base = {*names, ENSEMBLE}, 1, name or "model"
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def averaged(
    recognizer: Recognizer,
    clips: Clips,
    averaging: str,
    on_done: Callable[[int, int], None] = lambda done, count: None,
) -> np.ndarray:
    """Probabilities `(N, classes) float32` of each clip at its last frame, the mean over its views.

    `averaging` is one of `AVERAGING`; the recognizer of "flip" is one that reads the mirror image itself.
    """
    parts = [np.zeros((0, len(recognizer.card.classes)), np.float32)]
    for first in range(0, len(clips), AT_ONCE):
        some = clips.take(np.arange(first, min(first + AT_ONCE, len(clips))))
        views = ten_crops(some.frames) if averaging == "ten-crop" else iter([some.frames])
        parts.append(mean_of([predict(recognizer, dataclasses.replace(some, frames=view)) for view in views]))
        on_done(first + len(some), len(clips))
    return np.concatenate(parts)


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
    return recognizer.predict_tracks(clips.frames, tracks, times, wanted)[last]


def mean_of(probs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several `(n, C) float32`, of the same shape and type; the mean of equals is exact."""
    return np.stack(probs).mean(axis=0, dtype=np.float64).astype(np.float32)


def restricted(probs: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """`(n, C) float32` with the classes `kept` alone, in this order, each row made to sum to 1 again; all
    alike where none of them had any probability.
    """
    if list(kept) == list(range(probs.shape[1])):
        return probs
    left = probs[:, list(kept)].astype(np.float64)
    total = left.sum(axis=1, keepdims=True)
    shares = np.divide(left, total, out=np.full_like(left, 1 / left.shape[1]), where=total > 0)
    return shares.astype(np.float32)


def matched(classes: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """`(C,) int64`: where each of `classes` stands among `others`, by any of its names."""
    place = {normalize_label(name): number for number, name in enumerate(others)}
    return np.array([place[normalize_label(name)] for name in classes], np.int64)


def _answers(
    examples: Examples, checkpoint: str, averaging: str, probs: np.ndarray, facts: dict[str, Any]
) -> Answers:
    labels = matched(examples.classes, facts["classes"])[examples.labels]
    figures = {
        **measure(probs, labels, facts["classes"]),
        "data": examples.data,
        "left_out": examples.left_out,
        "split": examples.split,
        "averaging": averaging,
        "flip": averaging != "none",
        **facts,
    }
    return Answers(checkpoint=checkpoint, averaging=averaging, probs=probs, labels=labels, figures=figures)


def _ensemble(examples: Examples, averaging: str, members: Sequence[Answers]) -> Answers:
    classes = members[0].figures["classes"]
    probs = [one.probs[:, matched(classes, one.figures["classes"])] for one in members]
    facts = {
        "classes": classes,
        "model_id": f"{ENSEMBLE} of {len(members)}",
        "members": [one.figures["model_id"] for one in members],
        "temperature": None,
        "without_answer": [],
    }
    return _answers(examples, ENSEMBLE, averaging, mean_of(probs), facts)


def _telling(on_progress: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    return lambda done, count: on_progress(f"{what}: {done:,} of {count:,}")


def _check_ensemble(names: Sequence[str], classes: Sequence[Sequence[str]]) -> None:
    for name, has in zip(names[1:], classes[1:], strict=True):
        if set(has) != set(classes[0]):
            raise ConfigError(
                f"--ensemble takes checkpoints of the same classes: {names[0]} has {', '.join(classes[0])}, "
                f"{name} has {', '.join(has)}; give --common-classes to answer only what all have"
            )
