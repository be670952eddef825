"""The history of a training run: reading it, and its learning curves."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_batch.errors import InputError
from fer_batch.model.card import is_onnx_path, read_card
from fer_batch.plotting import BLUE, GREY, INK, RED, hide_frame, new_figure
from fer_batch.storage.user_files import read_bounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_HISTORY_BYTES = 10_000_000
Epoch = Mapping[str, Any]
"""One row of a history: `epoch`, `phase`, `loss`, `accuracy` and more. NaN is stored as None."""
CURVES = {
    "loss": (("loss", "training", BLUE), ("select_loss", "selection", RED)),
    "accuracy": (
        ("train_accuracy", "training, as augmented", BLUE),
        ("accuracy", "selection", RED),
        ("macro_f1", "selection, macro-F1", GREY),
    ),
}
"""The curves of each half of the figure: key in a row of the history, label, colour."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The record of a training run."""

    epochs: list[Epoch]
    selection: Mapping[str, Any]
    """Metrics of the selected epoch on the selection split: `accuracy`, `macro_f1`."""


def read_history(checkpoint: Path | None) -> History | None:
    """Read the history beside a checkpoint or in the folder of a run; None if there is none.

    Raises CheckpointError if the checkpoint does not exist, InputError if history.json is not a history.
    """
    if checkpoint is not None and is_onnx_path(checkpoint):  # ONNX files have no history
        return None
    path, card = read_card(checkpoint)
    file = path.with_name("history.json")
    if not file.is_file():
        return None
    try:
        content = read_bounded(file, MAX_HISTORY_BYTES)
        rows = json.loads(content, parse_constant=lambda name: None)
        epochs = [dict(row) for row in rows]
        if not all(isinstance(row["epoch"], int) and isinstance(row["phase"], str) for row in epochs):
            raise ValueError("epochs must be whole numbers and phases must be names")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file} is not the history of a training run: {error}; move it away") from error
    return History(epochs=list(epochs), selection=dict(card.training.get("selection") or {}))


def plot_curves(history: Sequence[Epoch], selection: Mapping[str, Any] | None = None) -> "Figure":
    """Plot loss and accuracy by epoch, on training and selection data, side by side.

    Missing values and NaN are not drawn. The epoch with the accuracy and macro-F1 of `selection`, which
    stands in the card's training record, is marked as the chosen one.
    """
    figure = new_figure(10, 3.8)
    phases = [list(rows) for _, rows in groupby(history, key=lambda row: row["phase"])]
    chosen = find_selected_epoch(history, selection or {})
    for axes, (name, curves) in zip(figure.subplots(1, 2), CURVES.items(), strict=True):
        for key, label, colour in curves:
            _draw_curve(axes, phases, key, label, colour)
        for rows in phases if len(phases) > 1 else []:
            if rows is not phases[0]:
                axes.axvline(rows[0]["epoch"] - 0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.annotate(
                rows[0]["phase"], (rows[0]["epoch"] - 0.5, 1), (2, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=7, color=GREY, parse_math=False,
            )  # fmt: skip
        if chosen is not None:
            axes.axvline(chosen, color=INK, linewidth=0.8, linestyle="--", label=f"chosen, epoch {chosen}")
        epochs = [row["epoch"] for row in history] or [1]
        axes.set(xlabel="epoch", ylabel=name, xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        hide_frame(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def find_selected_epoch(history: Sequence[Epoch], selection: Mapping[str, Any]) -> int | None:
    """Return the epoch with the accuracy and macro-F1 of `selection`, None if there is none.

    Of several such epochs it is the last epoch of the run, else the first.
    """
    keys = ("accuracy", "macro_f1")
    matching = [
        row["epoch"]
        for row in history
        if all(_is_number(row.get(key)) and row[key] == selection.get(key) for key in keys)
    ]
    if not matching:
        return None
    return matching[-1] if matching[-1] == history[-1]["epoch"] else matching[0]


def _draw_curve(axes: "Axes", phases: Sequence[Sequence[Epoch]], key: str, label: str, colour: str) -> None:
    """Draw one line for each phase, because phases have different losses."""
    lines = [[(row["epoch"], float(row[key])) for row in rows if _is_number(row.get(key))] for rows in phases]
    for number, points in enumerate(filter(None, lines)):
        axes.plot(
            *zip(*points, strict=True), "o-", color=colour, markersize=2.5, linewidth=1.2,
            label=None if number else label,
        )  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
