"""Answers against each other, and what chance in the choice of people makes of the difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_batch.evaluation.metrics import LEVEL, RESAMPLES, of_confusions

TAIL = 100 * (1 - LEVEL) / 2
DRAWN_AT_ONCE = 4_000_000
"""Values of one array of resamples: bounds the memory, not the result."""
FIGURES = ("accuracy", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was answered of examples, some of them perhaps several times."""

    probs: np.ndarray
    """`(n, C) float`."""
    labels: np.ndarray
    """`(n,) int64`."""
    groups: np.ndarray
    """`(n,) str`: those of one are alike, and are resampled together."""
    runs: np.ndarray
    """`(n,) int64`: which of several trainings of one kind answered; figures are means over them."""


def means(answers: Answers) -> dict[str, float]:
    """Each of `FIGURES`, the mean over the runs."""
    (counts,) = _counts([answers])
    return {name: float(values[0]) for name, values in _mean_figures(counts.sum(axis=1)[:, None]).items()}


def grouped_intervals(answers: Answers, seed: int = 0) -> dict[str, list[float]]:
    """95 % percentile intervals `[low, high]` of `means` over resamples of the groups."""
    (drawn,) = _resampled([answers], seed)
    return {name: _interval(values) for name, values in drawn.items()}


def worth(first: Answers, second: Answers, seed: int = 0) -> dict[str, Any]:
    """By how much the first's accuracy and macro-F1 are above the second's: `{name: gap, name_interval: [low,
    high], name_runs: spread of the gap over the runs}`, the runs of both being the same.

    The 95 % percentile intervals are over resamples of the groups, the same for both; the answers may be of
    other examples of the same people. What another training or another division would give is not in them,
    but in the spread.
    """
    drawn = _resampled([first, second], seed)
    result: dict[str, Any] = {}
    for name in FIGURES:
        of_runs = [
            means(_of_run(first, run))[name] - means(_of_run(second, run))[name]
            for run in np.unique(first.runs)
        ]
        result[name] = float(np.mean(of_runs))
        result[f"{name}_interval"] = _interval(drawn[0][name] - drawn[1][name])
        result[f"{name}_runs"] = spread(of_runs)
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """`mean` and `sd`, the standard deviation of a sample (0 of one value)."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _of_run(answers: Answers, run: int) -> Answers:
    return Answers(**{name: values[answers.runs == run] for name, values in vars(answers).items()})


def _counts(sets: Sequence[Answers]) -> list[np.ndarray]:
    """Of each of the sets a confusion matrix of each run and group, `(runs, G, C, C) float64`, the groups
    those of all sets.
    """
    names = np.unique(np.concatenate([answers.groups for answers in sets]))
    tables = []
    for answers in sets:
        width = answers.probs.shape[1]
        runs, run = np.unique(answers.runs, return_inverse=True)
        table = np.zeros((len(runs), len(names), width, width))
        group = np.searchsorted(names, answers.groups)
        np.add.at(table, (run, group, answers.labels, answers.probs.argmax(axis=1)), 1)
        tables.append(table)
    return tables


def _resampled(sets: Sequence[Answers], seed: int) -> list[dict[str, np.ndarray]]:
    """`means`, `(R,)` of each, of each of the sets in resamples of all groups; those in which a run of one
    has no answer are left out.
    """
    tables = _counts(sets)
    count = tables[0].shape[1]
    random = np.random.default_rng(seed)
    block = max(1, DRAWN_AT_ONCE // count)
    parts: list[list[np.ndarray]] = [[] for _ in sets]
    for first in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - first)
        times = random.multinomial(count, np.full(count, 1 / count), size=rows).astype(np.float64)  # (r, G)
        for part, table in zip(parts, tables, strict=True):
            part.append(np.einsum("rg,xgij->xrij", times, table, optimize=True))
    drawn = [np.concatenate(part, axis=1) for part in parts]  # (runs, R, C, C) of each
    whole = np.all([(counts.sum(axis=(2, 3)) > 0).all(axis=0) for counts in drawn], axis=0)
    return [_mean_figures(counts[:, whole]) for counts in drawn]


def _mean_figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Of `(runs, R, C, C)` confusion matrices each of `FIGURES`, `(R,)`."""
    figures = of_confusions(counts.reshape(-1, *counts.shape[2:]))
    return {name: figures[name].reshape(counts.shape[:2]).mean(axis=0) for name in FIGURES}


def _interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.percentile(values, [TAIL, 100 - TAIL])]
