"""Predictions pooled over folds: their metrics, and intervals over resampled people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fer_batch.evaluation.intervals import Interval, percentile_interval, resample_sums
from fer_batch.evaluation.metrics import score_confusions

SCORES = ("accuracy", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class PooledPredictions:
    """Predictions of one model for examples, some of them perhaps by several trainings."""

    probs: np.ndarray
    """`(n, C) float`."""
    labels: np.ndarray
    """`(n,) int64`."""
    groups: np.ndarray
    """`(n,) str`: examples of one group are similar and are resampled together."""
    seeds: np.ndarray
    """`(n,) int64`: the seed of the repetition. Scores are means over repetitions."""


class Spread(NamedTuple):
    """Mean and standard deviation of a sample (0 for one value)."""

    mean: float
    sd: float


@dataclass(frozen=True, kw_only=True)
class ScoreGap:
    """The difference of a score between two sets of predictions."""

    value: float
    interval: Interval
    """95 % interval over resamples of the people."""
    runs: Spread
    """Spread over the repetitions, which the interval does not cover."""


def score_repeats(predictions: PooledPredictions) -> dict[str, np.ndarray]:
    """Return each of `SCORES` by repetition, `(runs,)` in the order of their seeds."""
    (table,) = _count_by_group([predictions])
    scores = score_confusions(table.sum(axis=0))
    return {name: scores[name] for name in SCORES}


def mean_scores(predictions: PooledPredictions) -> dict[str, float]:
    """Return each of `SCORES`, averaged over the repetitions."""
    return {name: float(values.mean()) for name, values in score_repeats(predictions).items()}


def grouped_intervals(predictions: PooledPredictions, seed: int = 0) -> dict[str, Interval]:
    """Return 95 % percentile intervals of `mean_scores` over resamples of the groups."""
    (resampled,) = _resample([predictions], seed)
    return {name: percentile_interval(values) for name, values in resampled.items()}


def compare_divisions(
    first: PooledPredictions, second: PooledPredictions, seed: int = 0
) -> dict[str, ScoreGap]:
    """Return by how much each of the first's `SCORES` is above the second's.

    Both have the same repetitions, perhaps with other examples of the same people. Each resample draws the
    same people for both.
    """
    resampled = _resample([first, second], seed)
    scores, other_scores = score_repeats(first), score_repeats(second)
    gaps = {}
    for name in SCORES:
        of_runs = scores[name] - other_scores[name]
        gaps[name] = ScoreGap(
            value=float(of_runs.mean()),
            interval=percentile_interval(resampled[0][name] - resampled[1][name]),
            runs=measure_spread(of_runs),
        )
    return gaps


def measure_spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Measure the spread of one or more values."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Spread(float(np.mean(values)), sd)


def _count_by_group(sets: Sequence[PooledPredictions]) -> list[np.ndarray]:
    """Count confusions of each set, `(groups, runs, C, C) float64`, for the groups of all sets."""
    names = np.unique(np.concatenate([predictions.groups for predictions in sets]))
    tables = []
    for predictions in sets:
        width = predictions.probs.shape[1]
        seeds, run = np.unique(predictions.seeds, return_inverse=True)
        table = np.zeros((len(names), len(seeds), width, width))
        group = np.searchsorted(names, predictions.groups)
        np.add.at(table, (group, run, predictions.labels, predictions.probs.argmax(axis=1)), 1)
        tables.append(table)
    return tables


def _resample(sets: Sequence[PooledPredictions], seed: int) -> list[dict[str, np.ndarray]]:
    """Return the scores of each set, `(R,)` each, in resamples of the groups.

    Resamples in which a repetition of one set has no example are left out.
    """
    tables = _count_by_group(sets)
    columns = np.concatenate([table.reshape(len(table), -1) for table in tables], axis=1)
    sums = np.split(
        resample_sums(columns, seed=seed), np.cumsum([table[0].size for table in tables])[:-1], axis=1
    )
    counts = [total.reshape(-1, *table.shape[1:]) for total, table in zip(sums, tables, strict=True)]
    complete = np.all([(count.sum(axis=(2, 3)) > 0).all(axis=1) for count in counts], axis=0)
    return [_score(count[complete]) for count in counts]


def _score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `SCORES`, `(R,)`, of `(R, runs, C, C)` confusions, averaged over the runs."""
    scores = score_confusions(counts.reshape(-1, *counts.shape[2:]))
    return {name: scores[name].reshape(counts.shape[:2]).mean(axis=1) for name in SCORES}
