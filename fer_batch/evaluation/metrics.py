"""How good a classifier's probabilities are, on labelled examples, each figure with its interval.

Everywhere `probs` is `(n, C) float`, rows of sum 1, and `labels` `(n,) int`, 0 to C − 1. A class without
examples counts in no mean over classes; its precision, recall and F1 are 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from fer_batch.errors import InputError
from fer_batch.evaluation.calibration import BINS, bin_of, ece, expected_ece, reliability

RESAMPLES = 1000
LEVEL = 0.95
DRAWN_AT_ONCE = 4_000_000
"""Values of one array of resamples: bounds the memory, not the result."""


def measure(probs: np.ndarray, labels: np.ndarray, classes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """All figures, as plain values: `n`, `accuracy`, `balanced_accuracy`, `macro_f1`, `ece` (15 bins),
    `ece_expected` (of a perfectly calibrated model with these confidences), `ece_debiased` (their
    difference, which may be below 0), `reliability` (the table of the bins), `nll` (nats), `per_class`
    (`{name: {precision, recall, f1, support}}`), `intervals` (`{name: [low, high]}`, see
    `bootstrap_intervals`), `classes` and `confusion` (counts, a row a true class).

    Raises InputError where there are no examples.
    """
    if not len(labels):
        raise InputError("there is nothing to evaluate: no labelled examples")
    counts = confusion(probs, labels)
    support = counts.sum(axis=1)
    scores = per_class(probs, labels)
    answered, confidence = top1(probs)
    error, chance = ece(confidence, answered == labels), expected_ece(confidence, seed=seed)
    return {
        "n": len(labels),
        "accuracy": float(np.trace(counts) / len(labels)),
        "balanced_accuracy": float(scores["recall"][support > 0].mean()),
        "macro_f1": float(scores["f1"][support > 0].mean()),
        "ece": error,
        "ece_expected": chance,
        "ece_debiased": error - chance,
        "reliability": {k: v.tolist() for k, v in vars(reliability(confidence, answered == labels)).items()},
        "nll": float(losses(probs, labels).mean()),
        "per_class": {
            name: {**{k: float(v[i]) for k, v in scores.items()}, "support": int(support[i])}
            for i, name in enumerate(classes)
        },
        "intervals": bootstrap_intervals(probs, labels, seed=seed),
        "classes": list(classes),
        "confusion": counts.tolist(),
    }


def top1(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The answer `(n,) int64` and its probability `(n,) float64`."""
    return probs.argmax(axis=1), np.asarray(probs.max(axis=1), np.float64)


def confusion(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(C, C) int64` counts: a row a true class, a column an answer."""
    if not len(labels):
        return np.zeros((probs.shape[1],) * 2, np.int64)
    return confusion_matrix(labels, probs.argmax(axis=1), labels=np.arange(probs.shape[1]))


def row_normalised(counts: np.ndarray) -> np.ndarray:
    """A confusion matrix of counts as `float64` shares of each true class; rows of a class without examples
    are 0.
    """
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def per_class(probs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """`precision`, `recall` and `f1` of each class, `(C,) float64`, 0 where undefined."""
    width = probs.shape[1]
    if not len(labels):
        return {name: np.zeros(width) for name in ("precision", "recall", "f1")}
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, probs.argmax(axis=1), labels=np.arange(width), zero_division=0
    )
    return {"precision": precision, "recall": recall, "f1": f1}


def losses(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each example's true class in nats, `(n,) float64`, 0 to 36."""
    true = np.asarray(probs, np.float64)[np.arange(len(labels)), labels]
    return -np.log(np.clip(true, np.finfo(np.float64).eps, 1))


def bootstrap_intervals(
    probs: np.ndarray, labels: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """95 % percentile intervals `[low, high]` of `accuracy`, `balanced_accuracy`, `macro_f1`, `ece` and
    `nll`, over resamples of the examples with replacement; empty where there are no examples.

    They hold what chance in the choice of examples does, not what another training run would. The one of
    `ece` lies high, as resampling adds chance to the gaps that it sums.
    """
    count, width = probs.shape
    if not count:
        return {}
    answered, confidence = top1(probs)
    cell, place = labels * width + answered, bin_of(confidence)
    gap, loss = (answered == labels) - confidence, losses(probs, labels)
    random = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {}
    block = max(1, DRAWN_AT_ONCE // count)
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = random.integers(count, size=(rows, count))
        counts = _each_row(cell[drawn], width * width).reshape(rows, width, width)
        gaps = _each_row(place[drawn], BINS, gap[drawn])
        figures = {
            **of_confusions(counts),
            "ece": np.abs(gaps).sum(axis=1) / count,
            "nll": loss[drawn].mean(axis=1),
        }
        for name, values in figures.items():
            parts.setdefault(name, []).append(values)
    tail = 100 * (1 - LEVEL) / 2
    return {
        name: [float(v) for v in np.percentile(np.concatenate(values), [tail, 100 - tail])]
        for name, values in parts.items()
    }


def paired_difference(
    first: np.ndarray, second: np.ndarray, subjects: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """What the second of two models answers better than the first; `(n,) bool` says which of the same
    examples each has right, `(n,) str` of whom they are.

    `accuracy` is the second's less the first's, `interval` its 95 % percentile interval `[low, high]` over
    resamples of the subjects, whose examples are alike; `only_first` and `only_second` count what one alone
    has right, and `p` is McNemar's exact test of these two: two-sided, as if examples were independent.
    """
    if not len(first):
        return {"accuracy": 0.0, "interval": [0.0, 0.0], "only_first": 0, "only_second": 0, "p": 1.0}
    gap = second.astype(np.int64) - first
    names, group = np.unique(subjects, return_inverse=True)
    sums, sizes = np.bincount(group, gap), np.bincount(group)
    random, gaps = np.random.default_rng(seed), []
    block = max(1, DRAWN_AT_ONCE // len(names))
    for start in range(0, RESAMPLES, block):
        drawn = random.integers(len(names), size=(min(block, RESAMPLES - start), len(names)))
        gaps.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = 100 * (1 - LEVEL) / 2
    lost, won = int((gap < 0).sum()), int((gap > 0).sum())
    return {
        "accuracy": float(gap.mean()),
        "interval": [float(v) for v in np.percentile(np.concatenate(gaps), [tail, 100 - tail])],
        "only_first": lost,
        "only_second": won,
        "p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0,
    }


def of_confusions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures `(R,) float64` of each of `(R, C, C)` confusion matrices."""
    right = np.diagonal(counts, axis1=1, axis2=2)
    support, answers = counts.sum(axis=2), counts.sum(axis=1)
    there = support > 0
    f1 = 2 * right / np.maximum(support + answers, 1)
    return {
        "accuracy": right.sum(axis=1) / counts.sum(axis=(1, 2)),
        "balanced_accuracy": (right / np.maximum(support, 1)).sum(axis=1) / there.sum(axis=1),
        "macro_f1": np.where(there, f1, 0).sum(axis=1) / there.sum(axis=1),
    }


def _each_row(places: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """`np.bincount` of each row of `(R, n)`, with `weights` of the same shape: `(R, size)`."""
    rows = len(places)
    flat = (places + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, None if weights is None else weights.ravel(), rows * size).reshape(rows, size)
