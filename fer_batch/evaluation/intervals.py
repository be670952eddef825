"""The bootstrap of all evaluations: sums over resampled units, and percentile intervals.

All metrics of this package follow from sums over examples or over people: entries of the confusion matrix,
gaps of the calibration bins, losses. So each resample is a vector of counts, and the sums are one product.
"""

import numpy as np
from scipy import sparse

RESAMPLES = 1000
CONFIDENCE_LEVEL = 0.95
VALUES_PER_BLOCK = 4_000_000
"""Size of one array of random numbers. It bounds the memory and does not change the result."""

Interval = tuple[float, float]
"""Lower and upper end."""


def resample_sums(
    values: "np.ndarray | sparse.csr_array", *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Draw units with replacement and sum their values.

    `values` is `(units, K)`, dense or sparse. Each of the `resamples` draws as many units as there are. The
    result is `(resamples, K) float64`. Equal seeds and numbers of units draw equal units.
    """
    units = values.shape[0]
    random = np.random.default_rng(seed)
    block = max(1, VALUES_PER_BLOCK // units)
    sums = []
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = random.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        sums.append(counts.astype(np.float64) @ values)
    return np.concatenate(sums)


def percentile_interval(values: np.ndarray) -> Interval:
    """Return the central 95 % interval of resampled values."""
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
