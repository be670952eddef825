"""Results of several checkpoints and ways of averaging side by side, with their gain over the first."""

import pandas as pd

from fer_batch.data.labels import normalize_label
from fer_batch.evaluation.evaluate import Evaluation
from fer_batch.evaluation.metrics import compare_pairs

COMPARED_METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "nll")
GAIN_TYPES = {
    "gain_points": "float64",
    "gain_low": "float64",
    "gain_high": "float64",
    "only_first": "Int64",
    "only_this": "Int64",
    "p": "float64",
}
"""Columns of the gain over the first row. "Int64" has missing values."""


def compare(evaluation: Evaluation) -> pd.DataFrame:
    """Compare each result of an evaluation with the first one, a row for each.

    The columns are `checkpoint`, `averaging`, `model_id`, `n`, each of `COMPARED_METRICS` and the ends of its
    95 % interval (`accuracy_low`, `accuracy_high`), and `f1_CLASS` for each class that has examples. The gain
    over the first row is `gain_points`, in percentage points of accuracy, with the 95 % interval `gain_low`
    to `gain_high` over resampled subjects. `only_first` and `only_this` are the numbers of examples that only
    one of both classifies correctly, and `p` is McNemar's. The first row has no gain.
    """
    first = evaluation.results[0]
    classes = [name for name, scores in first.metrics.per_class.items() if scores.support]
    rows = []
    for result in evaluation.results:
        metrics = result.metrics
        row: dict[str, object] = {
            "checkpoint": result.checkpoint,
            "averaging": result.averaging,
            "model_id": result.model_id,
            "n": metrics.n,
            **{name: getattr(metrics, name) for name in COMPARED_METRICS},
        }
        for name in COMPARED_METRICS:
            row[f"{name}_low"], row[f"{name}_high"] = metrics.intervals[name]
        row |= dict.fromkeys(GAIN_TYPES)
        if result is not first:
            gain = compare_pairs(first.is_correct, result.is_correct, evaluation.examples.subjects)
            low, high = gain.interval
            row |= {"gain_points": 100 * gain.accuracy, "gain_low": 100 * low, "gain_high": 100 * high}
            row |= {"only_first": gain.only_first, "only_this": gain.only_second, "p": gain.p}
        f1 = {normalize_label(name): scores.f1 for name, scores in metrics.per_class.items()}
        rows.append(row | {f"f1_{name}": f1[normalize_label(name)] for name in classes})
    return pd.DataFrame(rows).astype(GAIN_TYPES)
