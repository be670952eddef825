"""Plots of data sets in colour, or in black and white with a hatch for each class; and samples of faces."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fer_batch.data.explore.explore import ALL_CLASSES, Exploration
from fer_batch.plotting import (
    INK,
    PRINT_DPI,
    hide_frame,
    new_figure,
    pick_colour,
    pick_hatch,
    pick_text_colour,
    render_figure,
    shorten_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

ALL_CLASSES_COLOUR = "#d9dde3"
MAX_NAME_CHARS = 24
GRID_SIDE = 3
"""Faces in a row and in a column of a grid."""
FACE_PX, GAP_PX = 288, 12
BOX_KEYS = {"q1": "q25", "med": "median", "q3": "q75", "whislo": "q05", "whishi": "q95", "mean": "mean"}
MEASURE_LABELS = {
    "brightness": "mean grey of an image: 0 is black, 255 white",
    "sharpness": "variance of the Laplacian: 0 is blank, low is blurred",
}


def plot_distribution(exploration: Exploration, *, colour: bool) -> bytes:
    """Return a PNG of the share of each class in each split.

    Each class is a row of bars and each split a column. The data sets stand below each other, and all
    together at the end if there are several.
    """
    parts, splits = exploration.parts, exploration.faces.splits
    row_in = min(0.3, 12 / max(len(classes.counts) for _, classes in parts))
    heights = [0.55 + row_in * len(classes.counts) for _, classes in parts]
    figure = new_figure(1.6 + 2.6 * len(splits), sum(heights) + 0.3)
    grid = figure.subplots(len(parts), len(splits), squeeze=False, height_ratios=heights)
    largest = max(classes.shares.to_numpy().max() for _, classes in parts)
    for (name, classes), row in zip(parts, grid, strict=True):
        names = list(classes.counts.index)
        for split, axes in zip(splits, row, strict=True):
            if split not in classes.counts:
                axes.set_visible(False)
                continue
            counts, shares = classes.counts[split], classes.shares[split]
            bars = axes.barh(range(len(names)), shares, 0.78, linewidth=0.7, edgecolor="black")
            for bar, text in zip(bars, names, strict=True):
                _fill(bar, text, exploration.faces.classes, colour=colour)
            labels = [f"{n:,}  {100 * share:.1f} %" for n, share in zip(counts, shares, strict=True)]
            axes.bar_label(bars, labels, padding=3, fontsize=_font_size(row_in), color=INK)
            title = f"{name}, {split}" if len(parts) > 1 else split
            axes.set_title(f"{title}, n = {classes.n[split]:,}", fontsize=9, loc="left", color=INK)
            axes.set(xlim=(0, 1.55 * largest))
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
            _label_rows(axes, names if split == splits[0] else [""] * len(names), row_in)
    figure.supxlabel("share of the split", fontsize=8, color=INK)
    return render_figure(figure)


def plot_spread(exploration: Exploration, name: str, *, colour: bool) -> bytes:
    """Return a PNG of the spread of "brightness" or "sharpness" by class: quartiles, 5 % to 95 %, mean."""
    classes, spreads = exploration.faces.classes, exploration.spreads[name]
    row_in = min(0.36, 12 / len(spreads))
    figure = new_figure(6.4, 0.8 + row_in * len(spreads))
    axes = figure.subplots()
    boxes = axes.bxp(
        [{end: row[key] for end, key in BOX_KEYS.items()} for _, row in spreads.iterrows()],
        positions=range(len(spreads)), orientation="horizontal", widths=0.62, showfliers=False,
        showmeans=True, patch_artist=True, medianprops={"color": "black", "linewidth": 2},
        meanprops={"marker": "D", "markersize": 5.5, "markerfacecolor": "white", "markeredgecolor": "black"},
    )  # fmt: skip
    for box, median, text in zip(boxes["boxes"], boxes["medians"], spreads.index, strict=True):
        _fill(box, text, classes, colour=colour)
        if colour and text != ALL_CLASSES:
            median.set_color(pick_text_colour(pick_colour(text, classes)))
    _label_rows(axes, list(spreads.index), row_in)
    axes.set_xlabel(MEASURE_LABELS[name], fontsize=8, color=INK)
    title = f"{name}: quartiles in the box, 5 % to 95 % at the ends, mean ◇"
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    return render_figure(figure)


def plot_faces(images: np.ndarray, title: str) -> bytes:
    """Return a PNG of the first nine of `(n, 48, 48) uint8` images, three by three; empty cells are white."""
    step = FACE_PX + GAP_PX
    canvas = np.full((GRID_SIDE * step - GAP_PX, GRID_SIDE * step - GAP_PX), 255, np.uint8)
    for number, image in enumerate(images[: GRID_SIDE**2]):
        y, x = (step * place for place in divmod(number, GRID_SIDE))
        factor = FACE_PX // len(image)
        canvas[y : y + FACE_PX, x : x + FACE_PX] = image.repeat(factor, 0).repeat(factor, 1)
    width_in, title_in = len(canvas) / PRINT_DPI, 0.3
    figure = new_figure(width_in, width_in + title_in, layout=None)
    axes = figure.add_axes((0, 0, 1, width_in / (width_in + title_in)))
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    figure.text(
        0.01, 1 - 0.15 / (width_in + title_in), shorten_name(title, 40), va="center", fontsize=9, color=INK,
        parse_math=False,
    )  # fmt: skip
    return render_figure(figure)


def _fill(patch: Any, name: str, classes: "Sequence[str]", *, colour: bool) -> None:
    """Fill a bar or a box with the colour or the hatch of its class."""
    if colour:
        patch.set_facecolor(ALL_CLASSES_COLOUR if name == ALL_CLASSES else pick_colour(name, classes))
    else:
        patch.set_facecolor("white")
        patch.set_hatch("" if name == ALL_CLASSES else pick_hatch(name, classes))


def _label_rows(axes: "Axes", names: "Sequence[str]", row_in: float) -> None:
    texts = [shorten_name(name, MAX_NAME_CHARS) for name in names]
    axes.set_yticks(range(len(names)), texts, fontsize=_font_size(row_in), parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    hide_frame(axes)


def _font_size(row_in: float) -> float:
    """Return the size in points of text that fits into a row."""
    return min(8, 72 * row_in * 0.6)
