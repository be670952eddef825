"""Weights against class imbalance (disgust is 1.5 % of FER2013)."""

import numpy as np

from fer_batch.config import CLASS_WEIGHTS
from fer_batch.errors import ConfigError


def class_weights(labels: np.ndarray, classes: int, method: str) -> np.ndarray:
    """`(classes,) float32` weights for the loss, of mean 1 over the examples; 1 for a class without examples.

    `labels` is `(N,) int64`. "none": all 1; "sqrt": 1/√frequency; "balanced": 1/frequency.
    """
    if method not in CLASS_WEIGHTS:
        raise ConfigError(f"class weights are {method!r}; allowed are {', '.join(CLASS_WEIGHTS)}")
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[method]
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0)
    if counts.sum():
        weights /= (weights * counts).sum() / counts.sum()
    return np.where(counts > 0, weights, 1).astype(np.float32)
