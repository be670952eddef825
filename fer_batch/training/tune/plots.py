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
from optuna.importance import FanovaImportanceEvaluator
from optuna.visualization import matplotlib as optuna_plots

from fer_batch.plotting import save_figure
from fer_batch.training.tune.space import build_space
from fer_batch.training.tune.study import Study

METRIC_LABELS = {"accuracy": "accuracy, selection", "macro_f1": "macro-F1, selection"}
PANEL_IN = 3.1


def write_plots(out: Path, study: Study) -> list[str]:
    """Write the plots of a study into `out` (PNG, 300 dpi), and return their names.

    They are `history.png` (result of each trial, and the best so far), `parameters.png` (result against each
    parameter), `curves.png` (the metric by epoch), and `importance.png` if the importance is known.

    Raises OutputError if a file cannot be written.
    """
    trials, parameters = study.to_optuna(), list(build_space(study.config))
    label = METRIC_LABELS[study.metric]
    plots: dict[str, Callable[[], Any]] = {
        "history.png": lambda: optuna_plots.plot_optimization_history(trials, target_name=label),
        "parameters.png": lambda: optuna_plots.plot_slice(trials, params=parameters, target_name=label),
        "curves.png": lambda: optuna_plots.plot_intermediate_values(trials),
    }
    if study.importance:
        forest = FanovaImportanceEvaluator(seed=0)
        plots["importance.png"] = lambda: optuna_plots.plot_param_importances(
            trials, evaluator=forest, target_name=label
        )
    for name, plot in plots.items():
        _save_plot(plot, out / name, len(parameters) if name == "parameters.png" else 3)
    return list(plots)


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
