"""The history of a training run, and its learning curves, also with missing values."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from fer_batch.errors import CheckpointError, InputError
from fer_batch.training.curves import find_selected_epoch, plot_curves, read_history
from tests.evaluation.faces import tiny

HISTORY: list[dict[str, Any]] = [
    {"epoch": 1, "phase": "stills", "loss": 2.0, "accuracy": 0.3, "macro_f1": 0.2,
     "train_accuracy": math.nan},
    {"epoch": 2, "phase": "stills", "loss": 1.5, "accuracy": 0.5, "macro_f1": 0.4, "train_accuracy": 0.6,
     "select_loss": 1.4},
    {"epoch": 3, "phase": "sequences", "loss": 0.9, "accuracy": 0.4, "macro_f1": 0.3, "train_accuracy": None,
     "select_loss": 1.3},
]  # fmt: skip


def read_lines(axes: Axes) -> dict[str, list[list[tuple[float, float]]]]:
    """Return the points of the lines with markers, by the label of their colour."""
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    names: dict[str, str] = {}
    for line in axes.lines:
        if line.get_marker() == "o":
            label = line.get_label()
            name = names.setdefault(line.get_color(), label)
            lines.setdefault(name, []).append([tuple(map(float, p)) for p in line.get_xydata().tolist()])
    return lines


def test_no_epochs_give_empty_axes() -> None:
    figure = plot_curves([])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert not any(axes.lines for axes in figure.axes)


def test_each_phase_is_a_line_without_missing_values() -> None:
    loss, accuracy = plot_curves(HISTORY, {"accuracy": 0.5, "macro_f1": 0.4, "n": 3}).axes
    assert read_lines(loss) == {
        "training": [[(1, 2.0), (2, 1.5)], [(3, 0.9)]],
        "selection": [[(2, 1.4)], [(3, 1.3)]],
    }
    assert read_lines(accuracy) == {
        "training, as augmented": [[(2, 0.6)]],
        "selection": [[(1, 0.3), (2, 0.5)], [(3, 0.4)]],
        "selection, macro-F1": [[(1, 0.2), (2, 0.4)], [(3, 0.3)]],
    }
    for axes in (loss, accuracy):
        assert axes.get_xlabel() == "epoch"
        assert [text.get_text() for text in axes.texts] == ["stills", "sequences"]
        assert "chosen, epoch 2" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_older_histories_and_single_epochs_are_plotted() -> None:
    loss, accuracy = plot_curves([{"epoch": 1, "phase": "stills", "loss": 2.0, "accuracy": 0.3}]).axes
    assert read_lines(loss) == {"training": [[(1, 2.0)]]}
    assert read_lines(accuracy) == {"selection": [[(1, 0.3)]]}
    assert not loss.texts


@pytest.mark.parametrize(
    ("accuracies", "chosen", "epoch"),
    [
        ([], 0.5, None),
        ([0.1, 0.2], 0.5, None),
        ([math.nan], math.nan, None),
        ([0.5, 0.2], 0.5, 1),
        ([0.1, 0.5, 0.5, 0.2], 0.5, 2),  # early stopping takes the first of the best
        ([0.5, 0.5], 0.5, 2),  # without it the last
    ],
)
def test_selected_epoch_is_found(accuracies: list[float], chosen: float, epoch: int | None) -> None:
    history = [{"epoch": i, "accuracy": a, "macro_f1": 0.25} for i, a in enumerate(accuracies, 1)]
    assert find_selected_epoch(history, {"accuracy": chosen, "macro_f1": 0.25}) == epoch
    assert find_selected_epoch(history, {}) is None


def test_history_is_found_beside_its_checkpoint(tmp_path: Path) -> None:
    tiny(tmp_path / "run" / "model.safetensors", "a", "b")
    assert read_history(None) is None
    assert read_history(tmp_path / "run") is None
    (tmp_path / "run" / "history.json").write_text(json.dumps(HISTORY))
    history = read_history(tmp_path / "run" / "model.safetensors")
    assert history is not None
    assert history.epochs == [HISTORY[0] | {"train_accuracy": None}, *HISTORY[1:]]
    assert history.selection == {}
    with pytest.raises(CheckpointError, match="nowhere"):
        read_history(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{}x", "3", "[1]", '[{"epoch": 1}]', '[{"epoch": "1", "phase": "stills"}]']
)
def test_invalid_history_is_refused(tmp_path: Path, text: str) -> None:
    tiny(tmp_path / "model.safetensors", "a", "b")
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(
        InputError, match=r"history\.json is not the history of a training run: .*; move it away"
    ):
        read_history(tmp_path)
