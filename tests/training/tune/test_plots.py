"""Plots of a study, also of one with few trials."""

from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot as plt
from optuna.distributions import FloatDistribution
from PIL import Image

from fer_batch.errors import OutputError
from fer_batch.training.tune.plots import write_plots
from fer_batch.training.tune.study import StudySummary, TrialResult, build_optuna_study
from tests.training.examples import make_history


def trial(number: int, *accuracies: float, **changes: Any) -> TrialResult:
    row: dict[str, Any] = {"lr": 0.1, "width": 1.0, "dropout": 1.0, "augmentation": 1.0, "imbalance": "sqrt"}
    row |= {"status": "done", "stopped_early": False, "reason": "", "settings": {}, "seconds": 1.0}
    row |= {"accuracy": accuracies[-1] if accuracies else None, "macro_f1": None, "epochs": len(accuracies)}
    return TrialResult(trial=number, history=make_history(*accuracies), **row | changes)


def summary(trials: list[TrialResult], **importance: float) -> StudySummary:
    return StudySummary(trials=trials, metric="accuracy", best=trials[-1], importance=importance)


ONE = [trial(1, 0.3)]
ALL = [
    trial(1, 0.3, 0.4),
    trial(2, 0.1, stopped_early=True, lr=0.01, width=0.5),
    trial(3, status="failed", lr=0.3),
    trial(4, 0.2, 0.5, imbalance="balanced-sampling"),
]
FIXED = [trial(1, 0.3, width=None, dropout=None), trial(2, 0.4, lr=0.2, width=None, dropout=None)]
NAMES = ["history.png", "parameters.png", "curves.png"]


@pytest.mark.parametrize("trials", [ONE, ALL, FIXED], ids=["one", "all", "fixed"])
def test_plots_have_300_dots_per_inch_and_leave_pyplot_unchanged(
    trials: list[TrialResult], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    assert write_plots(tmp_path, summary(trials)) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for name in NAMES:
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()


def test_trials_keep_their_numbers_and_results() -> None:
    trials = build_optuna_study(ALL, {"lr": FloatDistribution(0.01, 0.3)}, "accuracy").trials
    assert [(t.number, t.values) for t in trials[1:]] == [(1, [0.4]), (2, [0.1]), (3, None), (4, [0.5])]
    assert trials[4].intermediate_values == {1: 0.2, 2: 0.5}
    assert trials[2].params["lr"] == 0.01


def test_fewer_parameters_have_fewer_panels(tmp_path: Path) -> None:
    widths = []
    for trials in (ALL, FIXED):
        write_plots(tmp_path, summary(trials))
        with Image.open(tmp_path / "parameters.png") as picture:
            widths.append(picture.width)
    assert widths[1] < widths[0]


def test_known_importance_is_plotted(tmp_path: Path) -> None:
    names = write_plots(tmp_path, summary(ALL, lr=0.7, imbalance=0.3, width=0.0))
    assert names == [*NAMES, "importance.png"]
    with pytest.raises(OutputError, match="cannot write"):
        write_plots(tmp_path / "missing", summary(ONE))
