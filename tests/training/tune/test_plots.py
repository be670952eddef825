"""Plots of a study, also of one with few trials."""

from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from fer_batch.errors import OutputError
from fer_batch.train_config import TrainConfig
from fer_batch.training.tune.plots import write_plots
from fer_batch.training.tune.space import Point
from fer_batch.training.tune.study import DONE, FAILED, Study, TrialRecord
from tests.training.examples import make_history

NAMES = ["history.png", "parameters.png", "curves.png"]


def trial(number: int, *accuracies: float, status: str = DONE, **changes: Any) -> TrialRecord:
    values = {"lr": 0.1, "width": 1.0, "dropout": 1.0, "augmentation": 1.0, "imbalance": "sqrt"} | changes
    history = make_history(*accuracies)
    return TrialRecord(number=number, values=Point(**values), status=status, history=history)


def make_study(*trials: TrialRecord, backbone: str = "") -> Study:
    config = TrainConfig(data=(("folder", "x"),), backbone=backbone)
    records = {record.number: record for record in trials}
    return Study(config=config, out=Path("study"), metric="accuracy", records=records)


ONE = make_study(trial(1, 0.3))
ALL = make_study(
    trial(1, 0.3, 0.4),
    trial(2, 0.1, lr=0.02, width=0.5),
    trial(3, status=FAILED, lr=0.3),
    trial(4, 0.2, 0.5, imbalance="balanced-sampling"),
)
FIXED = make_study(trial(1, 0.3, width=None), trial(2, 0.4, lr=0.2, width=None), backbone="resnet18")


@pytest.mark.parametrize("study", [ONE, ALL, FIXED], ids=["one", "all", "fixed"])
def test_plots_have_300_dots_per_inch_and_leave_pyplot_unchanged(study: Study, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    assert write_plots(tmp_path, study) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    for name in NAMES:
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert dict(matplotlib.rcParams) == before
    assert not plt.get_fignums()


def test_fewer_parameters_have_fewer_panels(tmp_path: Path) -> None:
    widths = []
    for study in (ALL, FIXED):
        write_plots(tmp_path, study)
        with Image.open(tmp_path / "parameters.png") as picture:
            widths.append(picture.width)
    assert widths[1] < widths[0]


def test_known_importance_is_plotted(tmp_path: Path) -> None:
    study = make_study(*(trial(n, lr, lr=lr) for n, lr in enumerate([0.02, 0.2] * 3, 1)))
    assert write_plots(tmp_path, study) == [*NAMES, "importance.png"]
    with pytest.raises(OutputError, match="cannot write"):
        write_plots(tmp_path / "missing", ONE)
