"""The figures that a recognizer is judged by."""

import numpy as np
from sklearn.metrics import f1_score


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of right answers, 0–1; NaN of none. Both `(N,) int64`."""
    return float(np.mean(truth == predicted)) if len(truth) else float("nan")


def macro_f1(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean over the classes of their F1, 0–1; NaN of none. A class never present and never predicted counts
    as 0.
    """
    if not len(truth):
        return float("nan")
    return float(f1_score(truth, predicted, labels=np.arange(classes), average="macro", zero_division=0))
