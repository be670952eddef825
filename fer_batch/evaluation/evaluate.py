"""Evaluate checkpoints on labelled faces, with the recognizer that analysis uses."""

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
from fer_batch.evaluation.examples import Examples, load_examples, parse_split
from fer_batch.evaluation.metrics import Metrics, measure
from fer_batch.model.card import DEFAULT_CHECKPOINT, is_onnx_path, read_card
from fer_batch.model.recognize import Recognizer
from fer_batch.training.curves import History, read_history

ENSEMBLE = "ensemble"
CLIPS_PER_STEP = 500
"""Clips between two calls of `on_progress`. The predictions do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class CheckpointResult:
    """The predictions of one checkpoint, or of the ensemble, with one way of averaging."""

    checkpoint: str
    """Short, unique name of the checkpoint, or `ENSEMBLE`."""
    averaging: str
    """One of `AVERAGING`."""
    model_id: str
    metrics: Metrics
    temperature: float | None
    """Temperature of the card; None for an ensemble."""
    unused_classes: tuple[str, ...]
    """Classes of the model that are excluded from its predictions."""
    members: tuple[str, ...]
    """Model ids of an ensemble's members; empty for a checkpoint."""
    history: History | None = dataclasses.field(repr=False)
    """The history of the training run in whose folder the checkpoint lies, if any."""
    probs: np.ndarray = dataclasses.field(repr=False)
    """`(n, C) float32` with rows of sum 1, by `metrics.classes`."""
    labels: np.ndarray = dataclasses.field(repr=False)
    """`(n,) int64`: index into `metrics.classes`."""

    @property
    def is_correct(self) -> np.ndarray:
        """`(n,) bool`: whether each prediction is correct."""
        return self.probs.argmax(axis=1) == self.labels

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics and the facts about the model as plain values for JSON."""
        return {
            **self.metrics.to_dict(),
            "averaging": self.averaging,
            "flip": self.averaging != "none",
            "model_id": self.model_id,
            "temperature": self.temperature,
            "without_answer": list(self.unused_classes),
            **({"members": list(self.members)} if self.members else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of all checkpoints on the same examples."""

    examples: Examples
    results: tuple[CheckpointResult, ...]
    """One result for each checkpoint and way of averaging, in this order, then those of the ensemble."""

    def __repr__(self) -> str:
        scores = ", ".join(
            f"{result.checkpoint}/{result.averaging}: accuracy {result.metrics.accuracy:.3f}, "
            f"macro-F1 {result.metrics.macro_f1:.3f}"
            for result in self.results
        )
        return f"<Evaluation of {len(self.examples.labels)} examples, split {self.examples.split}; {scores}>"

    @property
    def first_results(self) -> tuple[CheckpointResult, ...]:
        """The results with the first way of averaging, one for each checkpoint."""
        averaging = self.results[0].averaging
        return tuple(result for result in self.results if result.averaging == averaging)

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics as plain values: `data`, `left_out`, `split`, and `results`."""
        return {**self.examples.to_dict(), "results": [result.to_dict() for result in self.results]}

    def write(self, out: Path | str, *, samples: bool = True) -> None:
        """Write metrics, tables and plots into the folder `out`; see `report.write_evaluation`."""
        from fer_batch.evaluation.report import write_evaluation

        write_evaluation(Path(out), self, samples=samples)


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
) -> Evaluation:
    """Measure checkpoints on labelled faces.

    A sequence is classified at its last frame. Only unreadable images are left out, and CK+48's contempt if
    the model lacks that class.

        evaluation = fer_batch.evaluate([("fer2013", "fer2013.parquet")], split="PublicTest")
        evaluation.results[0].metrics.accuracy
        evaluation.write("report")

    Args:
        data: (name, path) of data sets; the names are those of `fer-batch train --data`.
        split: one of `examples.SPLIT_NAMES` in any case; None for the first of test, select and train that
            the data has.
        checkpoints: files or folders of training runs; None is the packaged checkpoint.
        averaging: any of `AVERAGING`; each gives a result.
        ensemble: whether to add the mean of all checkpoints' probabilities.
        common_classes: whether to leave out examples of classes that a checkpoint lacks, and to restrict the
            predictions to the classes of the data.
        on_loaded: called with the examples before the first prediction.
        on_progress: called with a line of text after every few hundred examples.

    Raises FerBatchError if a checkpoint or a data set cannot be used, before the first prediction.
    """
    split = parse_split(split)
    averaging = list(dict.fromkeys(averaging))
    if ensemble and len(checkpoints) < 2:
        raise ConfigError("--ensemble needs two or more checkpoints: give --checkpoint once for each")
    names = name_checkpoints(checkpoints)
    histories = [read_history(path) for path in checkpoints]
    recognizers = [
        {flip: Recognizer(path, flip=flip) for flip in {way == "flip" for way in averaging}}
        for path in checkpoints
    ]
    cards = [next(iter(by_flip.values())).card for by_flip in recognizers]
    canonical_classes = [[normalize_label(name) for name in card.classes] for card in cards]
    shared = [
        name for name in cards[0].classes if all(normalize_label(name) in has for has in canonical_classes)
    ]
    if ensemble and not common_classes:
        _check_ensemble(names, canonical_classes)
    examples = load_examples(data, split, shared, common_classes)
    on_loaded(examples)
    used = {normalize_label(name) for name in examples.classes}
    results: list[CheckpointResult] = []
    for name, by_flip, card, history in zip(names, recognizers, cards, histories, strict=True):
        kept = [
            i for i, label in enumerate(card.classes) if not common_classes or normalize_label(label) in used
        ]
        kept_classes = [card.classes[i] for i in kept]
        labels = match_classes(examples.classes, kept_classes)[examples.labels]
        for way in averaging:
            report = _report(on_progress, name, way)
            parts = [predict_averaged(by_flip[way == "flip"], clips, way, report) for clips in examples.parts]
            probs = restrict_classes(np.concatenate(parts), kept)
            results.append(
                CheckpointResult(
                    checkpoint=name,
                    averaging=way,
                    model_id=card.model_id,
                    metrics=measure(probs, labels, kept_classes),
                    temperature=card.temperature,
                    unused_classes=tuple(label for i, label in enumerate(card.classes) if i not in kept),
                    members=(),
                    history=history,
                    probs=probs,
                    labels=labels,
                )
            )
    if ensemble:
        results += [
            _average_results([result for result in results if result.averaging == way]) for way in averaging
        ]
    return Evaluation(examples=examples, results=tuple(results))


def name_checkpoints(checkpoints: Sequence[Path | None]) -> list[str]:
    """Return a short, unique name for each checkpoint.

    The name is "default", that of the training run's folder, or the file's without its suffix. Raises
    CheckpointError if a checkpoint does not exist.
    """
    names: list[str] = []
    for checkpoint in checkpoints:
        exported = checkpoint is not None and is_onnx_path(checkpoint)
        path = checkpoint if checkpoint is not None and exported else read_card(checkpoint)[0]
        name = path.absolute().parent.name if path.name == "model.safetensors" else path.stem
        if checkpoint is None or path.resolve() == DEFAULT_CHECKPOINT.resolve():
            name = "default"
        taken, number, base = {*names, ENSEMBLE}, 1, name or "model"
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def predict_averaged(
    recognizer: Recognizer,
    clips: Clips,
    averaging: str,
    on_progress: Callable[[int, int], None] = lambda done, count: None,
) -> np.ndarray:
    """Return `(N, classes) float32` probabilities of each clip at its last frame, averaged over its views.

    `averaging` is one of `AVERAGING`. For "flip" the recognizer itself must average over the mirror image.
    """
    blocks = [np.zeros((0, len(recognizer.card.classes)), np.float32)]
    for first in range(0, len(clips), CLIPS_PER_STEP):
        block = clips.take(np.arange(first, min(first + CLIPS_PER_STEP, len(clips))))
        views = ten_crops(block.frames) if averaging == "ten-crop" else iter([block.frames])
        blocks.append(
            average_probs([predict(recognizer, dataclasses.replace(block, frames=view)) for view in views])
        )
        on_progress(first + len(block), len(clips))
    return np.concatenate(blocks)


def predict(recognizer: Recognizer, clips: Clips) -> np.ndarray:
    """Return `(N, classes) float32` probabilities of each clip at its last frame.

    Each clip is a track. Its frames are as far apart as the sampled frames of the model's windows. So a still
    is a window of one frame.
    """
    tracks = np.repeat(np.arange(len(clips)), np.diff(clips.starts))
    last = clips.starts[1:] - 1
    wanted = np.zeros(len(clips.frames), bool)
    wanted[last] = True
    times = (np.arange(len(clips.frames)) - clips.starts[tracks]) / recognizer.card.window_rate_hz
    return recognizer.predict_tracks(clips.frames, tracks, times, wanted)[last]


def average_probs(probs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of several `(n, C) float32` arrays. The mean of equal arrays is exact."""
    return np.stack(probs).mean(axis=0, dtype=np.float64).astype(np.float32)


def restrict_classes(probs: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """Return the columns `kept` of `(n, C) float32` probabilities, with rows scaled to sum 1.

    A row without any probability in these columns becomes uniform.
    """
    if list(kept) == list(range(probs.shape[1])):
        return probs
    columns = probs[:, list(kept)].astype(np.float64)
    total = columns.sum(axis=1, keepdims=True)
    scaled = np.divide(columns, total, out=np.full_like(columns, 1 / columns.shape[1]), where=total > 0)
    return scaled.astype(np.float32)


def match_classes(classes: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return the index of each of `classes` in `others`, `(C,) int64`. Synonyms are equal."""
    index = {normalize_label(name): number for number, name in enumerate(others)}
    return np.array([index[normalize_label(name)] for name in classes], np.int64)


def _average_results(members: Sequence[CheckpointResult]) -> CheckpointResult:
    """Return the result of the ensemble, by the classes of its first member."""
    first = members[0]
    classes = first.metrics.classes
    probs = average_probs(
        [member.probs[:, match_classes(classes, member.metrics.classes)] for member in members]
    )
    return dataclasses.replace(
        first,
        checkpoint=ENSEMBLE,
        model_id=f"{ENSEMBLE} of {len(members)}",
        metrics=measure(probs, first.labels, classes),
        temperature=None,
        unused_classes=(),
        members=tuple(member.model_id for member in members),
        history=None,
        probs=probs,
    )


def _report(on_progress: Callable[[str], None], name: str, averaging: str) -> Callable[[int, int], None]:
    return lambda done, count: on_progress(f"{name}, {averaging}: {done:,} of {count:,}")


def _check_ensemble(names: Sequence[str], classes: Sequence[Sequence[str]]) -> None:
    for name, own in zip(names[1:], classes[1:], strict=True):
        if set(own) != set(classes[0]):
            raise ConfigError(
                f"--ensemble needs checkpoints of the same classes: {names[0]} has {', '.join(classes[0])}, "
                f"{name} has {', '.join(own)}; give --common-classes to use only the classes that all have"
            )
