"""Temperature scaling: one number that divides the logits, so that confidences match accuracies.

Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature, from 0.05 to 20, that minimizes the negative log likelihood.

    `logits` is `(n, C) float`, of examples that were not trained on, and `labels` is `(n,) int`, 0 to C − 1.
    Returns 1 without examples. The loss is convex in 1 / temperature, so there is one minimum.
    """
    if not len(labels):
        return 1.0
    logits = np.asarray(logits, np.float64)
    true_logits = logits[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * scale, axis=1) - true_logits * scale))

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
