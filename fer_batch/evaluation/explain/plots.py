"""Pictures of an attribution: maps over a crop, and weights of the frames of a window."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fer_batch.config import CROP_SIZE_PX
from fer_batch.plotting import BLUE, GREY, INK, RED, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DISCLAIMER = "The model classifies an expression, not a person's feelings."
PANEL_IN, FRAME_IN = 1.7, 0.6
METHOD_TITLES = {"grad-cam": "Grad-CAM", "occlusion": "occlusion: fall of ln p"}
COLOUR_MAPS = {"grad-cam": "viridis", "occlusion": "coolwarm_r"}
"""Both are perceptually uniform (the second by Moreland 2009, doi:10.1007/978-3-642-10520-3_9). Blue supports
an emotion, red opposes it."""
MAX_OPACITY = 0.75
LEFT_IN, ROW_IN, TOP_IN, BOTTOM_IN = 0.7, 1.05, 0.1, 0.5
"""Margins of the picture of frames, and the height of an emotion's row."""


def plot_maps(crop: np.ndarray, titles: Sequence[str], maps: dict[str, np.ndarray]) -> "Figure":
    """Plot a crop `(48, 48) uint8` and the maps over it: a row for each method, a column for each emotion.

    `maps` are `(emotions, 48, 48)` by method; `titles` are those of the crop and of the emotions. Each map
    has its own scale, and its opacity grows with the distance from 0.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = new_figure((PANEL_IN + 0.55) * len(titles), (PANEL_IN + 0.2) * len(maps) + 0.4)
    rows = figure.subplots(len(maps), len(titles), squeeze=False)
    for panels, (method, values) in zip(rows, maps.items(), strict=True):
        for panel in panels:
            panel.imshow(crop, cmap="gray", vmin=0, vmax=255)
            panel.set_xticks([])
            panel.set_yticks([])
        panels[0].set_ylabel(METHOD_TITLES[method], fontsize=8, color=INK)
        for panel, value in zip(panels[1:], values, strict=True):
            limit = float(np.abs(value).max()) or 1.0
            norm = Normalize(0 if method == "grad-cam" else -limit, limit)
            overlay = panel.imshow(
                value, COLOUR_MAPS[method], norm, alpha=MAX_OPACITY * np.abs(value) / limit
            )
            mappable = ScalarMappable(norm, overlay.cmap)
            bar = figure.colorbar(mappable, ax=panel, shrink=0.75, aspect=12, pad=0.02)
            bar.ax.tick_params(labelsize=6)
    for panel, title in zip(rows[0], titles, strict=True):
        panel.set_title(title, fontsize=9, color=INK, parse_math=False)
    figure.supxlabel(DISCLAIMER, fontsize=6, color=GREY)
    return figure


def plot_frames(
    crops: np.ndarray, offsets_s: np.ndarray, centre: int, titles: Sequence[str], weights: np.ndarray
) -> "Figure":
    """Plot the crops of a window in a row, and below it the weights of the frames for each emotion.

    `crops` is `(T, 48, 48) uint8`, `offsets_s` `(T,)` the seconds from the explained frame, which is at
    `centre`, and `weights` `(emotions, T)` from −1 to 1.
    """
    positions = np.arange(len(crops))
    row_width_in = max(len(crops) * FRAME_IN, 4.2)
    width_in = LEFT_IN + row_width_in + 0.1
    height_in = TOP_IN + FRAME_IN + ROW_IN * len(titles) + BOTTOM_IN
    figure = new_figure(width_in, height_in, layout=None)

    def add_axes(bottom_in: float, axes_height_in: float) -> "Axes":
        axes = figure.add_axes(
            (LEFT_IN / width_in, bottom_in / height_in, row_width_in / width_in, axes_height_in / height_in)
        )
        half_width = row_width_in / FRAME_IN / 2
        axes.set_xlim(positions.mean() - half_width, positions.mean() + half_width)
        return axes

    strip = add_axes(height_in - TOP_IN - FRAME_IN, FRAME_IN)
    strip.set_axis_off()
    for position, crop in enumerate(crops):
        extent = (position - 0.47, position + 0.47, CROP_SIZE_PX, 0)
        strip.imshow(crop, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    strip.set(xlim=strip.get_xlim(), ylim=(CROP_SIZE_PX, 0))
    lowest, highest = min(float(weights.min()), 0), max(float(weights.max()), 0)
    margin = max(highest - lowest, 1e-9) / 20
    ticks = [f"{offset_s:+.1f}".replace("-", "−") for offset_s in offsets_s]
    ticks[centre] = "0"
    for number, (title, row) in enumerate(zip(titles, weights, strict=True)):
        axes = add_axes(BOTTOM_IN + ROW_IN * (len(titles) - 1 - number), ROW_IN - 0.35)
        axes.bar(positions, row, 0.8, color=[BLUE if weight >= 0 else RED for weight in row])
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_ylim(lowest - margin, highest + margin)
        axes.set_title(title, fontsize=9, loc="left", pad=3, color=INK, parse_math=False)
        axes.tick_params(labelsize=7)
        hide_frame(axes)
        axes.set_xticks(positions, ticks if number == len(titles) - 1 else [])
    axes.get_xticklabels()[centre].set_fontweight("bold")
    axes.set_xlabel(f"seconds from the explained frame. {DISCLAIMER}", fontsize=7, color=GREY)
    middle = (BOTTOM_IN + ROW_IN * len(titles) / 2 - 0.15) / height_in
    figure.text(0.12 / width_in, middle, "weight", rotation=90, va="center", fontsize=7, color=GREY)
    return figure
