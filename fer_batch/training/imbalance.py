"""Methods against class imbalance (1.5 % of FER2013 is disgust): weights, losses and sampling.

`config.IMBALANCE` lists the names of the methods.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EFFECTIVE_BETA = 0.999
FOCAL_GAMMA = 2.0


def compute_expression_loss(
    logits: Tensor, targets: Tensor, counts: np.ndarray, method: str, smoothing: float = 0.0
) -> Tensor:
    """Compute the mean loss of `(N, C)` float logits and `(N, C)` float targets that sum to 1.

    `counts` is `(C,) int`, the training examples of each class. "focal" scales the loss of easy examples
    down by (1 - p)² (Lin et al. 2017, arXiv:1708.02002). "logit-adjustment" adds the log of the class share
    to the logits, so that the network learns to predict as if the classes were balanced (Menon et al. 2021,
    arXiv:2007.07314).
    """
    targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
    if method == "logit-adjustment":
        share = np.maximum(np.asarray(counts, np.float64), 1) / max(np.sum(counts), 1)
        logits = logits + torch.from_numpy(np.log(share)).to(logits)
    log_probs = F.log_softmax(logits, dim=1)
    losses = -targets * log_probs * torch.from_numpy(compute_class_weights(counts, method)).to(logits)
    if method == "focal":
        losses = losses * (1 - log_probs.exp()) ** FOCAL_GAMMA
    return losses.sum(dim=1).mean()


def compute_class_weights(counts: np.ndarray, method: str) -> np.ndarray:
    """Compute `(C,) float32` weights of the classes, with a mean of 1 over the examples.

    `counts` is `(C,) int`, the examples of each class; a class without examples has the weight 1. The weight
    is 1/√frequency for "sqrt", and 1/frequency for "weighted". For "effective" it is 1 over the effective
    number (1 - βⁿ)/(1 - β), with β = 0.999 (Cui et al. 2019, arXiv:1901.05555). All other methods do not use
    weights, and give 1.
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    safe = np.maximum(counts, 1)
    weights = {
        "sqrt": safe**-0.5,
        "weighted": 1 / safe,
        "effective": (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**safe),
    }.get(method, np.ones_like(counts))
    if present.any():
        weights = weights / ((weights * counts).sum() / counts.sum())
    return np.where(present, weights, 1).astype(np.float32)


def draw_epoch_order(
    labels: np.ndarray, classes: int, method: str, random: np.random.Generator
) -> np.ndarray:
    """Draw the `(N,) int64` indices of an epoch.

    Each example occurs once, in random order. With "balanced-sampling" examples are drawn with replacement,
    so that each class has the same share.
    """
    if method != "balanced-sampling" or not len(labels):
        return random.permutation(len(labels))
    probability = 1 / np.maximum(np.bincount(labels, minlength=classes), 1)[labels]
    return random.choice(len(labels), size=len(labels), p=probability / probability.sum())
