"""Mix the heads of several data sets into one, so that no data set's habits of labelling decide alone."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_batch.data.clips import Clips
from fer_batch.model.network import Network
from fer_batch.training.predict import autocast, frames_to_tensor, normalize_crops, select_input_frames

BIAS_PENALTY = 0.01
"""Weight of the squared biases in the loss of a mix, for classes with few examples."""
MAX_FIT_STEPS = 200
FRAMES_PER_BATCH = 256


def mix_heads(network: Network, others: Sequence[nn.Linear], counts: np.ndarray, selection: Clips) -> None:
    """Replace the head of a network by a mix of it and `others`.

    The logits of the mix are a weighted mean of the heads' logits, times a factor, plus a bias for each
    class, so the mix is again a linear head. They are fitted to the last frames of `selection`, which were
    not trained on. A data set has the weight of the square root of its number of examples, and each class in
    it the same part of that, so that neither large data sets nor frequent classes decide alone. As in
    predictions, the embeddings of an image and of its mirror image are averaged. Without examples nothing
    changes.

    `counts` is `(H, C) int`: training examples of each head and class, the network's own head first. A class
    that a data set lacks is taken from the network's own head, which must know all.
    """
    if not len(selection):
        return
    heads = [network.crop_head, *others]
    known = torch.from_numpy(counts > 0).to(network.crop_head.weight.device)
    weights = torch.stack([head.weight.detach() for head in heads])  # (H, C, D)
    biases = torch.stack([head.bias.detach() for head in heads])  # (H, C)
    weights = torch.where(known[:, :, None], weights, weights[:1])
    biases = torch.where(known, biases, biases[:1])
    embeddings = _encode_with_mirror(network, select_input_frames(network, selection, 1)[:, 0])
    logits = torch.einsum("nd,hcd->nhc", embeddings, weights) + biases
    shares, scale, offsets = _fit_mix(logits.cpu(), selection)
    mixed = torch.einsum("h,hcd->cd", shares.to(weights.device), weights)
    with torch.no_grad():
        network.crop_head.weight.copy_(scale * mixed)
        network.crop_head.bias.copy_(scale * (shares @ biases.cpu()) + offsets)


def _fit_mix(logits: Tensor, selection: Clips) -> tuple[Tensor, float, Tensor]:
    """Fit the shares `(H,)` of the heads, the factor, and the biases `(C,)` of a mix.

    `logits` is `(N, H, C)`.
    """
    labels = torch.from_numpy(selection.labels)
    example_weights = torch.from_numpy(_weigh_examples(selection.datasets, selection.labels)).float()
    share_logits = nn.Parameter(torch.zeros(logits.shape[1]))
    log_scale, offsets = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(logits.shape[2]))
    optimizer = torch.optim.LBFGS([share_logits, log_scale, offsets], max_iter=MAX_FIT_STEPS)

    def compute_fit_loss() -> Tensor:
        optimizer.zero_grad()
        mixed = torch.einsum("h,nhc->nc", share_logits.softmax(0), logits) * log_scale.exp() + offsets
        losses = F.cross_entropy(mixed, labels, reduction="none")
        loss = (example_weights * losses).sum() + BIAS_PENALTY * offsets.square().sum()
        loss.backward()
        return loss

    optimizer.step(compute_fit_loss)
    return share_logits.detach().softmax(0), float(log_scale.detach().exp()), offsets.detach()


def _weigh_examples(datasets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the weight of each example, `(N,) float64`; they sum to 1. See `mix_heads`."""
    weights = np.zeros(len(labels))
    for name in np.unique(datasets):
        rows = datasets == name
        present, index, counts = np.unique(labels[rows], return_inverse=True, return_counts=True)
        weights[rows] = np.sqrt(rows.sum()) / (len(present) * counts[index])
    return weights / weights.sum()


@torch.no_grad()
def _encode_with_mirror(network: Network, frames: np.ndarray) -> Tensor:
    """Encode `(N, 48, 48) uint8` frames to the mean embedding `(N, D)` of each and its mirror image."""
    device = network.crop_head.weight.device
    parts = []
    with autocast(device):
        for first in range(0, len(frames), FRAMES_PER_BATCH):
            crops = normalize_crops(frames_to_tensor(frames[first : first + FRAMES_PER_BATCH], device))
            parts.append((network.encode(crops).float() + network.encode(crops.flip(-1)).float()) / 2)
    return torch.cat(parts)
