"""Pictures of data sets: how classes, brightness and sharpness are distributed, and samples of faces.

Each plot is there in colour, and in black and white with a hatch for each class.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer_batch.data.explore.explore import SPLITS, TOGETHER, parts_of
from fer_batch.plotting import HATCHES, INK, PRINT_DPI, pick_colour, pick_text_colour, render_figure

ALL = "#d9dde3"
"""Of the box of all classes together."""
LONGEST_NAME = 24
SIDE = 3
"""Of a grid of samples, in faces."""
FACE_PX, GAP_PX = 288, 12


def distribution_plot(figures: dict[str, Any], *, colour: bool) -> bytes:
    """A PNG of each class's share of each split: a row of bars a class, a column a split, below each other
    the data sets, and all together where there are several.
    """
    parts = parts_of(figures)
    columns = [split for split in SPLITS if split in figures[TOGETHER]["n"]]
    rows = [list(part["counts"]) for _, part in parts]
    line_in = min(0.3, 12 / max(map(len, rows)))
    heights = [0.55 + line_in * len(classes) for classes in rows]
    figure = Figure(figsize=(1.6 + 2.6 * len(columns), sum(heights) + 0.3), layout="constrained")
    grid = figure.subplots(len(parts), len(columns), squeeze=False, height_ratios=heights)
    widest = max(share for _, part in parts for its in part["shares"].values() for share in its.values())
    for (name, part), classes, line in zip(parts, rows, grid, strict=True):
        for split, axes in zip(columns, line, strict=True):
            if split not in part["n"]:
                axes.set_visible(False)
                continue
            counts, shares = ([part[key][c][split] for c in classes] for key in ("counts", "shares"))
            bars = axes.barh(range(len(classes)), shares, 0.78, linewidth=0.7, edgecolor="black")
            for bar, text in zip(bars, classes, strict=True):
                _paint(bar, text, figures["classes"], colour=colour)
            labels = [f"{n:,}  {100 * share:.1f} %" for n, share in zip(counts, shares, strict=True)]
            axes.bar_label(bars, labels, padding=3, fontsize=_size(line_in), color=INK)
            told = f"{name}, " if len(parts) > 1 else ""
            axes.set_title(f"{told}{split}, n = {part['n'][split]:,}", fontsize=9, loc="left", color=INK)
            axes.set(xlim=(0, 1.55 * widest))
            axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
            _name_rows(axes, classes if split == columns[0] else [""] * len(classes), line_in)
    figure.supxlabel("share of the split", fontsize=8, color=INK)
    return render_figure(figure)


def spread_plot(figures: dict[str, Any], name: str, *, colour: bool) -> bytes:
    """A PNG of the spread of "brightness" or "sharpness" in each class: quartiles, 5 % to 95 % and mean."""
    classes = figures["classes"]
    spreads = [figures[name]["classes"][text] for text in classes] + [figures[name]["all"]]
    line_in = min(0.36, 12 / len(spreads))
    figure = Figure(figsize=(6.4, 0.8 + line_in * len(spreads)), layout="constrained")
    axes = figure.subplots()
    ends = {"q1": "q25", "med": "median", "q3": "q75", "whislo": "q05", "whishi": "q95", "mean": "mean"}
    drawn = axes.bxp(
        [{end: spread[key] for end, key in ends.items()} for spread in spreads],
        positions=range(len(spreads)), orientation="horizontal", widths=0.62, showfliers=False,
        showmeans=True, patch_artist=True, medianprops={"color": "black", "linewidth": 2},
        meanprops={"marker": "D", "markersize": 5.5, "markerfacecolor": "white", "markeredgecolor": "black"},
    )  # fmt: skip
    for box, median, text in zip(drawn["boxes"], drawn["medians"], [*classes, None], strict=True):
        _paint(box, text, classes, colour=colour)
        if colour and text is not None:
            median.set_color(pick_text_colour(pick_colour(text, classes)))
    _name_rows(axes, [*classes, "all classes"], line_in)
    axes.set_xlabel(
        "mean grey of an image: 0 is black, 255 white"
        if name == "brightness"
        else "variance of the Laplacian: 0 is blank, low is blurred",
        fontsize=8,
        color=INK,
    )
    axes.set_title(
        f"{name}: quartiles in the box, 5 % to 95 % at the ends, mean ◇", fontsize=9, loc="left", color=INK
    )
    return render_figure(figure)


def faces_grid(images: np.ndarray, title: str) -> bytes:
    """A PNG of the first nine of `(n, 48, 48) uint8` images, three by three; what is missing is white."""
    step = FACE_PX + GAP_PX
    canvas = np.full((SIDE * step - GAP_PX, SIDE * step - GAP_PX), 255, np.uint8)
    for number, image in enumerate(images[: SIDE * SIDE]):
        y, x = (step * place for place in divmod(number, SIDE))
        canvas[y : y + FACE_PX, x : x + FACE_PX] = image.repeat(FACE_PX // len(image), 0).repeat(
            FACE_PX // len(image), 1
        )
    width_in, title_in = len(canvas) / PRINT_DPI, 0.3
    figure = Figure(figsize=(width_in, width_in + title_in))
    axes = figure.add_axes((0, 0, 1, width_in / (width_in + title_in)))
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    figure.text(
        0.01, 1 - 0.15 / (width_in + title_in), shortened(title, 40), va="center", fontsize=9, color=INK,
        parse_math=False,
    )  # fmt: skip
    return render_figure(figure)


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name in one line of so many letters, without its middle where it has more."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    return name if len(name) <= most else f"{name[: most - most // 2 - 1]}…{name[-(most // 2) :]}"


def _paint(patch: Any, name: str | None, classes: Sequence[str], *, colour: bool) -> None:
    """Fill a bar or a box in its class's colour, or hatch it; None is all classes."""
    if colour:
        patch.set_facecolor(ALL if name is None else pick_colour(name, classes))
    else:
        patch.set_facecolor("white")
        patch.set_hatch("" if name is None else HATCHES[classes.index(name) % len(HATCHES)])


def _name_rows(axes: Axes, names: Sequence[str], line_in: float) -> None:
    axes.set_yticks(
        range(len(names)), [shortened(name) for name in names], fontsize=_size(line_in), parse_math=False
    )
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _size(line_in: float) -> float:
    """Of letters, in points, that fit into a row."""
    return min(8, 72 * line_in * 0.6)
