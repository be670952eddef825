"""Parts that the plots of a timeline share: rasters of colours, letters, axes, titles and legends."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fer_batch.plotting import abbreviate_classes, pick_colour, pick_text_colour, shorten_name
from fer_batch.timeline.database import Database

WIDTH_IN = 10.0
PLOT_WIDTH_IN = 7.6
"""Approximate width of the time axis, without labels."""
RASTER_COLUMNS = 1200
"""Columns of a raster over time: one for each pixel of a PNG."""
STACK_LINES = 100
"""Lines of a raster of stacked probabilities."""
INK, GREY, LINE, UNSAMPLED = "#222222", "#666666", "#9a9a9a", "#f2f2f2"
LETTER_WIDTH = 0.7
"""Width of a letter and its margin, as a share of its size in points."""


def sample_times(end_s: float) -> np.ndarray:
    """Return the times of a raster's columns from 0 to `end_s`, `(RASTER_COLUMNS,) float64` seconds."""
    return (np.arange(RASTER_COLUMNS) + 0.5) / RASTER_COLUMNS * end_s


def colour_classes(numbers: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the colours of class numbers, `(..., 4) uint8` RGBA, transparent for -1."""
    codes = [pick_colour(name, classes) for name in classes]
    table = [[int(code[at : at + 2], 16) for at in (1, 3, 5)] + [255] for code in codes]
    return np.array([*table, [255, 255, 255, 0]], np.uint8)[numbers]


def stack_classes(means: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Stack probabilities, the first class at the bottom: `(STACK_LINES, T, 4) uint8` RGBA."""
    edges = np.cumsum(np.nan_to_num(means), axis=1)  # (T, classes)
    heights = ((STACK_LINES - np.arange(STACK_LINES)) - 0.5) / STACK_LINES  # from top to bottom
    numbers = (edges[None, :, :-1] <= heights[:, None, None]).sum(axis=2)
    return colour_classes(np.where(np.isnan(means[:, 0])[None], -1, numbers), classes)


def draw_raster(axes: Axes, image: np.ndarray, span: tuple[float, float], lane: tuple[float, float]) -> None:
    """Draw `(lines, RASTER_COLUMNS, 4)` over `span` from left to right and `lane` from bottom to top."""
    axes.imshow(image, extent=(*span, *lane), aspect="auto", interpolation="nearest")


def draw_highest(
    axes: Axes, means: np.ndarray, end: float, lane: tuple[float, float], size: float, classes: Sequence[str]
) -> None:
    """Draw the class with the highest mean, from 0 to `end`, with its name or letters where they fit.

    `means` is `(RASTER_COLUMNS, classes)`, NaN without a face. `size` is that of the letters in points.
    """
    numbers = np.where(np.isnan(means[:, 0]), -1, np.nan_to_num(means).argmax(axis=1))
    draw_raster(axes, colour_classes(numbers, classes)[None], (0, end), lane)
    edges = np.flatnonzero(np.diff(numbers, prepend=-2, append=-2))
    for first, after in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if numbers[first] < 0:
            continue
        name = classes[numbers[first]]
        text = choose_text([name, abbreviate_classes(classes)[name]], (after - first) / RASTER_COLUMNS, size)
        if text:
            x = (first + after) / 2 / RASTER_COLUMNS * end
            ink = pick_text_colour(pick_colour(name, classes))
            axes.text(
                x, sum(lane) / 2, text, ha="center", va="center", fontsize=size, color=ink, parse_math=False
            )


def choose_text(texts: Sequence[str], share: float, size: float) -> str:
    """Return the first text that fits into a share of the plot's width, or an empty text."""
    letters = share * PLOT_WIDTH_IN * 72 / (size * LETTER_WIDTH)
    return next((text for text in texts if len(text) <= letters), "")


def draw_unsampled(
    axes: Axes, unsampled: np.ndarray, ends: tuple[float, float], lane: tuple[float, float]
) -> bool:
    """Hatch the columns of a raster in which a mask is true; return whether there are any.

    `ends` are the right end of the raster and the largest x that is hatched.
    """
    right, max_x = ends
    edges = np.flatnonzero(np.diff(np.concatenate([[False], unsampled, [False]]).astype(int)))
    for first, after in edges.reshape(-1, 2) / RASTER_COLUMNS * right:
        width, height = min(after, max_x) - first, lane[1] - lane[0]
        box = Rectangle((first, lane[0]), width, height, facecolor=UNSAMPLED, edgecolor=LINE, linewidth=0)
        box.set_hatch("////")
        axes.add_patch(box)
    return len(edges) > 0


def label_time(axes: Axes, end_s: float) -> None:
    """Label the time axis in seconds, or above ten minutes in hours and minutes."""
    if end_s > 600:
        steps = [60, 120, 300, 600, 900, 1800, 3600, 7200, 18_000, 36_000]
        step = next((step for step in steps if end_s / step <= 10), 36_000 * max(round(end_s / 360_000), 1))
        axes.set_xticks(np.arange(0, end_s, step))
        axes.xaxis.set_major_formatter(
            lambda time_s, _: f"{int(time_s) // 3600}:{int(time_s) // 60 % 60:02d}"
        )
        axes.set_xlabel("time, hours : minutes")
    else:
        axes.set_xlabel("time, seconds")
    style_axes(axes)


def label_shares(axes: Axes, label: str) -> None:
    """Label an axis from 0 to 1 in percent."""
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_xlabel(label)
    style_axes(axes)


def style_axes(axes: Axes) -> None:
    """Remove the frame except for the horizontal axis."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.label.set_fontsize(8)
    axes.xaxis.label.set_color(GREY)


def draw_title(figure: Figure, title: str, subtitle: str, database: Database) -> None:
    """Write a title in two lines, and in others the faces and the part of the run that the figure has."""
    limits = [f"only {database.face_filter}"] if database.face_filter else []
    limits += [str(database.partial)] if database.partial else []
    text = "\n".join([shorten_name(title, 90), subtitle, *limits])
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)


def draw_legend(figure: Figure, classes: Sequence[str], *, unsampled: bool | None) -> None:
    """Explain the colours. `unsampled` tells whether times are hatched; None is for plots without time."""
    patches = [
        Patch(
            facecolor=pick_colour(name, classes), edgecolor=LINE, linewidth=0.5, label=_label(name, letters)
        )
        for name, letters in abbreviate_classes(classes).items()
    ]
    if unsampled is not None:
        patches.append(Patch(facecolor="white", edgecolor=LINE, linewidth=0.5, label="no face"))
    if unsampled:
        patches.append(
            Patch(facecolor=UNSAMPLED, edgecolor=LINE, hatch="////", linewidth=0.5, label="not analyzed")
        )
    legend = figure.legend(
        handles=patches, loc="outside lower left", ncols=min(len(patches), 9), fontsize=8, frameon=False,
        handlelength=1.4, handleheight=1.2, columnspacing=1.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(name: str, letters: str) -> str:
    return name if letters.lower() == name.lower() else f"{letters}  {name}"
