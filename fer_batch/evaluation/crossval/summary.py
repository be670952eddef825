"""The results of a cross-validation: metrics of each fold, of each repetition, and of all predictions."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fer_batch.data.clips import Clips
from fer_batch.evaluation.crossval.pooled import (
    SCORES,
    PooledPredictions,
    ScoreGap,
    Spread,
    compare_divisions,
    grouped_intervals,
    mean_scores,
    measure_spread,
    score_repeats,
)
from fer_batch.evaluation.crossval.train_fold import ONE_MODEL, FoldResult
from fer_batch.evaluation.metrics import Metrics, PairedDifference, compare_pairs, measure
from fer_batch.records import to_plain
from fer_batch.training.recipes import Settings


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
        content: dict[str, object] = {"n": self.n, "unit": self.unit, "subjects": self.subjects}
        described = {by: _describe_division(division) for by, division in self.divisions.items()}
        if self.leak:
            leak = {model: _describe_gaps(gaps) for model, gaps in self.leak.items()}
            content |= {**described, "leak": leak}
        else:
            (division,) = described.values()
            content |= division
        return {name: to_plain(value) for name, value in (content | {"settings": self.settings}).items()}


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


def _describe_division(division: DivisionSummary) -> dict[str, object]:
    over = "repeats" if len(division.repeats) > 1 else "folds"
    return {
        **division.metrics,
        **({"difference": division.difference} if division.difference else {}),
        "spread": {"over": over, "count": len(getattr(division, over)), **division.spread},
        "repeats": division.repeats,
        "folds": division.folds,
    }


def _describe_gaps(gaps: dict[str, ScoreGap]) -> dict[str, object]:
    described: dict[str, object] = {}
    for name, gap in gaps.items():
        described |= {name: gap.value, f"{name}_interval": gap.interval, f"{name}_runs": gap.runs}
    return described


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
            scores, intervals = mean_scores(predictions), grouped_intervals(predictions)
            metrics[model] = dataclasses.replace(
                metrics[model], accuracy=scores["accuracy"], macro_f1=scores["macro_f1"], intervals=intervals
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
        for score, values in score_repeats(predictions).items()
    }
