"""Metrics of a classifier's probabilities on labelled examples, with their intervals.

In this module `probs` is `(n, C) float` with rows of sum 1, and `labels` is `(n,) int`, 0 to C − 1. Means
over classes ignore classes without examples. The precision, recall and F1 of such a class are 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fer_batch.errors import InputError
from fer_batch.evaluation.calibration import (
    BINS,
    Reliability,
    assign_bins,
    measure_ece,
    measure_reliability,
    simulate_ece,
)
from fer_batch.evaluation.intervals import RESAMPLES, Interval, percentile_interval, resample_sums
from fer_batch.records import Record


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class, each 0 to 1."""

    precision: float
    recall: float
    f1: float
    support: int
    """Number of examples of the class."""


@dataclass(frozen=True, kw_only=True)
class Metrics(Record):
    """All metrics of one set of predictions."""

    json_properties = ("ece_debiased",)
    n: int
    """Number of examples."""
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    ece: float
    """Expected calibration error in 15 bins, 0 to 1."""
    ece_expected: float
    """The mean ECE of a perfectly calibrated model with the same confidences."""
    reliability: Reliability
    nll: float
    """Mean negative log-likelihood in nats."""
    per_class: dict[str, ClassScores]
    intervals: dict[str, Interval]
    """95 % intervals by name; see `bootstrap_intervals`."""
    classes: tuple[str, ...]
    confusion: np.ndarray
    """`(C, C) int64` counts: a row for each true class, a column for each predicted class."""

    @property
    def ece_debiased(self) -> float:
        """`ece` − `ece_expected`. It may be below 0."""
        return self.ece - self.ece_expected


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The gain of a second model over a first one on the same examples."""

    accuracy: float
    """Accuracy of the second model − accuracy of the first, −1 to 1."""
    interval: Interval
    """95 % interval over resamples of the subjects, because examples of one subject are similar."""
    only_first: int
    """Number of examples that only the first model classifies correctly."""
    only_second: int
    p: float | None
    """McNemar's exact two-sided test of these counts, which treats examples as independent."""


def measure(probs: np.ndarray, labels: np.ndarray, classes: Sequence[str], seed: int = 0) -> Metrics:
    """Compute all metrics. `seed` is that of the resamples and of the simulated calibration.

    Raises InputError if there are no examples.
    """
    if not len(labels):
        raise InputError("there is nothing to evaluate: no labelled examples")
    counts = count_confusions(probs, labels)
    scores = score_confusions(counts[None])
    predicted, confidence = top1(probs)
    correct = predicted == labels
    return Metrics(
        n=len(labels),
        **{name: float(values[0]) for name, values in scores.items()},
        ece=measure_ece(confidence, correct),
        ece_expected=simulate_ece(confidence, seed=seed),
        reliability=measure_reliability(confidence, correct),
        nll=float(negative_log_likelihoods(probs, labels).mean()),
        per_class=dict(zip(classes, score_classes(probs, labels), strict=True)),
        intervals=bootstrap_intervals(probs, labels, seed=seed),
        classes=tuple(classes),
        confusion=counts,
    )


def top1(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted class `(n,) int64` and its probability `(n,) float64`."""
    return probs.argmax(axis=1), np.asarray(probs.max(axis=1), np.float64)


def count_confusions(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return `(C, C) int64` counts: a row for each true class, a column for each predicted class."""
    return confusion_matrix(labels, probs.argmax(axis=1), labels=np.arange(probs.shape[1]))


def normalize_rows(counts: np.ndarray) -> np.ndarray:
    """Return a confusion matrix as `float64` shares of each true class. Rows without examples are 0."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def score_classes(probs: np.ndarray, labels: np.ndarray) -> list[ClassScores]:
    """Return the scores of each class; undefined scores are 0."""
    columns = precision_recall_fscore_support(
        labels, probs.argmax(axis=1), labels=np.arange(probs.shape[1]), zero_division=0
    )
    return [
        ClassScores(precision=float(precision), recall=float(recall), f1=float(f1), support=int(support))
        for precision, recall, f1, support in zip(*columns, strict=True)
    ]


def score_confusions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return `accuracy`, `balanced_accuracy` and `macro_f1`, `(R,) float64`, of `(R, C, C)` confusions."""
    correct = np.diagonal(counts, axis1=1, axis2=2)
    support, predicted = counts.sum(axis=2), counts.sum(axis=1)
    present = support > 0
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    return {
        "accuracy": correct.sum(axis=1) / counts.sum(axis=(1, 2)),
        "balanced_accuracy": (correct / np.maximum(support, 1)).sum(axis=1) / present.sum(axis=1),
        "macro_f1": np.where(present, f1, 0).sum(axis=1) / present.sum(axis=1),
    }


def negative_log_likelihoods(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return −ln p of each example's true class in nats, `(n,) float64`, 0 to 36."""
    true = np.asarray(probs, np.float64)[np.arange(len(labels)), labels]
    return -np.log(np.clip(true, np.finfo(np.float64).eps, 1))


def bootstrap_intervals(
    probs: np.ndarray, labels: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Return 95 % percentile intervals of accuracy, balanced accuracy, macro-F1, ECE and NLL.

    Examples are drawn with replacement. So the intervals cover the choice of examples, but not the chance in
    training. That of the ECE lies high, because resampling adds chance to the gaps.
    """
    count, width = probs.shape
    predicted, confidence = top1(probs)
    loss_column = width**2 + BINS
    columns = np.column_stack(
        [labels * width + predicted, width**2 + assign_bins(confidence), np.full(count, loss_column)]
    )
    losses = negative_log_likelihoods(probs, labels)
    entries = np.column_stack([np.ones(count), (predicted == labels) - confidence, losses])
    rows = np.repeat(np.arange(count), 3)
    values = sparse.csr_array((entries.ravel(), (rows, columns.ravel())), (count, loss_column + 1))
    sums = resample_sums(values, resamples=resamples, seed=seed)
    resampled = {
        **score_confusions(sums[:, : width**2].reshape(-1, width, width)),
        "ece": np.abs(sums[:, width**2 : loss_column]).sum(axis=1) / count,
        "nll": sums[:, loss_column] / count,
    }
    return {name: percentile_interval(drawn) for name, drawn in resampled.items()}


def compare_pairs(
    first: np.ndarray, second: np.ndarray, subjects: np.ndarray, seed: int = 0
) -> PairedDifference:
    """Compare two models on the same examples.

    `first` and `second` are `(n,) bool`: whether each prediction is correct. `subjects` is `(n,) str`.
    """
    gap = second.astype(np.int64) - first
    subject = np.unique(subjects, return_inverse=True)[1]
    sums = resample_sums(np.column_stack([np.bincount(subject, gap), np.bincount(subject)]), seed=seed)
    lost, won = int((gap < 0).sum()), int((gap > 0).sum())
    return PairedDifference(
        accuracy=float(gap.mean()),
        interval=percentile_interval(sums[:, 0] / sums[:, 1]),
        only_first=lost,
        only_second=won,
        p=float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    )
