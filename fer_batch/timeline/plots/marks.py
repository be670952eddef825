"""What the pictures of a timeline are made of: rasters of colours, letters on them, axes and legends."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fer_batch.plotting import abbreviate_classes, pick_colour, pick_text_colour

PLOT_IN = 7.6
"""About the width that is left for time, without the labels."""
COLUMNS = 1200
"""Of the raster that shows time: a pixel each in a PNG."""
LANE = 100
"""Lines of a lane's raster."""
INK, GREY, LINE = "#222222", "#666666", "#9a9a9a"
LONGEST_NAME = 34
WIDTH_OF_LETTER = 0.7
"""Of its size in points, with some room around it."""


def taken(means: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`(T, classes)` of the cells that each column is in, NaN for none."""
    return np.vstack([means, np.full((1, means.shape[1]), np.nan)])[at]


def best(means: np.ndarray) -> np.ndarray:
    """`(T,) int64`: the class with the highest mean, -1 where there is none."""
    return np.where(np.isnan(means[:, 0]), -1, np.nan_to_num(means).argmax(axis=1))


def coloured(numbers: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """`(..., 4) uint8` RGBA of classes by their number, transparent for -1."""
    codes = [pick_colour(name, classes) for name in classes]
    table = [[int(code[at : at + 2], 16) for at in (1, 3, 5)] + [255] for code in codes]
    return np.array([*table, [255, 255, 255, 0]], np.uint8)[numbers]


def stacked(means: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """`(LANE, T, 4) uint8` RGBA: the classes' probabilities one above the other, the first at the bottom."""
    edges = np.cumsum(np.nan_to_num(means), axis=1)  # (T, classes)
    heights = ((LANE - np.arange(LANE)) - 0.5) / LANE  # from top to bottom
    numbers = (edges[None, :, :-1] <= heights[:, None, None]).sum(axis=2)
    return coloured(np.where(np.isnan(means[:, 0])[None], -1, numbers), classes)


def draw_raster(axes: Axes, image: np.ndarray, span: tuple[float, float], place: tuple[float, float]) -> None:
    """Draw `(lines, COLUMNS, 4)` from left to right over `span`, from bottom to top over `place`."""
    axes.imshow(image, extent=(*span, *place), aspect="auto", interpolation="nearest")


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of columns `[start, end)` where it is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def draw_letters(
    axes: Axes, top: np.ndarray, end: float, middle: float, size: float, classes: Sequence[str]
) -> None:
    """Name the emotion of each run of columns, or give its letters, where it is wide enough."""
    edges = np.flatnonzero(np.diff(top, prepend=-2, append=-2))
    for first, after in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if top[first] < 0:
            continue
        name = classes[top[first]]
        if text := fitting([name, abbreviate_classes(classes)[name]], (after - first) / COLUMNS, size):
            ink = pick_text_colour(pick_colour(name, classes))
            place = (first + after) / 2 / COLUMNS * end
            axes.text(
                place, middle, text, ha="center", va="center", fontsize=size, color=ink, parse_math=False
            )


def fitting(texts: Sequence[str], share: float, size: float) -> str:
    """The first text that fits into a share of the picture's width, else none."""
    room = share * PLOT_IN * 72 / (size * WIDTH_OF_LETTER)
    return next((text for text in texts if len(text) <= room), "")


def draw_unseen(axes: Axes, left: float, right: float, top: float, bottom: float) -> None:
    """Hatch what was not looked at."""
    axes.add_patch(
        Rectangle(
            (left, top), right - left, bottom - top, facecolor="#f2f2f2", edgecolor=LINE, hatch="////",
            linewidth=0,
        )
    )  # fmt: skip


def label_time(axes: Axes, end_s: float) -> None:
    """Seconds, or hours and minutes where there are more than ten minutes."""
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
    bare_axes(axes)


def bare_axes(axes: Axes) -> None:
    """Leave of the frame only the axis of time, or of shares."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.label.set_fontsize(8)
    axes.xaxis.label.set_color(GREY)


def draw_title(figure: Figure, title: str, more: str) -> None:
    """Say what is shown, in two lines."""
    figure.suptitle(
        f"{shortened(title, 90)}\n{more}", x=0.01, ha="left", fontsize=10, color=INK, parse_math=False
    )


def draw_legend(figure: Figure, classes: Sequence[str], *, unseen: bool | None) -> None:
    """What the colours mean; also those of what was not looked at, where there is any; None for bars."""
    marks = [
        Patch(
            facecolor=pick_colour(name, classes), edgecolor=LINE, linewidth=0.5, label=_meaning(name, letters)
        )
        for name, letters in abbreviate_classes(classes).items()
    ]
    if unseen is not None:
        marks.append(Patch(facecolor="white", edgecolor=LINE, linewidth=0.5, label="no face"))
    if unseen:
        marks.append(
            Patch(facecolor="#f2f2f2", edgecolor=LINE, hatch="////", linewidth=0.5, label="not looked at")
        )
    legend = figure.legend(
        handles=marks, loc="outside lower left", ncols=min(len(marks), 9), fontsize=8, frameon=False,
        handlelength=1.4, handleheight=1.2, columnspacing=1.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _meaning(name: str, letters: str) -> str:
    return name if letters.lower() == name.lower() else f"{letters}  {name}"


def file_name(uri: str) -> str:
    """The last part of a path or address."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name in one line of so many letters, without its middle where it has more."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(name) <= most:
        return name
    return f"{name[: most - most // 2 - 1]}…{name[len(name) - most // 2 :]}"


def natural(name: str) -> tuple[str, int, str]:
    """Sorts "track 2" before "track 10"."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name
