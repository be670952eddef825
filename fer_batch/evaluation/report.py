"""The files of an evaluation: JSON, CSV and plots."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_batch.errors import OutputError
from fer_batch.evaluation.compare import COMPARED_METRICS, Comparison, ComparisonRow, compare
from fer_batch.evaluation.evaluate import CheckpointResult, Evaluation
from fer_batch.evaluation.examples import Examples
from fer_batch.evaluation.metrics import normalize_rows, top1
from fer_batch.evaluation.plots import (
    plot_class_scores,
    plot_comparison,
    plot_confusion,
    plot_faces,
    plot_reliability,
)
from fer_batch.plotting import render_figure
from fer_batch.storage.atomic import format_csv, write_bytes, write_json
from fer_batch.training.curves import History, plot_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_FACES = 24
"""Faces in one picture."""
SAMPLE_SEED = 0
FACE_PICTURES = ("samples_right.png", "samples_wrong.png", "mistakes.png")
FACE_TITLE = "true → predicted, confidence"


def write_evaluation(out: Path, evaluation: Evaluation, *, samples: bool = True) -> None:
    """Write the results of an evaluation into the folder `out`.

    The folder gets the files of `write_report` for one checkpoint; for several, one folder for each with the
    first way of averaging. Several results also give the files of `write_comparison`.

    Raises OutputError if a file cannot be written.
    """
    reported = evaluation.first_results
    for result in reported:
        folder = out if len(reported) == 1 else out / result.checkpoint
        write_report(folder, evaluation.examples, result, samples=samples)
    if len(evaluation.results) > 1:
        write_comparison(out, compare(evaluation))


def write_report(out: Path, examples: Examples, result: CheckpointResult, *, samples: bool = True) -> None:
    """Write the metrics, tables and plots of one result into the folder `out`.

    The files are `metrics.json`, `per_class.csv`, `confusion.csv` (counts, a row for each true class),
    `confusion_normalized.csv`, `mistakes.csv` (a row for each wrong prediction, the most confident first) and
    plots of these (300 dpi). The history of the training run, if known, is copied as `history.json` and
    `.csv`, with `learning_curves.png`. Other files in the folder stay.

    With `samples`, three pictures show faces: random correct and wrong predictions, and the most confident
    mistakes. Without, such pictures of an earlier report are removed.

    Raises OutputError if a file cannot be written.
    """
    metrics = result.metrics
    scores = [{"class": name, **vars(values)} for name, values in metrics.per_class.items()]
    mistakes = _find_mistakes(result)

    def write() -> None:
        write_json(out / "metrics.json", {**result.to_dict(), **examples.to_dict()})
        write_bytes(out / "per_class.csv", format_csv(list(scores[0]), (s.values() for s in scores)))
        shares = normalize_rows(metrics.confusion)
        for name, matrix in (("confusion", metrics.confusion), ("confusion_normalized", shares)):
            rows = ([true, *row] for true, row in zip(metrics.classes, matrix.tolist(), strict=True))
            write_bytes(out / f"{name}.csv", format_csv(["true", *metrics.classes], rows))
        write_bytes(out / "confusion.png", render_figure(plot_confusion(metrics.confusion, metrics.classes)))
        write_bytes(out / "reliability.png", render_figure(plot_reliability(metrics)))
        write_bytes(out / "per_class.png", render_figure(plot_class_scores(metrics)))
        write_bytes(out / "mistakes.csv", _tabulate_mistakes(examples, result, mistakes))
        for name in FACE_PICTURES if not samples else ():
            (out / name).unlink(missing_ok=True)
        for name, figure in _plot_samples(examples, result, mistakes).items() if samples else ():
            write_bytes(out / name, render_figure(figure))
        if result.history is not None:
            _write_history(out, result.history)

    _write_folder(out, write)


def write_comparison(out: Path, comparison: Comparison) -> None:
    """Write `comparison.json`, `comparison.csv` and `comparison.png` into the folder `out`.

    The table has a row for each checkpoint and way of averaging. Gains are in percentage points of accuracy.

    Raises OutputError if a file cannot be written.
    """
    header = ["checkpoint", "averaging", "model_id", "n", *COMPARED_METRICS]
    header += [f"{name}_{end}" for name in ("accuracy", "macro_f1") for end in ("low", "high")]
    header += ["gain_points", "gain_low", "gain_high", "only_first", "only_this", "p"]
    header += [f"f1_{name}" for name in comparison.classes]

    def write() -> None:
        write_json(out / "comparison.json", comparison.to_dict())
        write_bytes(out / "comparison.csv", format_csv(header, map(_tabulate_row, comparison.rows)))
        write_bytes(out / "comparison.png", render_figure(plot_comparison(comparison)))

    _write_folder(out, write)


def _write_folder(out: Path, write: Callable[[], None]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}; give another --out") from error


def _write_history(out: Path, history: History) -> None:
    write_json(out / "history.json", history.epochs)
    columns = list(dict.fromkeys(key for row in history.epochs for key in row))
    rows = ([row.get(key) for key in columns] for row in history.epochs)
    write_bytes(out / "history.csv", format_csv(columns, rows))
    write_bytes(out / "learning_curves.png", render_figure(plot_curves(history.epochs, history.selection)))


def _tabulate_row(row: ComparisonRow) -> list[object]:
    metrics, gain = row.metrics, row.gain
    points = [100 * value for value in (gain.accuracy, *gain.interval)] if gain else [None] * 3
    return [
        row.checkpoint, row.averaging, row.model_id, metrics.n,
        *(getattr(metrics, name) for name in COMPARED_METRICS),
        *metrics.intervals["accuracy"], *metrics.intervals["macro_f1"],
        *points, *((gain.only_first, gain.only_second, gain.p) if gain else [None] * 3),
        *row.f1.values(),
    ]  # fmt: skip


def _find_mistakes(result: CheckpointResult) -> np.ndarray:
    """Return the indices of the wrong predictions, the most confident first."""
    predicted, confidence = top1(result.probs)
    order = np.argsort(-confidence, kind="stable")
    return order[(predicted != result.labels)[order]]


def _tabulate_mistakes(examples: Examples, result: CheckpointResult, mistakes: np.ndarray) -> bytes:
    classes = result.metrics.classes
    predicted, confidence = top1(result.probs)
    names = [part.name for part in examples.data for _ in range(part.n)]
    indices = np.concatenate(examples.indices)
    rows = (
        [
            names[i], int(indices[i]), classes[result.labels[i]], classes[predicted[i]],
            f"{confidence[i]:.6f}", f"{result.probs[i, result.labels[i]]:.6f}",
        ]
        for i in mistakes.tolist()
    )  # fmt: skip
    return format_csv(["data", "index", "true", "predicted", "confidence", "true_probability"], rows)


def _plot_samples(examples: Examples, result: CheckpointResult, mistakes: np.ndarray) -> "dict[str, Figure]":
    """Return the figures of `FACE_PICTURES`. A sequence is shown by its last frame."""
    random = np.random.default_rng(SAMPLE_SEED)
    correct = np.setdiff1d(np.arange(len(result.labels)), mistakes)
    chosen: dict[str, tuple[np.ndarray, str]] = {}
    for kind, candidates in (("right", correct), ("wrong", np.sort(mistakes))):
        drawn = random.permutation(candidates)[:MAX_FACES]
        heading = f"{len(drawn)} of {len(candidates):,} {kind} predictions, at random: {FACE_TITLE}"
        chosen[f"samples_{kind}.png"] = drawn, heading
    top = mistakes[:MAX_FACES]
    heading = f"the {len(top)} most confident of {len(mistakes):,} mistakes: {FACE_TITLE}"
    chosen["mistakes.png"] = top, heading
    last_frames = np.concatenate([clips.frames[clips.starts[1:] - 1] for clips in examples.parts])
    classes, (predicted, confidence) = result.metrics.classes, top1(result.probs)
    return {
        name: plot_faces(
            last_frames[drawn],
            [
                (classes[result.labels[i]], classes[predicted[i]], float(confidence[i]))
                for i in drawn.tolist()
            ],
            heading,
        )
        for name, (drawn, heading) in chosen.items()
    }
