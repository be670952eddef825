"""The files of an evaluation: JSON, CSV and plots."""

from pathlib import Path

import numpy as np
import pandas as pd

from fer_batch.evaluation.compare import compare
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
from fer_batch.storage.atomic import encode_json, write_files
from fer_batch.training.curves import History, plot_curves

MAX_FACES = 24
"""Faces in one picture."""
SAMPLE_SEED = 0
FACE_PICTURES = ("samples_right.png", "samples_wrong.png", "mistakes.png")
FACE_TITLE = "true → predicted, confidence"


def write_evaluation(out: Path, evaluation: Evaluation, *, samples: bool = True) -> None:
    """Write the results of an evaluation into the folder `out`.

    The folder gets the files of `write_report` for one checkpoint; for several, one folder for each with the
    first way of averaging. Several results also give `comparison.csv` (see `compare`), `.json` and `.png`.

    Raises OutputError if a file cannot be written.
    """
    reported = evaluation.first_results
    for result in reported:
        folder = out if len(reported) == 1 else out / result.checkpoint
        write_report(folder, evaluation.examples, result, samples=samples)
    if len(evaluation.results) > 1:
        write_comparison(out, evaluation)


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
    scores = pd.DataFrame({name: vars(values) for name, values in metrics.per_class.items()}, dtype=object).T
    counts = pd.DataFrame(metrics.confusion, metrics.classes, metrics.classes)
    shares = pd.DataFrame(normalize_rows(metrics.confusion), metrics.classes, metrics.classes)
    predictions = _tabulate_predictions(examples, result)
    mistakes = predictions[~result.is_correct].sort_values("confidence", ascending=False, kind="stable")
    files = {
        "metrics.json": encode_json({**result.to_dict(), **examples.to_dict()}),
        "per_class.csv": scores.to_csv(index_label="class").encode(),
        "confusion.csv": counts.to_csv(index_label="true").encode(),
        "confusion_normalized.csv": shares.to_csv(index_label="true").encode(),
        "mistakes.csv": mistakes.to_csv(index=False, float_format="%.6f").encode(),
        "confusion.png": render_figure(plot_confusion(metrics.confusion, metrics.classes)),
        "reliability.png": render_figure(plot_reliability(metrics)),
        "per_class.png": render_figure(plot_class_scores(metrics)),
    }
    if result.history is not None:
        files |= _render_history(result.history)
    if samples:
        files |= _draw_samples(examples, predictions, mistakes)
    write_files(out, files)
    for name in FACE_PICTURES if not samples else ():
        (out / name).unlink(missing_ok=True)


def write_comparison(out: Path, evaluation: Evaluation) -> None:
    """Write the table of `compare` as `comparison.csv`, `.json` and `.png` into the folder `out`.

    Raises OutputError if a file cannot be written.
    """
    table, examples = compare(evaluation), evaluation.examples
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    heading = f"{', '.join(part.name for part in examples.data)}, {examples.split}"
    files = {
        "comparison.json": encode_json({"n": len(examples.labels), **examples.to_dict(), "rows": rows}),
        "comparison.csv": table.to_csv(index=False).encode(),
        "comparison.png": render_figure(plot_comparison(table, heading)),
    }
    write_files(out, files)


def _render_history(history: History) -> dict[str, bytes]:
    return {
        "history.json": encode_json(history.epochs),
        "history.csv": pd.DataFrame(history.epochs, dtype=object).to_csv(index=False).encode(),
        "learning_curves.png": render_figure(plot_curves(history.epochs, history.selection)),
    }


def _tabulate_predictions(examples: Examples, result: CheckpointResult) -> pd.DataFrame:
    """Return a row for each example; the index is its number."""
    predicted, confidence = top1(result.probs)
    classes = np.array(result.metrics.classes, object)
    return pd.DataFrame(
        {
            "data": [part.name for part in examples.data for _ in range(part.n)],
            "index": np.concatenate(examples.indices),
            "true": classes[result.labels],
            "predicted": classes[predicted],
            "confidence": confidence,
            "true_probability": result.probs[np.arange(len(predicted)), result.labels].astype(np.float64),
        }
    )


def _draw_samples(examples: Examples, predictions: pd.DataFrame, mistakes: pd.DataFrame) -> dict[str, bytes]:
    """Draw the pictures of `FACE_PICTURES`. A sequence is shown by its last frame."""
    random = np.random.default_rng(SAMPLE_SEED)
    correct, wrong = predictions.drop(mistakes.index), mistakes.sort_index()
    right_sample, wrong_sample = (
        rows.iloc[random.permutation(len(rows))[:MAX_FACES]] for rows in (correct, wrong)
    )
    top = mistakes.head(MAX_FACES)
    headings = [
        f"{len(right_sample)} of {len(correct):,} right predictions, at random",
        f"{len(wrong_sample)} of {len(wrong):,} wrong predictions, at random",
        f"the {len(top)} most confident of {len(wrong):,} mistakes",
    ]
    frames = np.concatenate([clips.frames[clips.starts[1:] - 1] for clips in examples.parts])
    pictures = {}
    for name, heading, rows in zip(FACE_PICTURES, headings, (right_sample, wrong_sample, top), strict=True):
        titles = list(zip(rows["true"], rows["predicted"], rows["confidence"], strict=True))
        pictures[name] = render_figure(plot_faces(frames[rows.index], titles, f"{heading}: {FACE_TITLE}"))
    return pictures
