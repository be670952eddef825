"""The figures of an evaluation as files: JSON, CSV and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.errors import OutputError
from fer_batch.evaluation.compare import COLUMNS
from fer_batch.evaluation.curves import History, learning_curves
from fer_batch.evaluation.evaluate import Answers
from fer_batch.evaluation.examples import Examples
from fer_batch.evaluation.metrics import row_normalised, top1
from fer_batch.evaluation.pictures import (
    comparison_plot,
    confusion_plot,
    faces_plot,
    per_class_plot,
    reliability_plot,
)
from fer_batch.plotting import render_figure
from fer_batch.storage.atomic import format_csv, write_bytes, write_json

SAMPLES = 24
"""Faces of a picture."""
SEED = 0
FACES = ("samples_right.png", "samples_wrong.png", "mistakes.png")
"""The files that show faces."""
TITLES = "true → predicted, confidence"


def write_report(
    out: Path,
    examples: Examples,
    answers: Answers,
    *,
    samples: bool = True,
    history: History | None = None,
) -> None:
    """Write what one checkpoint answered into the folder `out`: `metrics.json`, `per_class.csv`,
    `confusion.csv` (counts, a row a true class), `confusion_normalized.csv`, `mistakes.csv` (a row a wrong
    answer, the most confident first), plots of the same (300 dpi), and with a `history` `learning_curves.png`
    and the `history.json` and `.csv`. Other files there stay.

    With `samples` come faces: right and wrong answers drawn at random, and the most confident mistakes.
    Without, such pictures of an earlier report are removed.

    Raises OutputError where they can't be written.
    """
    figures = answers.figures
    classes, counts = figures["classes"], np.array(figures["confusion"], np.int64)
    shares = row_normalised(counts)
    scores = [{"class": name, **values} for name, values in figures["per_class"].items()]
    mistakes = _mistakes(answers)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "metrics.json", figures)
        write_bytes(out / "per_class.csv", format_csv(list(scores[0]), (s.values() for s in scores)))
        for name, matrix in (("confusion", counts), ("confusion_normalized", shares)):
            rows = ([true, *row] for true, row in zip(classes, matrix.tolist(), strict=True))
            write_bytes(out / f"{name}.csv", format_csv(["true", *classes], rows))
        write_bytes(out / "confusion.png", render_figure(confusion_plot(counts, classes)))
        write_bytes(out / "reliability.png", render_figure(reliability_plot(figures)))
        write_bytes(out / "per_class.png", render_figure(per_class_plot(figures)))
        write_bytes(out / "mistakes.csv", _mistakes_table(examples, answers, mistakes))
        for name in FACES if not samples else ():
            (out / name).unlink(missing_ok=True)
        for name, (chosen, heading) in _chosen_faces(answers, mistakes).items() if samples else ():
            faces = _last_frames(examples, chosen)
            write_bytes(out / name, render_figure(faces_plot(faces, _titles(answers, chosen), heading)))
        if history is not None:
            write_json(out / "history.json", history.epochs)
            columns = list(dict.fromkeys(key for row in history.epochs for key in row))
            rows = ([row.get(key) for key in columns] for row in history.epochs)
            write_bytes(out / "history.csv", format_csv(columns, rows))
            write_bytes(out / "learning_curves.png", learning_curves(history.epochs, history.selection))
    except OSError as error:
        raise _unwritable(out, error) from error


def write_comparison(out: Path, comparison: Mapping[str, Any]) -> None:
    """Write what `compare` found into the folder `out`: `comparison.json`, `comparison.csv` (a row a
    checkpoint and way of averaging; gains in points of accuracy) and `comparison.png`. Raises OutputError.
    """
    header = ["checkpoint", "averaging", "model_id", "n", *COLUMNS]
    header += [f"{name}_{end}" for name in ("accuracy", "macro_f1") for end in ("low", "high")]
    header += ["gain_points", "gain_low", "gain_high", "only_first", "only_this", "p"]
    rows = []
    for row in comparison["rows"]:
        gain = row["gain"]
        rows.append(
            [
                row["checkpoint"], row["averaging"], row["model_id"], comparison["n"],
                *(row[name] for name in COLUMNS),
                *row["intervals"]["accuracy"], *row["intervals"]["macro_f1"],
                *((100 * v for v in (gain["accuracy"], *gain["interval"])) if gain else [None] * 3),
                *((gain[key] for key in ("only_first", "only_second", "p")) if gain else [None] * 3),
                *row["f1"].values(),
            ]
        )  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "comparison.json", comparison)
        table = format_csv(header + [f"f1_{name}" for name in comparison["classes"]], rows)
        write_bytes(out / "comparison.csv", table)
        write_bytes(out / "comparison.png", render_figure(comparison_plot(dict(comparison))))
    except OSError as error:
        raise _unwritable(out, error) from error


def _mistakes(answers: Answers) -> np.ndarray:
    """Indices of the wrong answers, the most confident first."""
    predicted, confidence = top1(answers.probs)
    order = np.argsort(-confidence, kind="stable")
    return order[(predicted != answers.labels)[order]]


def _mistakes_table(examples: Examples, answers: Answers, mistakes: np.ndarray) -> bytes:
    classes = answers.figures["classes"]
    predicted, confidence = top1(answers.probs)
    names = [part["name"] for part in examples.data for _ in range(part["n"])]
    places = np.concatenate(examples.places)
    rows = (
        [
            names[i], int(places[i]), classes[answers.labels[i]], classes[predicted[i]],
            f"{confidence[i]:.6f}", f"{answers.probs[i, answers.labels[i]]:.6f}",
        ]
        for i in mistakes.tolist()
    )  # fmt: skip
    return format_csv(["data", "index", "true", "predicted", "confidence", "true_probability"], rows)


def _chosen_faces(answers: Answers, mistakes: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """For each of `FACES` which examples it shows, and its heading."""
    random = np.random.default_rng(SEED)
    right = np.setdiff1d(np.arange(len(answers.labels)), mistakes)
    drawn = {}
    for name, kind, among in (
        ("samples_right.png", "right", right),
        ("samples_wrong.png", "wrong", np.sort(mistakes)),
    ):
        chosen = random.permutation(among)[:SAMPLES]
        drawn[name] = chosen, f"{len(chosen)} of {len(among):,} {kind} answers, at random: {TITLES}"
    most = mistakes[:SAMPLES]
    drawn["mistakes.png"] = most, f"the {len(most)} most confident of {len(mistakes):,} mistakes: {TITLES}"
    return drawn


def _titles(answers: Answers, chosen: np.ndarray) -> list[tuple[str, str, float]]:
    classes, (predicted, confidence) = answers.figures["classes"], top1(answers.probs)
    return [
        (classes[answers.labels[i]], classes[predicted[i]], float(confidence[i])) for i in chosen.tolist()
    ]


def _last_frames(examples: Examples, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
    """`(k, 48, 48) uint8`: the frames that the `chosen` examples are answered at."""
    return np.concatenate([clips.frames[clips.starts[1:] - 1] for clips in examples.parts])[chosen]


def _unwritable(out: Path, error: OSError) -> OutputError:
    return OutputError(f"{out} can't be written to: {error.strerror}; name another --out")
