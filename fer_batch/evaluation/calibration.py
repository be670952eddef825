"""How far confidences can be believed: reliability by bins and the expected calibration error.

Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from dataclasses import dataclass

import numpy as np

BINS = 15
DRAWS = 200
DRAWN_AT_ONCE = 4_000_000
"""Values of one array of draws: bounds the memory, not the result."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What happened in each bin of confidence; bin i is (i / bins, (i + 1) / bins]."""

    count: np.ndarray
    """`(bins,) int64`: predictions in the bin."""
    confidence: np.ndarray
    """`(bins,) float64`: their mean confidence, 0 where the bin is empty."""
    accuracy: np.ndarray
    """`(bins,) float64`: the share of them that is right, 0 where the bin is empty."""


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Which of `bins` equal bins each confidence (0–1) falls in, `int64` of the same shape."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """The table of `bins` equal bins of confidence.

    `confidence` is `(n,) float`, 0–1, of the class that was answered; `correct` `(n,) bool`, whether that
    was the truth. n may be 0.
    """
    places = bin_of(confidence, bins)
    count = np.bincount(places, minlength=bins)
    return Reliability(
        count=count,
        confidence=np.bincount(places, confidence, bins) / np.maximum(count, 1),
        accuracy=np.bincount(places, correct, bins) / np.maximum(count, 1),
    )


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error, 0–1: the mean over bins, by their counts, of |accuracy − confidence|; 0 for
    none.
    """
    table = reliability(confidence, correct, bins)
    gaps = np.abs(table.accuracy - table.confidence)
    return float((table.count * gaps).sum() / max(table.count.sum(), 1))


def expected_ece(confidence: np.ndarray, bins: int = BINS, draws: int = DRAWS, seed: int = 0) -> float:
    """The ECE that a perfectly calibrated model with these confidences shows on average; 0 for none.

    It is above 0 as chance alone leaves gaps in bins of finite size. By simulation: `draws` times the
    outcome of each of the `(n,) float` confidences is drawn from Bernoulli(confidence).
    """
    confidence = np.asarray(confidence, np.float64)
    if not len(confidence):
        return 0.0
    random = np.random.default_rng(seed)
    order = np.argsort(bin_of(confidence, bins), kind="stable")
    confidence = confidence[order]
    starts = np.unique(bin_of(confidence, bins), return_index=True)[1]
    expected = np.add.reduceat(confidence, starts)  # (used bins,) how many should be right
    total = 0.0
    block = max(1, DRAWN_AT_ONCE // len(confidence))
    for first in range(0, draws, block):
        drawn = random.random((min(block, draws - first), len(confidence))) < confidence
        right = np.add.reduceat(drawn, starts, axis=1, dtype=np.int64)  # (block, used bins)
        total += np.abs(right - expected).sum() / len(confidence)
    return float(total / draws)
