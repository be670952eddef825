"""How a training run went: its history as curves of loss and accuracy, and as a table."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fer_batch.errors import InputError
from fer_batch.model.weights import is_onnx_path, read_card
from fer_batch.plotting import BLUE, GREY, INK, RED, render_figure

LINES = {
    "loss": (("loss", "training", BLUE), ("select_loss", "selection", RED)),
    "accuracy": (
        ("train_accuracy", "training, as augmented", BLUE),
        ("accuracy", "selection", RED),
        ("macro_f1", "selection, macro-F1", GREY),
    ),
}
"""What is drawn in each half: the key in a row of the history, its name, its colour."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What a training run says of itself."""

    epochs: list[dict[str, Any]]
    """A row an epoch: `epoch`, `phase`, `loss`, `accuracy` and more; None for what was NaN."""
    selection: dict[str, Any]
    """`accuracy` and `macro_f1` of the epoch that was kept."""


def history_of(checkpoint: Path | None) -> History | None:
    """The history beside a checkpoint (a folder means its model.safetensors), None where there is none.

    Raises CheckpointError where there is no such checkpoint, InputError where what lies beside it is not a
    history.
    """
    if checkpoint is not None and is_onnx_path(checkpoint):  # which knows nothing of its training
        return None
    path, card = read_card(checkpoint)
    file = path.with_name("history.json")
    if not file.is_file():
        return None
    try:
        rows = json.loads(file.read_text(), parse_constant=lambda name: None)
        epochs = [dict(row) for row in rows]
        if not all(isinstance(row["epoch"], int) and isinstance(row["phase"], str) for row in epochs):
            raise ValueError("epochs are numbers, and phases have names")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is not the history of a training run: {error}; move it away") from error
    return History(epochs=epochs, selection=dict(card.training.get("selection") or {}))


def learning_curves(
    history: Sequence[Mapping[str, Any]], selection: Mapping[str, Any] | None = None
) -> bytes:
    """A PNG of loss and accuracy against the epoch, on training and selection, side by side.

    `history` is a run's rows (see `LINES`); what is missing or NaN is not drawn. The epoch whose accuracy and
    macro-F1 are those of `selection`, as a card's training record has it, is marked as the chosen one.
    """
    return render_figure(curves_plot(history, selection))


def curves_plot(history: Sequence[Mapping[str, Any]], selection: Mapping[str, Any] | None = None) -> Figure:
    """What `learning_curves` draws."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    phases = [list(rows) for _, rows in groupby(history, key=lambda row: row["phase"])]
    chosen = chosen_epoch(history, selection or {})
    for axes, (name, lines) in zip(figure.subplots(1, 2), LINES.items(), strict=True):
        for key, label, colour in lines:
            drawn = False
            for rows in phases:  # each phase a line of its own: the loss of another is another loss
                points = [(row["epoch"], float(row[key])) for row in rows if _is_number(row.get(key))]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), "o-", color=colour, markersize=2.5, linewidth=1.2,
                        label=None if drawn else label,
                    )  # fmt: skip
                    drawn = True
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
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def chosen_epoch(history: Sequence[Mapping[str, Any]], selection: Mapping[str, Any]) -> int | None:
    """The epoch whose accuracy and macro-F1 are those of `selection`, None where there is none: the last one
    if it is among several, else the first of them.
    """
    keys = ("accuracy", "macro_f1")
    alike = [
        row["epoch"]
        for row in history
        if all(_is_number(row.get(key)) and row[key] == selection.get(key) for key in keys)
    ]
    if not alike:
        return None
    return alike[-1] if alike[-1] == history[-1]["epoch"] else alike[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
