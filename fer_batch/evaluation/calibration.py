"""Reliability of confidences by bins, and the expected calibration error (ECE).

The method is that of Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks",
arXiv:1706.04599.
"""

from dataclasses import dataclass

import numpy as np

from fer_batch.evaluation.intervals import VALUES_PER_BLOCK

BINS = 15
SIMULATIONS = 200


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Predictions by bins of confidence; bin i is (i / bins, (i + 1) / bins]."""

    count: np.ndarray
    """`(bins,) int64`: number of predictions in the bin."""
    confidence: np.ndarray
    """`(bins,) float64`: mean confidence, 0 to 1; 0 in an empty bin."""
    accuracy: np.ndarray
    """`(bins,) float64`: share of correct predictions, 0 to 1; 0 in an empty bin."""

    def to_dict(self) -> dict[str, list[float]]:
        """Return the three columns as plain lists."""
        return {name: values.tolist() for name, values in vars(self).items()}


def assign_bins(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the number of the bin of each confidence (0 to 1), as `int64` of the same shape."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def measure_reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Compare confidence and accuracy in `bins` equal bins of confidence.

    `confidence` is `(n,) float`, 0 to 1, of the predicted class. `correct` is `(n,) bool`. n may be 0.
    """
    numbers = assign_bins(confidence, bins)
    count = np.bincount(numbers, minlength=bins)
    return Reliability(
        count=count,
        confidence=np.bincount(numbers, confidence, bins) / np.maximum(count, 1),
        accuracy=np.bincount(numbers, correct, bins) / np.maximum(count, 1),
    )


def measure_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the ECE, 0 to 1: the mean of |accuracy − confidence| over bins, weighted by their counts.

    Without predictions it is 0.
    """
    table = measure_reliability(confidence, correct, bins)
    gaps = np.abs(table.accuracy - table.confidence)
    return float((table.count * gaps).sum() / max(table.count.sum(), 1))


def simulate_ece(
    confidence: np.ndarray, bins: int = BINS, simulations: int = SIMULATIONS, seed: int = 0
) -> float:
    """Return the mean ECE of a perfectly calibrated model with these confidences; 0 without predictions.

    It is above 0 because chance leaves gaps in bins of finite size. Each simulation draws the outcome of
    each of the `(n,) float` confidences from Bernoulli(confidence).
    """
    confidence = np.asarray(confidence, np.float64)
    if not len(confidence):
        return 0.0
    random = np.random.default_rng(seed)
    numbers = assign_bins(confidence, bins)
    order = np.argsort(numbers, kind="stable")
    confidence = confidence[order]
    starts = np.unique(numbers[order], return_index=True)[1]
    expected = np.add.reduceat(confidence, starts)  # (used bins,) expected number of correct predictions
    total = 0.0
    block = max(1, VALUES_PER_BLOCK // len(confidence))
    for first in range(0, simulations, block):
        outcomes = random.random((min(block, simulations - first), len(confidence))) < confidence
        correct = np.add.reduceat(outcomes, starts, axis=1, dtype=np.int64)  # (block, used bins)
        total += np.abs(correct - expected).sum() / len(confidence)
    return float(total / simulations)
