"""The results of a cross-validation: metrics of the out-of-fold predictions.

The scores of each fold, of each repetition and of all predictions follow from confusion matrices by person
and repetition. So intervals over resampled people cover all of them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fer_batch.data.clips import Clips
from fer_batch.evaluation.crossval.train_fold import ONE_MODEL, FoldResult
from fer_batch.evaluation.intervals import Interval, percentile_interval, resample_sums
from fer_batch.evaluation.metrics import Metrics, PairedDifference, compare_pairs, measure, score_confusions
from fer_batch.records import to_plain
from fer_batch.training.recipes import Settings

SCORES = ("accuracy", "macro_f1")


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

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """Each of `SCORES` by repetition, `(runs,)` in the order of their seeds."""
        scores = score_confusions(self.count_confusions(np.unique(self.groups)).sum(axis=0))
        return {name: scores[name] for name in SCORES}

    def count_confusions(self, groups: np.ndarray) -> np.ndarray:
        """Return `(groups, runs, C, C) float64` counts; `groups` are sorted and contain all of these."""
        seeds, run = np.unique(self.seeds, return_inverse=True)
        classes = self.probs.shape[1]
        counts = np.zeros((len(groups), len(seeds), classes, classes))
        group, predicted = np.searchsorted(groups, self.groups), self.probs.argmax(axis=1)
        np.add.at(counts, (group, run, self.labels, predicted), 1)
        return counts


@dataclass(frozen=True, kw_only=True)
class DivisionSummary:
    """The results of one division of the data, by subject or at random."""

    metrics: dict[str, Metrics]
    """Metrics of the pooled predictions by model. With several repetitions, accuracy and macro-F1 are means
    over them, and their intervals are over resampled people."""
    difference: PairedDifference | None
    """The gain of the CNN-BiLSTM over the CNN; its `p` is None with several repetitions."""
    spread: dict[str, Spread]
    """Spread of each score over the repetitions; over the folds if there is one repetition."""
    repeats: pd.DataFrame
    """A row for each seed: `seed`, `n`, and the scores of all its folds together."""
    folds: pd.DataFrame
    """A row for each fold; see `tabulate_folds`."""

    def to_dict(self) -> dict[str, object]:
        """Return the division's part of `crossval.json`."""
        over = "repeats" if len(self.repeats) > 1 else "folds"
        return {
            **self.metrics,
            **({"difference": self.difference} if self.difference else {}),
            "spread": {"over": over, "count": len(getattr(self, over)), **self.spread},
            "repeats": self.repeats,
            "folds": self.folds,
        }


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """The result of a cross-validation."""

    n: int
    """Number of examples."""
    unit: str
    """Either "images" or "sequences"."""
    subjects: int
    """Number of known subjects."""
    settings: Settings
    divisions: dict[str, DivisionSummary]
    """Results by division: "subject", "random" or both."""
    leak: dict[str, dict[str, ScoreGap]]
    """For each model, how far its scores at random are above those by subject; empty for one division."""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `crossval.json`. With one division, its results stand at the top level."""
        results: dict[str, Any] = {by: division.to_dict() for by, division in self.divisions.items()}
        if self.leak:
            results["leak"] = {model: {} for model in self.leak}
            for model, gaps in self.leak.items():
                for name, gap in gaps.items():
                    values = {name: gap.value, f"{name}_interval": gap.interval, f"{name}_runs": gap.runs}
                    results["leak"][model] |= values
        else:
            (results,) = results.values()
        facts = {"n": self.n, "unit": self.unit, "subjects": self.subjects}
        return {name: to_plain(v) for name, v in (facts | results | {"settings": self.settings}).items()}


def summarize(
    data: Clips,
    groups: np.ndarray,
    divisions: dict[str, list[FoldResult]],
    models: Sequence[str],
    settings: Settings,
) -> CrossValidation:
    """Summarize the folds of each division. `groups` `(N,) str` are those of `group_clips`."""
    pooled = {by: pool_predictions(data, groups, results, models) for by, results in divisions.items()}
    leak = {}
    if len(divisions) > 1:
        leak = {
            model: compare_divisions(pooled["random"][model], pooled["subject"][model]) for model in models
        }
    return CrossValidation(
        n=len(data),
        unit=name_unit(data),
        subjects=len(set(data.subjects.tolist()) - {""}),
        settings=settings,
        divisions={
            by: _summarize_division(data.classes, pooled[by], tabulate_folds(data, groups, results, models))
            for by, results in divisions.items()
        },
        leak=leak,
    )


def name_unit(data: Clips) -> str:
    """Return "images" if all clips are stills, else "sequences"."""
    return "images" if (np.diff(data.starts) == 1).all() else "sequences"


def name_score(model: str, score: str) -> str:
    """Return the column of a model's score.

    A single model has "accuracy" and "macro_f1". Of a pair, "cnn" is its accuracy and "cnn_macro_f1" its
    macro-F1.
    """
    if model in ONE_MODEL:
        return score
    return model if score == "accuracy" else f"{model}_{score}"


def tabulate_folds(
    data: Clips, groups: np.ndarray, results: Sequence[FoldResult], models: Sequence[str]
) -> pd.DataFrame:
    """Return a row for each fold.

    The columns are `by`, `seed`, `fold`, `n`, the scores, `known` (number of examples whose person, or image,
    also occurs outside the fold), `train_accuracy`, `trained_on`, `held_out` and `seconds`.
    """
    rows = []
    for result in results:
        fold, tested = result.fold, result.fold.tested
        scores = _score_models(pool_predictions(data, groups, [result], models))
        rows.append(
            {
                "by": fold.by,
                "seed": fold.seed,
                "fold": fold.number,
                "n": int(tested.sum()),
                **{name: float(score) for name, (score,) in scores.items()},
                "known": int(np.isin(groups[tested], groups[~tested]).sum()),
                "train_accuracy": result.train_accuracy,
                "trained_on": result.trained_on,
                "held_out": result.held_out,
                "seconds": result.seconds,
            }
        )
    return pd.DataFrame(rows)


def tabulate_predictions(data: Clips, results: Sequence[FoldResult], models: Sequence[str]) -> pd.DataFrame:
    """Return a row for each prediction; `sequence` numbers the examples of a subject in the data's order."""
    number = pd.Series(data.subjects).groupby(data.subjects).cumcount().to_numpy() + 1
    classes = np.array(data.classes, object)
    parts = []
    for result in results:
        index = np.flatnonzero(result.fold.tested)
        columns = {"subject": data.subjects[index], "sequence": number[index], "fold": result.fold.number}
        columns |= {"true": classes[data.labels[index]]}
        columns |= {model: classes[result.probs[model].argmax(axis=1)] for model in models}
        parts.append(pd.DataFrame({**columns, "by": result.fold.by, "seed": result.fold.seed}, index=index))
    return pd.concat(parts).rename_axis("index").sort_values(["by", "seed", "index"], kind="stable")


def pool_predictions(
    data: Clips, groups: np.ndarray, results: Sequence[FoldResult], models: Sequence[str]
) -> dict[str, PooledPredictions]:
    """Pool the predictions of each model over folds, ordered by seed and by the data."""
    tested = np.concatenate([np.flatnonzero(result.fold.tested) for result in results])
    seeds = np.concatenate([np.full(result.fold.tested.sum(), result.fold.seed) for result in results])
    order = np.lexsort((tested, seeds))
    return {
        model: PooledPredictions(
            probs=np.concatenate([result.probs[model] for result in results])[order],
            labels=data.labels[tested[order]],
            groups=groups[tested[order]],
            seeds=seeds[order],
        )
        for model in models
    }


def compare_divisions(
    first: PooledPredictions, second: PooledPredictions, seed: int = 0
) -> dict[str, ScoreGap]:
    """Return by how much each of the first's `SCORES` is above the second's.

    Both have the same repetitions, perhaps with other examples of the same people. Each resample draws the
    same people for both.
    """
    resampled, others = _resample_scores(first, second, seed=seed)
    gaps = {}
    for name in SCORES:
        of_runs = first.scores[name] - second.scores[name]
        gaps[name] = ScoreGap(
            value=float(of_runs.mean()),
            interval=percentile_interval(resampled[name] - others[name]),
            runs=measure_spread(of_runs),
        )
    return gaps


def measure_intervals(predictions: PooledPredictions, seed: int = 0) -> dict[str, Interval]:
    """Return 95 % percentile intervals of the mean scores over resamples of the groups."""
    (resampled,) = _resample_scores(predictions, seed=seed)
    return {name: percentile_interval(values) for name, values in resampled.items()}


def measure_spread(values: Sequence[float] | np.ndarray) -> Spread:
    """Measure the spread of one or more values."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Spread(float(np.mean(values)), sd)


def _resample_scores(*sets: PooledPredictions, seed: int) -> list[dict[str, np.ndarray]]:
    """Return the scores of each set, `(R,)` each, averaged over the repetitions, in resamples of the groups.

    Resamples in which a repetition of one set has no example are left out.
    """
    groups = np.unique(np.concatenate([predictions.groups for predictions in sets]))
    tables = [predictions.count_confusions(groups) for predictions in sets]
    columns = np.concatenate([table.reshape(len(groups), -1) for table in tables], axis=1)
    ends = np.cumsum([table[0].size for table in tables])[:-1]
    sums = np.split(resample_sums(columns, seed=seed), ends, axis=1)
    counts = [total.reshape(-1, *table.shape[1:]) for total, table in zip(sums, tables, strict=True)]
    complete = np.all([(count.sum(axis=(2, 3)) > 0).all(axis=1) for count in counts], axis=0)
    resampled = []
    for count in counts:
        drawn, runs, *matrix = count[complete].shape
        scores = score_confusions(count[complete].reshape(-1, *matrix))
        resampled.append({name: scores[name].reshape(drawn, runs).mean(axis=1) for name in SCORES})
    return resampled


def _summarize_division(
    classes: Sequence[str], pooled: dict[str, PooledPredictions], folds: pd.DataFrame
) -> DivisionSummary:
    metrics = {model: measure(p.probs, p.labels, classes) for model, p in pooled.items()}
    difference = None
    first, *others = pooled.values()
    if others:
        correct = [p.probs.argmax(axis=1) == p.labels for p in pooled.values()]
        difference = compare_pairs(correct[0], correct[1], first.groups)
    if len(np.unique(first.seeds)) > 1:  # each example has several predictions
        for model, predictions in pooled.items():
            means = {name: float(values.mean()) for name, values in predictions.scores.items()}
            metrics[model] = dataclasses.replace(
                metrics[model],
                accuracy=means["accuracy"],
                macro_f1=means["macro_f1"],
                intervals=measure_intervals(predictions),
            )
        difference = dataclasses.replace(difference, p=None) if difference else None
    seeds, counts = np.unique(first.seeds, return_counts=True)
    repeats = pd.DataFrame({"seed": seeds, "n": counts, **_score_models(pooled)})
    spread_table = repeats if len(seeds) > 1 else folds
    columns = [name_score(model, score) for model in pooled for score in SCORES]
    return DivisionSummary(
        metrics=metrics,
        difference=difference,
        spread={column: measure_spread(spread_table[column].tolist()) for column in columns},
        repeats=repeats,
        folds=folds,
    )


def _score_models(pooled: dict[str, PooledPredictions]) -> dict[str, np.ndarray]:
    """Return the scores of each model by column, a value for each repetition."""
    return {
        name_score(model, score): values
        for model, predictions in pooled.items()
        for score, values in predictions.scores.items()
    }
