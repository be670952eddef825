"""The figures of an evaluation as files: JSON, CSV and plots."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fer_batch.errors import OutputError
from fer_batch.evaluation.metrics import row_normalised
from fer_batch.files import write_bytes, write_json

DPI = 300
INK, BLUE, RED, GREY = "#222222", "#3b6fb6", "#d1495b", "#8a8a8a"


def write_report(out: Path, figures: dict[str, Any]) -> None:
    """Write what `evaluate` found into the folder `out`: `metrics.json`, `per_class.csv`, `confusion.csv`
    (counts, a row a true class), `confusion_normalized.csv`, `confusion.png` and `reliability.png` (300
    dpi). Other files there stay.

    Raises OutputError where they can't be written.
    """
    classes, counts = figures["classes"], np.array(figures["confusion"], np.int64)
    shares = row_normalised(counts)
    scores = [{"class": name, **values} for name, values in figures["per_class"].items()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "metrics.json", figures)
        write_bytes(out / "per_class.csv", _csv(list(scores[0]), (s.values() for s in scores)))
        for name, matrix in (("confusion", counts), ("confusion_normalized", shares)):
            rows = ([true, *row] for true, row in zip(classes, matrix.tolist(), strict=True))
            write_bytes(out / f"{name}.csv", _csv(["true", *classes], rows))
        write_bytes(out / "confusion.png", confusion_plot(counts, classes))
        write_bytes(out / "reliability.png", reliability_plot(figures))
    except OSError as error:
        raise OutputError(f"{out} can't be written to: {error.strerror}; name another --out") from error


def confusion_plot(counts: np.ndarray, classes: Sequence[str]) -> bytes:
    """A PNG of a `(C, C) int` confusion matrix: shares of each row, with the counts below them."""
    shares = row_normalised(counts)
    side = min(2.4 + 0.72 * len(classes), 24.0)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = 8 * min(1.0, 25 / len(classes))
    for (true, answer), share in np.ndenumerate(shares):
        axes.text(
            answer, true, f"{share:.2f}\n{counts[true, answer]:,}", ha="center", va="center",
            fontsize=small, color="white" if share > 0.5 else INK,
        )  # fmt: skip
    places = np.arange(len(classes))
    axes.set_xticks(places, classes, rotation=35, ha="right", parse_math=False)
    axes.set_yticks(places, classes, parse_math=False)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return png(figure)


def reliability_plot(figures: dict[str, Any]) -> bytes:
    """A PNG of accuracy against confidence by bins, over a histogram of the confidences."""
    table = {name: np.array(values) for name, values in figures["reliability"].items()}
    bins = len(table["count"])
    edges = np.arange(bins) / bins
    figure = Figure(figsize=(4.6, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = table["count"] > 0
    accuracy, confidence = table["accuracy"][used], table["confidence"][used]
    above.bar(edges[used], accuracy, 1 / bins, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    above.bar(
        edges[used], confidence - accuracy, 1 / bins, accuracy, align="edge", color="none", edgecolor=RED,
        hatch="////", linewidth=0.6, label="gap to the mean confidence",
    )  # fmt: skip
    above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    above.legend(loc="upper left", frameon=False, fontsize=8)
    above.text(
        0.97, 0.04,
        f"ECE {figures['ece']:.3f}\nby chance {figures['ece_expected']:.3f}\nn = {figures['n']:,}",
        ha="right", va="bottom", fontsize=8, color=INK, transform=above.transAxes,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )  # fmt: skip
    below.bar(edges, table["count"] / figures["n"], 1 / bins, align="edge", color=GREY, edgecolor="white")
    below.set(xlabel="confidence", ylabel="share of faces")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 300 dpi."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _csv(header: list[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
