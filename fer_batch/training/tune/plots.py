"""What a study found as pictures: how it went, what each parameter did, how the trials learned."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from fer_batch.errors import OutputError
from fer_batch.plotting import BLUE, GREY, INK, RED, render_figure
from fer_batch.storage.atomic import write_bytes
from fer_batch.training.tune.space import PARAMETERS
from fer_batch.training.tune.study import DONE, StudySummary, TrialResult

NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "lr": "learning rate",
    "width": "width, factor",
    "dropout": "dropout, factor",
    "augmentation": "augmentation, factor",
    "imbalance": "imbalance",
}
PALE = "#c9d6ea"


def write_pictures(out: Path, found: StudySummary) -> list[str]:
    """Write pictures of what `training.tune.tune` returned into `out` (PNG, 300 dpi), and return their names:
    `history.png`, `parameters.png`, `curves.png`, and `importance.png` where that is known.

    Raises OutputError where they can't be written.
    """
    trials, metric = found.trials, found.settings["metric"]
    pictures: dict[str, Callable[[], bytes]] = {
        "history.png": lambda: history_plot(trials, metric),
        "parameters.png": lambda: parameters_plot(trials, metric),
        "curves.png": lambda: curves_plot(trials, metric, found.best.trial),
    }
    if found.importance:
        pictures["importance.png"] = lambda: importance_plot(found.importance)
    try:
        for name, draw in pictures.items():
            write_bytes(out / name, draw())
    except OSError as error:
        raise OutputError(f"{out} can't be written to: {error.strerror}") from error
    return list(pictures)


def history_plot(trials: Sequence[TrialResult], metric: str) -> bytes:
    """A PNG of each trial's result by its number, and the best until then; stopped ones are hollow, failed
    ones crosses below.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    done = _done(trials)
    values = np.array([trial.metric(metric) for trial in done])
    at = np.array([trial.trial for trial in done])
    axes.step(at, np.maximum.accumulate(values), where="post", color=BLUE, linewidth=1, label="best so far")
    _points(axes, at, values, done)
    failed = [trial.trial for trial in trials if trial.status != DONE]
    if failed:
        axes.plot(
            failed, np.full(len(failed), 0.02), "x", color=RED, markersize=5, label="failed",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=f"{NAMES[metric]}, selection")
    _bare(axes)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return render_figure(figure)


def parameters_plot(trials: Sequence[TrialResult], metric: str) -> bytes:
    """A PNG of the results against each parameter that was searched; marks as in `history_plot`."""
    done = _done(trials)
    names = [name for name in PARAMETERS if getattr(done[0], name) is not None]
    figure = Figure(figsize=(3.1 * min(3, len(names)), 2.7 * -(-len(names) // 3)), layout="constrained")
    grid = figure.subplots(-(-len(names) // 3), min(3, len(names)), sharey=True, squeeze=False)
    values = np.array([trial.metric(metric) for trial in done])
    for axes, name in zip(grid.flat, names, strict=False):
        given = [getattr(trial, name) for trial in done]
        if isinstance(given[0], str):
            kinds = sorted(set(given))
            _points(axes, np.array([kinds.index(kind) for kind in given]), values, done)
            axes.set_xticks(range(len(kinds)), kinds, rotation=90)
        else:
            _points(axes, np.array(given), values, done)
        if name == "lr":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        if name == "width":
            axes.set_xticks(sorted(set(given)))
        axes.set_xlabel(NAMES[name])
        _bare(axes)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(f"{NAMES[metric]}, selection")
    return render_figure(figure)


def curves_plot(trials: Sequence[TrialResult], metric: str, best: int) -> bytes:
    """A PNG of each trial's curve over its epochs, the base (trial 1) and the best in colour."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for trial in trials:
        epochs = [epoch.epoch for epoch in trial.history]
        curve = [getattr(epoch, metric) for epoch in trial.history]
        colour, label, above = PALE, None, 1
        if trial.trial == best:
            colour, label, above = BLUE, f"trial {best}, the best{', and the base' if best == 1 else ''}", 3
        elif trial.trial == 1:
            colour, label, above = RED, "trial 1, the base", 2
        axes.plot(
            epochs,
            curve,
            ".-",
            color=colour,
            label=label,
            zorder=above,
            linewidth=1 + above / 4,
            markersize=4,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=f"{NAMES[metric]}, selection")
    _bare(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return render_figure(figure)


def importance_plot(importance: dict[str, float]) -> bytes:
    """A PNG of each parameter's share of what the results differ by."""
    figure = Figure(figsize=(5.4, 0.6 + 0.42 * len(importance)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(importance))[::-1]
    shares = np.array(list(importance.values()))
    axes.barh(places, shares, color=BLUE, height=0.7)
    for place, share in zip(places, shares, strict=True):
        axes.text(share, place, f" {share:.2f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(places, [NAMES[name].split(",")[0] for name in importance])
    axes.set(xlabel="share of the variance", xlim=(0, 1.1 * shares.max()))
    _bare(axes)
    axes.grid(visible=False)
    return render_figure(figure)


def _done(trials: Sequence[TrialResult]) -> list[TrialResult]:
    return [trial for trial in trials if trial.status == DONE]


def _points(axes: Axes, at: np.ndarray, values: np.ndarray, done: Sequence[TrialResult]) -> None:
    stopped = np.array([trial.stopped_early for trial in done], bool)
    for chosen, face, label in ((~stopped, BLUE, "all epochs"), (stopped, "white", "stopped early")):
        if chosen.any():
            axes.plot(
                at[chosen], values[chosen], "o", markersize=5, markerfacecolor=face, markeredgecolor=BLUE,
                label=label,
            )  # fmt: skip


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.5)
