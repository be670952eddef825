"""Temperature scaling: one number that divides the logits so that confidences mean what they say.

Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, 0.05 to 20, at which `logits / temperature` have the least negative log-likelihood.

    `logits` is `(n, C) float`, of examples that were not trained on; `labels` `(n,) int`, 0 to C − 1. 1 where
    there are no examples. The loss is convex in 1 / temperature, so there is one minimum.
    """
    if not len(labels):
        return 1.0
    logits = np.asarray(logits, np.float64)
    true = logits[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(logits * scale, axis=1) - true * scale))

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))
