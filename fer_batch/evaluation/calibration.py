"""Reliability of confidences by bins, and the expected calibration error (ECE).

The method is that of Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks",
arXiv:1706.04599.
"""

from dataclasses import dataclass

import numpy as np

from fer_batch.evaluation.intervals import VALUES_PER_BLOCK
from fer_batch.records import Record

BINS = 15
SIMULATIONS = 200


@dataclass(frozen=True, kw_only=True)
class Reliability(Record):
    """Predictions by bins of confidence; bin i is (i / BINS, (i + 1) / BINS]."""

    count: np.ndarray
    """`(BINS,) int64`: number of predictions in the bin."""
    confidence: np.ndarray
    """`(BINS,) float64`: mean confidence, 0 to 1; 0 in an empty bin."""
    accuracy: np.ndarray
    """`(BINS,) float64`: share of correct predictions, 0 to 1; 0 in an empty bin."""


def assign_bins(confidence: np.ndarray) -> np.ndarray:
    """Return the number of the bin of each confidence (0 to 1), as `int64` of the same shape."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)


def measure_reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Compare confidence and accuracy in `BINS` equal bins of confidence.

    `confidence` is `(n,) float`, 0 to 1, of the predicted class. `correct` is `(n,) bool`. n may be 0.
    """
    numbers = assign_bins(confidence)
    count = np.bincount(numbers, minlength=BINS)
    return Reliability(
        count=count,
        confidence=np.bincount(numbers, confidence, BINS) / np.maximum(count, 1),
        accuracy=np.bincount(numbers, correct, BINS) / np.maximum(count, 1),
    )


def measure_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the ECE, 0 to 1: the mean of |accuracy − confidence| over bins, weighted by their counts.

    Without predictions it is 0.
    """
    table = measure_reliability(confidence, correct)
    gaps = np.abs(table.accuracy - table.confidence)
    return float((table.count * gaps).sum() / max(table.count.sum(), 1))


def simulate_ece(confidence: np.ndarray, seed: int = 0) -> float:
    """Return the mean ECE of a perfectly calibrated model with these confidences; 0 without predictions.

    It is above 0 because chance leaves gaps in bins of finite size. Each simulation draws the outcome of
    each of the `(n,) float` confidences from Bernoulli(confidence).
    """
    confidence = np.asarray(confidence, np.float64)
    if not len(confidence):
        return 0.0
    random = np.random.default_rng(seed)
    numbers = assign_bins(confidence)
    order = np.argsort(numbers, kind="stable")
    confidence = confidence[order]
    starts = np.unique(numbers[order], return_index=True)[1]
    expected = np.add.reduceat(confidence, starts)  # (used bins,) expected number of correct predictions
    total = 0.0
    block = max(1, VALUES_PER_BLOCK // len(confidence))
    for first in range(0, SIMULATIONS, block):
        outcomes = random.random((min(block, SIMULATIONS - first), len(confidence))) < confidence
        correct = np.add.reduceat(outcomes, starts, axis=1, dtype=np.int64)  # (block, used bins)
        total += np.abs(correct - expected).sum() / len(confidence)
    return float(total / SIMULATIONS)
