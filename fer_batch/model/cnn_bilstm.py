"""The default recognizer: a CNN that encodes crops, two bidirectional LSTMs, and a smoothing chain.

The encoder is a VGG-style network with batch norm, as is common on FER2013 (compare Khaireddin & Chen 2021,
arXiv:2105.03588), at a fraction of the usual width. The logits of a frame are the sum of a head on its own
crop and a head on the LSTMs' output. An expression lasts longer than a frame, so the probabilities of frames
between which it probably does not change are then averaged.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.network import CropEncoder, Network

INITIAL_STAY_PROBABILITY = 0.9
"""Probability, before training, that an expression is unchanged one frame later, if the distance of the two
embeddings is `USUAL_DISTANCE`."""
INITIAL_CHANGE_SLOPE = 2.0
"""Fall, before training, of the logit of that probability where the distance is e times larger."""
USUAL_DISTANCE = 0.05
"""Cosine distance of embeddings that is seldom exceeded while an expression lasts, and mostly when it
changes."""
MIN_DISTANCE = 1e-4


class Encoder(CropEncoder):
    """Blocks of 3×3 convolutions with batch norm.

    Block i has `depths[i]` convolutions of `filters[i]` channels, and halves the map at its end. With `fold`
    = 2 the crop enters as 24×24 pixels of 4 channels. The convolutions at full size have the smallest share
    of the arithmetic but half of the time, because they move the most memory.
    """

    def __init__(
        self,
        filters: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        fold: int = 1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(fold)] if fold > 1 else []
        channels = fold * fold
        for width, depth in zip(filters, depths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
                layers += [nn.ReLU(inplace=True)]
                channels = width
            layers += [nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*layers)
        self.width = channels

    def forward(self, crops: Tensor) -> Tensor:
        if crops.shape[0] == 0:  # PixelUnshuffle does not fold an empty batch
            return crops.new_zeros(0, self.width)
        maps = self.blocks(crops)  # (N, D, 3, 3)
        return maps.mean(dim=(2, 3))  # (N, D)


class CnnBiLstm(Network):
    """Classify each frame of sequences of face crops.

    `filters`, `depths` and `fold` describe the `Encoder`. `backbone` and `size` replace it by a
    `BackboneEncoder`. `lstm` has the units per direction of both LSTMs. `dropout` is applied before the
    heads, in training.
    """

    def __init__(
        self,
        classes: int = 7,
        filters: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        fold: int = 1,
        lstm: Sequence[int] = (128, 64),
        dropout: float = 0.3,
        backbone: str = "",
        size: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = BackboneEncoder(backbone, size) if backbone else Encoder(filters, depths, fold)
        self.add_lstms(lstm)
        self.dropout = nn.Dropout(dropout)
        self.crop_head = nn.Linear(self.width, classes)
        self.context_head = nn.Linear(2 * lstm[1], classes)
        nn.init.zeros_(self.context_head.weight)  # untrained LSTMs do not change the logits of a crop
        nn.init.zeros_(self.context_head.bias)
        # Tensor.logit on the meta device would import torch's compiler, one second for each worker.
        stay_logit = math.log(INITIAL_STAY_PROBABILITY / (1 - INITIAL_STAY_PROBABILITY))
        self.stay = nn.Parameter(torch.tensor(stay_logit))
        self.change_slope = nn.Parameter(torch.tensor(INITIAL_CHANGE_SLOPE))

    def classify_crops(self, embeddings: Tensor) -> Tensor:
        return self.crop_head(self.dropout(embeddings))

    def classify_with_context(self, embeddings: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        return self.crop_head(embeddings) + self.context_head(self.dropout(context))

    def compute_stay_logits(self, embeddings: Tensor) -> Tensor:
        """Compute the logit of the probability that an expression is unchanged one frame later.

        `embeddings` is `(B, T, D)`; the result is `(B, T − 1)`. It falls with the logarithm of the cosine
        distance between the embeddings of the two frames.
        """
        # Sums in single precision would round differently by a window's position in the batch.
        exact = embeddings.double()
        products = (exact[:, 1:] * exact[:, :-1]).sum(dim=2)  # (B, T − 1)
        squares = (exact * exact).sum(dim=2)  # (B, T)
        norms = (squares[:, 1:] * squares[:, :-1]).sqrt().clamp(min=1e-12)
        distance = (1 - products / norms).clamp(min=MIN_DISTANCE).to(embeddings.dtype)
        return self.stay - self.change_slope * (distance / USUAL_DISTANCE).log()

    def smooth_log_probs(self, logits: Tensor, embeddings: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Average the probabilities of frames between which the expression probably does not change.

        `logits` and the result are `(B, T, classes)`, `embeddings` and `lengths` are as in `classify`. A
        sequence of one frame gives the log softmax.

        The weight of one frame for another is the probability that the expression is unchanged between them.
        The forward-backward algorithm (Rabiner 1989, doi:10.1109/5.18626) computes it for neighbours, on a
        chain whose states are the classes: from one frame to the next, an expression stays with the
        probability of `compute_stay_logits`, or changes to any other. Over several frames the probabilities
        are multiplied.

        The chain's own marginals would be as accurate but far too confident, because they treat each frame of
        the same face as independent evidence.
        """
        steps, classes = logits.shape[1:]
        probs = torch.softmax(logits, dim=2)
        stay_logits = self.compute_stay_logits(embeddings)
        if lengths is not None:
            padding = (torch.arange(steps, device=lengths.device)[None] >= lengths[:, None]).to(probs.device)
            probs = torch.where(padding[:, :, None], 1 / classes, probs)
            # Otherwise the embeddings of the padding would change the rounding of the valid steps.
            stay_logits = torch.where(padding[:, 1:], 0.0, stay_logits)
        stays = torch.sigmoid(stay_logits)[:, :, None]  # (B, T − 1, 1)
        changes = (1 - stays) / (classes - 1)
        forward = [probs[:, 0]]  # (B, classes) each, given the frames up to it
        for step in range(1, steps):
            stay, change = stays[:, step - 1], changes[:, step - 1]
            joint = probs[:, step] * ((stay - change) * forward[-1] + change)
            forward.append(joint / joint.sum(dim=1, keepdim=True))
        backward = torch.ones_like(probs[:, 0])
        reversed_unchanged = []  # (B,) each: probability of no change to the next frame, given all frames
        for step in range(steps - 1, 0, -1):
            stay, change = stays[:, step - 1], changes[:, step - 1]
            later = probs[:, step] * backward
            total = (stay - change) * later + change * later.sum(dim=1, keepdim=True)
            reversed_unchanged.append(
                stay[:, 0] * (forward[step - 1] * later).sum(dim=1) / (forward[step - 1] * total).sum(dim=1)
            )
            backward = total / total.sum(dim=1, keepdim=True)
        unchanged = torch.stack([torch.ones_like(probs[:, 0, 0]), *reversed_unchanged[::-1]], dim=1)  # (B, T)
        if lengths is not None:
            unchanged = torch.where(padding, 0, unchanged)
        log_unchanged = unchanged.clamp(min=1e-9).log().cumsum(dim=1)  # (B, T)
        weights = torch.exp(-(log_unchanged[:, :, None] - log_unchanged[:, None, :]).abs())  # (B, T, T)
        # A matrix product would round differently on some CPUs, by the window's position in the batch.
        mean = (weights[:, :, :, None] * probs[:, None]).sum(dim=2) / weights.sum(dim=2, keepdim=True)
        return mean.clamp(min=1e-9).log()
