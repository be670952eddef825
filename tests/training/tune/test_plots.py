"""Pictures of a study, also of one that has hardly a trial."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fer_batch.errors import OutputError
from fer_batch.training.tune.plots import (
    curves_plot,
    history_plot,
    importance_plot,
    parameters_plot,
    write_pictures,
)
from fer_batch.training.tune.study import StudySummary, TrialResult
from tests.training.examples import make_history


def trial(number: int, *accuracies: float, **changes: Any) -> TrialResult:
    row: dict[str, Any] = {"lr": 0.1, "width": 1.0, "dropout": 1.0, "augmentation": 1.0, "imbalance": "sqrt"}
    row |= {"status": "done", "stopped_early": False, "reason": "", "settings": {}, "seconds": 1.0}
    row |= {"accuracy": accuracies[-1] if accuracies else None, "macro_f1": None, "epochs": len(accuracies)}
    return TrialResult(trial=number, history=make_history(*accuracies), **row | changes)


ONE = [trial(1, 0.3)]
ALL = [
    trial(1, 0.3, 0.4),
    trial(2, 0.1, stopped_early=True, lr=0.01, width=0.5),
    trial(3, status="failed", lr=0.3),
    trial(4, 0.2, 0.5, imbalance="balanced-sampling"),
]
FIXED = [trial(1, 0.3, width=None, dropout=None), trial(2, 0.4, lr=0.2, width=None, dropout=None)]


@pytest.mark.parametrize(("trials", "best"), [(ONE, 1), (ALL, 4), (FIXED, 2)], ids=["one", "all", "fixed"])
def test_plots_are_pictures_of_300_dots_an_inch(trials: list[TrialResult], best: int) -> None:
    for content in (
        history_plot(trials, "accuracy"),
        parameters_plot(trials, "accuracy"),
        curves_plot(trials, "accuracy", best),
    ):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG"
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_fewer_parameters_are_fewer_panels() -> None:
    sizes = [Image.open(io.BytesIO(parameters_plot(trials, "accuracy"))).size for trials in (ALL, FIXED)]
    assert sizes[1][0] == sizes[0][0]
    assert sizes[1][1] < sizes[0][1]


@pytest.mark.parametrize("importance", [{"lr": 1.0}, {"lr": 0.7, "imbalance": 0.3, "width": 0.0}])
def test_importance_is_a_picture(importance: dict[str, float]) -> None:
    assert importance_plot(importance).startswith(b"\x89PNG")


def test_a_picture_is_written_of_all_that_is_known(tmp_path: Path) -> None:
    found = StudySummary(trials=ONE, settings={"metric": "accuracy"}, best=ONE[0], importance={})
    assert write_pictures(tmp_path, found) == ["history.png", "parameters.png", "curves.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "history.png", "parameters.png"]
    with pytest.raises(OutputError, match="can't be written to"):
        write_pictures(tmp_path / "gone", dataclasses.replace(found, importance={"lr": 1.0}))
