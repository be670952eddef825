"""Optuna's plots of a study: the results, the parameters, the learning curves, and the importance."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import BaseImportanceEvaluator
from optuna.visualization import matplotlib as optuna_plots

from fer_batch.plotting import save_figure
from fer_batch.training.tune.space import PARAMETERS
from fer_batch.training.tune.study import StudySummary, TrialResult, build_optuna_study

METRIC_LABELS = {"accuracy": "accuracy, selection", "macro_f1": "macro-F1, selection"}
PANEL_IN = 3.1


def write_plots(out: Path, summary: StudySummary) -> list[str]:
    """Write the plots of a study into `out` (PNG, 300 dpi), and return their names.

    They are `history.png` (result of each trial, and the best so far), `parameters.png` (result against each
    parameter), `curves.png` (the metric by epoch), and `importance.png` if the importance is known.

    Raises OutputError if a file cannot be written.
    """
    space = _infer_distributions(summary.trials)
    study = build_optuna_study(summary.trials, space, summary.metric)
    label, parameters = METRIC_LABELS[summary.metric], list(space)
    plots: dict[str, Callable[[], Any]] = {
        "history.png": lambda: optuna_plots.plot_optimization_history(study, target_name=label),
        "parameters.png": lambda: optuna_plots.plot_slice(study, params=parameters, target_name=label),
        "curves.png": lambda: optuna_plots.plot_intermediate_values(study),
    }
    if summary.importance:
        evaluator = _KnownImportance(summary.importance)
        plots["importance.png"] = lambda: optuna_plots.plot_param_importances(
            study, evaluator=evaluator, params=list(summary.importance), target_name=label
        )
    for name, plot in plots.items():
        _save_plot(plot, out / name, len(parameters) if name == "parameters.png" else 3)
    return list(plots)


def _infer_distributions(trials: list[TrialResult]) -> dict[str, BaseDistribution]:
    """Return distributions that contain the values of all trials."""
    distributions: dict[str, BaseDistribution] = {}
    for name in PARAMETERS:
        values = [getattr(trial, name) for trial in trials]
        if values[0] is None:
            continue
        if name in ("width", "imbalance"):
            distributions[name] = CategoricalDistribution(sorted(set(values)))
        else:
            distributions[name] = FloatDistribution(min(values), max(values), log=name == "lr")
    return distributions


def _save_plot(plot: Callable[[], Any], path: Path, panels: int) -> None:
    """Draw a plot and save it, and leave no style and no figure behind in pyplot."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Attempting to set identical low and high xlims")
        axes: Axes = np.ravel(plot())[0]
        figure = axes.get_figure(root=True)
        assert figure is not None
        try:
            figure.set_layout_engine("constrained")
            figure.set_size_inches(PANEL_IN * max(panels, 2), 1.25 * PANEL_IN)
            save_figure(figure, path)
        finally:
            plt.close(figure)


class _KnownImportance(BaseImportanceEvaluator):
    """Return the importance of the summary, so that the plot agrees with `study.json`."""

    def __init__(self, importance: dict[str, float]) -> None:
        self.importance = importance

    def evaluate(self, study: optuna.Study, params: list[str] | None = None, **_: Any) -> dict[str, float]:
        return self.importance
