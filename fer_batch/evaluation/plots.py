"""Plots of an evaluation, and the faces behind its metrics."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fer_batch.evaluation.metrics import Metrics, normalize_rows
from fer_batch.plotting import BLUE, GREEN, GREY, INK, RED, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE_COLOURS = {"precision": GREY, "recall": GREEN, "f1": BLUE}
MAX_SIDE_IN = 24.0
FACES_PER_ROW = 6
FACE_WIDTH_IN, FACE_HEIGHT_IN, FACE_MARGIN_IN = 1.35, 1.62, 0.04
"""Cell of a face with its title in a grid, and the margin around the face."""
MAX_CLASS_CHARS = 14
"""Longest class name where space is scarce."""
CLASSES_PER_ROW = 4
"""Panels of a comparison side by side."""


def plot_confusion(counts: np.ndarray, classes: Sequence[str]) -> "Figure":
    """Plot a `(C, C) int` confusion matrix: shares of each true class, with the counts below them."""
    shares = normalize_rows(counts)
    side_in = min(2.4 + 0.72 * len(classes), MAX_SIDE_IN)
    figure = new_figure(side_in + 0.6, side_in)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font_size = 8 * min(1.0, 25 / len(classes))
    for (true, predicted), share in np.ndenumerate(shares):
        axes.text(
            predicted, true, f"{share:.2f}\n{counts[true, predicted]:,}", ha="center", va="center",
            fontsize=font_size, color="white" if share > 0.5 else INK,
        )  # fmt: skip
    positions = np.arange(len(classes))
    axes.set_xticks(positions, classes, rotation=35, ha="right", parse_math=False)
    axes.set_yticks(positions, classes, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def plot_reliability(metrics: Metrics) -> "Figure":
    """Plot accuracy against confidence by bins, above a histogram of the confidences."""
    table = metrics.reliability
    bins = len(table.count)
    edges = np.arange(bins) / bins
    figure = new_figure(4.6, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    used = table.count > 0
    accuracy, confidence = table.accuracy[used], table.confidence[used]
    upper.bar(edges[used], accuracy, 1 / bins, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    upper.bar(
        edges[used], confidence - accuracy, 1 / bins, accuracy, align="edge", color="none", edgecolor=RED,
        hatch="////", linewidth=0.6, label="gap to the mean confidence",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    upper.text(
        0.97, 0.04, f"ECE {metrics.ece:.3f}\nby chance {metrics.ece_expected:.3f}\nn = {metrics.n:,}",
        ha="right", va="bottom", fontsize=8, color=INK, transform=upper.transAxes,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )  # fmt: skip
    lower.bar(edges, table.count / metrics.n, 1 / bins, align="edge", color=GREY, edgecolor="white")
    lower.set(xlabel="confidence", ylabel="share of faces")
    for axes in (upper, lower):
        hide_frame(axes)
    return figure


def plot_class_scores(metrics: Metrics) -> "Figure":
    """Plot precision, recall and F1 of each class as bars, with its support below its name."""
    scores = metrics.per_class
    positions, width = np.arange(len(scores)), 0.8 / len(SCORE_COLOURS)
    figure = new_figure(min(1.6 + 0.9 * len(scores), MAX_SIDE_IN), 3.8)
    axes = figure.subplots()
    font_size = 7 * min(1.0, 24 / len(scores))
    for number, (name, colour) in enumerate(SCORE_COLOURS.items()):
        values = [getattr(one, name) for one in scores.values()]
        label = name.replace("f1", "F1")
        bars = axes.bar(positions + (number - 1) * width, values, width, color=colour, label=label)
        texts = [f"{value:.2f}" for value in values]
        axes.bar_label(bars, texts, fontsize=font_size, rotation=90, padding=2, color=INK)
    labels = [f"{name}\nn = {one.support:,}" for name, one in scores.items()]
    rotated = len(scores) > 12 or max(map(len, scores)) > MAX_CLASS_CHARS
    axes.set_xticks(positions, labels, fontsize=8, rotation=90 if rotated else 0, parse_math=False)
    axes.set(ylim=(0, 1.12), yticks=np.arange(0, 1.1, 0.2))
    axes.tick_params(axis="x", length=0)
    hide_frame(axes)
    figure.legend(loc="outside upper right", ncols=len(SCORE_COLOURS), frameon=False, fontsize=8)
    return figure


def plot_faces(faces: np.ndarray, titles: Sequence[tuple[str, str, float]], heading: str) -> "Figure":
    """Plot a grid of `(k, 48, 48) uint8` faces below a heading.

    `titles` are the true class, the predicted class and the confidence of each face. k may be 0.
    """
    rows = math.ceil(len(faces) / FACES_PER_ROW)
    height_in = 0.4 + FACE_HEIGHT_IN * rows
    figure = new_figure(FACE_WIDTH_IN * FACES_PER_ROW, height_in, layout=None)
    figure.suptitle(heading, fontsize=9, y=1 - 0.15 / height_in, va="top", parse_math=False)
    axes = figure.add_axes((0, 0, 1, FACE_HEIGHT_IN * rows / height_in))  # in inches from the upper left
    axes.axis("off")
    side = FACE_WIDTH_IN - 2 * FACE_MARGIN_IN
    for place, (face, (true, predicted, confidence)) in enumerate(zip(faces, titles, strict=True)):
        row, column = divmod(place, FACES_PER_ROW)
        left = FACE_WIDTH_IN * column + FACE_MARGIN_IN
        top = FACE_HEIGHT_IN * (row + 1) - FACE_WIDTH_IN + FACE_MARGIN_IN
        extent = (left, left + side, top + side, top)
        axes.imshow(face, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=extent)
        axes.text(
            left + side / 2, top - 0.03, f"{_shorten(true)} → {_shorten(predicted)}\n{confidence:.2f}",
            fontsize=6.5, color=INK, ha="center", va="bottom", parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(0, FACE_WIDTH_IN * FACES_PER_ROW), ylim=(FACE_HEIGHT_IN * rows or 1, 0))
    return figure


def plot_comparison(table: pd.DataFrame, heading: str) -> "Figure":
    """Plot accuracy and macro-F1 of each row of `compare` with 95 % intervals, above its F1 of each class."""
    f1_columns = [str(name) for name in table if str(name).startswith("f1_")]
    names = [
        f"{checkpoint}, {way}" for checkpoint, way in zip(table.checkpoint, table.averaging, strict=True)
    ]
    colours = [(BLUE, GREEN, RED, GREY)[number % 4] for number in pd.factorize(table.checkpoint)[0]]
    panel_rows, row_in = math.ceil(len(f1_columns) / CLASSES_PER_ROW), 0.22 * len(table)
    heights_in = (1.3 * row_in + 0.8, panel_rows * (row_in + 0.5))
    figure = new_figure(9.5, sum(heights_in) + 0.4)
    figure.suptitle(f"{heading}, n = {table.n[0]:,}", fontsize=9, parse_math=False)
    upper, lower = figure.subfigures(2, 1, height_ratios=heights_in, squeeze=False)[:, 0]
    for axes, key, label in zip(
        upper.subplots(1, 2, sharey=True), ("accuracy", "macro_f1"), ("accuracy", "macro-F1"), strict=True
    ):
        ends = table[[key, f"{key}_low", f"{key}_high"]].to_numpy()
        for position, ((value, low, high), colour) in enumerate(zip(ends, colours, strict=True)):
            axes.plot([low, high], [position, position], color=colour, linewidth=2)
            axes.plot([value], [position], "o", color=colour, markersize=5)
            axes.annotate(
                f"{value:.3f}", (value, position), (0, 5), textcoords="offset points", ha="center",
                fontsize=7, color=INK,
            )  # fmt: skip
        axes.axvline(table[key][0], color=GREY, linewidth=0.7, linestyle=":", zorder=0)
        axes.set_xlabel(f"{label}, 95 % interval", fontsize=8)
        axes.set_ylim(len(table) - 0.4, -0.8)
        _label_rows(axes, names)
    panels = lower.subplots(panel_rows, CLASSES_PER_ROW, sharey=True, squeeze=False)
    for axes in panels.flat[len(f1_columns) :]:
        axes.axis("off")
    for axes, name in zip(panels.flat, f1_columns, strict=False):
        bars = axes.barh(range(len(table)), table[name], 0.75, color=colours)
        axes.bar_label(bars, fmt="%.2f", fontsize=6.5, padding=2, color=INK)
        axes.set_title(f"F1 {_shorten(name.removeprefix('f1_'))}", fontsize=8, loc="left", parse_math=False)
        axes.set(xlim=(0, 1.15), xticks=(0, 0.5, 1))
        axes.set_ylim(len(table) - 0.4, -0.6)
        _label_rows(axes, names)
    return figure


def _label_rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    hide_frame(axes)


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_CLASS_CHARS else name[: MAX_CLASS_CHARS - 1] + "…"
