"""The figures of an evaluation as plots, and the faces behind them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer_batch.evaluation.metrics import row_normalised
from fer_batch.plotting import BLUE, GREEN, GREY, INK, RED

SCORES = {"precision": GREY, "recall": GREEN, "f1": BLUE}
COLUMNS = 6
"""Faces side by side."""
CELL, GAP = (1.35, 1.62), 0.04
"""Width and height of a face with its title, and what is left free around it, in inches."""
LONGEST = 14
"""Letters of a class where there is room for few."""
PANELS = 4
"""Classes side by side in a comparison."""


def confusion_plot(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """A `(C, C) int` confusion matrix: shares of each row, with the counts below them."""
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
    return figure


def reliability_plot(figures: dict[str, Any]) -> Figure:
    """Accuracy against confidence by bins, over a histogram of the confidences."""
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
    return figure


def per_class_plot(figures: dict[str, Any]) -> Figure:
    """Precision, recall and F1 of each class as bars, its support below its name."""
    scores = figures["per_class"]
    places, width = np.arange(len(scores)), 0.8 / len(SCORES)
    figure = Figure(figsize=(min(1.6 + 0.9 * len(scores), 24.0), 3.8), layout="constrained")
    axes = figure.subplots()
    small = 7 * min(1.0, 24 / len(scores))
    for number, (name, colour) in enumerate(SCORES.items()):
        values = [one[name] for one in scores.values()]
        bars = axes.bar(
            places + (number - 1) * width, values, width, color=colour, label=name.replace("f1", "F1")
        )
        axes.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=small, rotation=90, padding=2, color=INK)
    labels = [f"{name}\nn = {one['support']:,}" for name, one in scores.items()]
    turned = len(scores) > 12 or max(map(len, scores)) > LONGEST
    axes.set_xticks(places, labels, fontsize=8, rotation=90 if turned else 0, parse_math=False)
    axes.set(ylim=(0, 1.12), yticks=np.arange(0, 1.1, 0.2))
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=len(SCORES), frameon=False, fontsize=8)
    return figure


def faces_plot(faces: np.ndarray, titles: Sequence[tuple[str, str, float]], heading: str) -> Figure:
    """A grid of `(k, 48, 48) uint8` faces, each under its true class, the predicted one and the confidence;
    without any, the `heading` alone.
    """
    lines = math.ceil(len(faces) / COLUMNS)
    figure = Figure(figsize=(CELL[0] * COLUMNS, 0.4 + CELL[1] * lines))
    height = figure.get_figheight()
    figure.suptitle(heading, fontsize=9, y=1 - 0.15 / height, va="top", parse_math=False)
    axes = figure.add_axes((0, 0, 1, CELL[1] * lines / height))  # its unit is the inch, from above
    axes.axis("off")
    for place, (face, (true, predicted, confidence)) in enumerate(zip(faces, titles, strict=True)):
        left, top = CELL[0] * (place % COLUMNS) + GAP, CELL[1] * (place // COLUMNS) + CELL[1] - CELL[0] + GAP
        side = CELL[0] - 2 * GAP
        axes.imshow(
            face, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=(left, left + side, top + side, top)
        )
        text = f"{_short(true)} → {_short(predicted)}\n{confidence:.2f}"
        axes.text(
            left + side / 2, top - 0.03, text, fontsize=6.5, color=INK, ha="center", va="bottom",
            parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(0, CELL[0] * COLUMNS), ylim=(CELL[1] * lines or 1, 0))
    return figure


def comparison_plot(comparison: dict[str, Any]) -> Figure:
    """Accuracy and macro-F1 of each row with their 95 % intervals, and its F1 of each class as bars."""
    rows, classes = comparison["rows"], comparison["classes"]
    names = [f"{row['checkpoint']}, {row['averaging']}" for row in rows]
    colours = [_colour(row["checkpoint"], rows) for row in rows]
    lines, height = math.ceil(len(classes) / PANELS), 0.22 * len(rows)
    figure = Figure(figsize=(9.5, 1.2 + 1.3 * height + lines * (height + 0.5)), layout="constrained")
    data = ", ".join(part["name"] for part in comparison["data"])
    heading = f"{data}, {comparison['split']}, n = {comparison['n']:,}"
    figure.suptitle(heading, fontsize=9, parse_math=False)
    heights = (1.3 * height + 0.8, lines * (height + 0.5))
    above, below = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, key, text in zip(
        above.subplots(1, 2, sharey=True), ("accuracy", "macro_f1"), ("accuracy", "macro-F1"), strict=True
    ):
        for place, (row, colour) in enumerate(zip(rows, colours, strict=True)):
            low, high = row["intervals"][key]
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot([row[key]], [place], "o", color=colour, markersize=5)
            axes.annotate(
                f"{row[key]:.3f}", (row[key], place), (0, 5), textcoords="offset points", ha="center",
                fontsize=7, color=INK,
            )  # fmt: skip
        axes.axvline(rows[0][key], color=GREY, linewidth=0.7, linestyle=":", zorder=0)
        axes.set_xlabel(f"{text}, 95 % interval", fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.8)
        _name_rows(axes, names)
    panels = below.subplots(lines, PANELS, sharey=True, squeeze=False)
    for axes in panels.flat[len(classes) :]:
        axes.axis("off")
    for axes, label in zip(panels.flat, classes, strict=False):
        values = [row["f1"][label] for row in rows]
        bars = axes.barh(range(len(rows)), values, 0.75, color=colours)
        axes.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=6.5, padding=2, color=INK)
        axes.set_title(f"F1 {_short(label)}", fontsize=8, loc="left", parse_math=False)
        axes.set(xlim=(0, 1.15), xticks=(0, 0.5, 1))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _name_rows(axes, names)
    return figure


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(checkpoint: str, rows: Sequence[dict[str, Any]]) -> str:
    """One for each checkpoint, in turn."""
    order = list(dict.fromkeys(row["checkpoint"] for row in rows))
    return (BLUE, GREEN, RED, GREY)[order.index(checkpoint) % 4]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
