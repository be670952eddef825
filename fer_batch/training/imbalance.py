"""Against class imbalance (disgust is 1.5 % of FER2013): weights, losses and sampling, each by name.

The same names stand in `config.IMBALANCE`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fer_batch.config import IMBALANCE
from fer_batch.errors import ConfigError

EFFECTIVE_BETA = 0.999
FOCAL_GAMMA = 2.0


def class_weights(counts: np.ndarray, method: str) -> np.ndarray:
    """`(C,) float32` weights for the loss, of mean 1 over the examples; 1 for a class without examples.

    `counts` is `(C,) int`, examples a class. "sqrt": 1/√frequency; "weighted": 1/frequency; "effective":
    1 over the effective number (1 - βⁿ)/(1 - β) with β = 0.999 (Cui et al. 2019, arXiv:1901.05555); all other
    methods work elsewhere and give 1.
    """
    if method not in IMBALANCE:
        raise ConfigError(f"--imbalance is {method!r}; allowed are {', '.join(IMBALANCE)}")
    counts = np.asarray(counts, np.float64)
    there = counts > 0
    some = np.maximum(counts, 1)
    weights = {
        "sqrt": some**-0.5,
        "weighted": 1 / some,
        "effective": (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**some),
    }.get(method, np.ones_like(counts))
    if there.any():
        weights = weights / ((weights * counts).sum() / counts.sum())
    return np.where(there, weights, 1).astype(np.float32)


def expression_loss(
    logits: Tensor, targets: Tensor, counts: np.ndarray, method: str, smoothing: float = 0.0
) -> Tensor:
    """Mean loss of `(N, C)` float logits against `(N, C)` float targets, each a distribution of sum 1.

    `counts` is `(C,) int`, training examples a class. "focal" damps what is known already by (1 - p)² (Lin et
    al. 2017, arXiv:1708.02002); "logit-adjustment" adds log of the class's share to the logits, so that the
    network itself learns to answer as if the classes were even (Menon et al. 2021, arXiv:2007.07314).
    """
    targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
    if method == "logit-adjustment":
        share = np.maximum(np.asarray(counts, np.float64), 1) / max(np.sum(counts), 1)
        logits = logits + torch.from_numpy(np.log(share)).to(logits)
    log_probs = F.log_softmax(logits, dim=1)
    losses = -targets * log_probs * torch.from_numpy(class_weights(counts, method)).to(logits)
    if method == "focal":
        losses = losses * (1 - log_probs.exp()) ** FOCAL_GAMMA
    return losses.sum(dim=1).mean()


def draw_order(labels: np.ndarray, classes: int, method: str, random: np.random.Generator) -> np.ndarray:
    """`(N,) int64` indices of an epoch: each example once, in any order; with "balanced-sampling" drawn with
    replacement so that each class has the same share.
    """
    if method != "balanced-sampling" or not len(labels):
        return random.permutation(len(labels))
    chance = 1 / np.maximum(np.bincount(labels, minlength=classes), 1)[labels]
    return random.choice(len(labels), size=len(labels), p=chance / chance.sum())
