"""The recognizer: a CNN that embeds each face crop, and two bidirectional LSTMs that read the embeddings in
order.

The encoder is a VGG-style network with batch norm, as is common on FER2013 (compare Khaireddin & Chen 2021,
arXiv:2105.03588), at a fraction of its usual width. The emotion head answers per moment: the
sum of what the moment's own crop says and what the LSTMs add from its neighbours. Since an expression lasts
longer than a moment, the moments between which nothing changes then answer together.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.network import CropEncoder, Network

STAY = 0.9
"""Chance, before training, that an expression is the same a moment later."""


class Encoder(CropEncoder):
    """Crops to embeddings: `(N, 1, 48, 48)` float, normalised, to `(N, filters[-1])` float.

    Each block is `depths[i]` convolutions 3×3 of `filters[i]` channels, and halves the map at its end. With
    `fold` = 2 the crop enters as 24×24 pixels of 4 channels: the convolutions at full size are the least of
    the arithmetic, and half of the time, since they move the most memory.
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
        if crops.shape[0] == 0:  # which PixelUnshuffle would leave unfolded
            return crops.new_zeros(0, self.width)
        maps = self.blocks(crops)  # (N, D, 3, 3)
        return maps.mean(dim=(2, 3))  # (N, D)


class CnnBiLstm(Network):
    """Sequences of face crops to emotion logits, one answer per moment.

    Parameters: `classes` (how many emotions), `filters`, `depths` and `fold` (of the encoder), `lstm` (units
    per direction of the two layers), `dropout` (before the heads, in training), `backbone` and `size` (see
    `BackboneEncoder`; then that is the encoder).
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
        first, second = lstm
        self.lstm1 = nn.LSTM(self.width, first, batch_first=True, bidirectional=True)
        self.lstm2 = nn.LSTM(2 * first, second, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.crop_head = nn.Linear(self.width, classes)
        self.context_head = nn.Linear(2 * second, classes)
        nn.init.zeros_(self.context_head.weight)  # untrained LSTMs add nothing to what the crop says
        nn.init.zeros_(self.context_head.bias)
        # Not Tensor.logit: on the meta device it imports torch's compiler, a second for each worker.
        self.stay = nn.Parameter(torch.tensor(math.log(STAY / (1 - STAY))))

    @property
    def stay_logit(self) -> nn.Parameter:
        """Logit of the chance that an expression does not change in one step; "stay" in checkpoint files."""
        return self.stay

    @property
    def lstms(self) -> list[nn.LSTM]:
        """As in `Network`."""
        return [self.lstm1, self.lstm2]

    def classify_crops(self, embeddings: Tensor) -> Tensor:
        """As in `Network`."""
        return self.crop_head(self.dropout(embeddings))

    def classify_with_context(self, embeddings: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """As in `Network`: what the crop says itself, and what its neighbours add."""
        return self.crop_head(embeddings) + self.context_head(self.dropout(context))

    def smooth_log_probs(self, logits: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`(B, T, classes)` logits, each moment on its own, to `(B, T, classes)` log probabilities in view of
        the whole sequence. Of a sequence of one, the log softmax. `lengths` as in `classify`.

        A moment's answer is the mean of all moments' probabilities, weighted by the chance that the
        expression does not change between the two. That chance comes from the forward-backward algorithm on a
        chain whose states are the classes: from a moment to the next an expression stays with a learned
        chance, or becomes any other (Rabiner 1989, doi:10.1109/5.18626); over more steps the chances are
        multiplied.
        The chain's own marginals would be as right and far too sure: they take each look at the same
        face for a new witness.
        """
        steps, classes = logits.shape[1:]
        probs = torch.softmax(logits, dim=2)
        if lengths is not None:
            padding = (torch.arange(steps, device=lengths.device)[None] >= lengths[:, None]).to(probs.device)
            probs = torch.where(padding[:, :, None], 1 / classes, probs)
        stay = torch.sigmoid(self.stay_logit)
        other = (1 - stay) / (classes - 1)
        forward = [probs[:, 0]]  # (B, classes) each: given what came so far
        for step in range(1, steps):
            seen = probs[:, step] * ((stay - other) * forward[-1] + other)
            forward.append(seen / seen.sum(dim=1, keepdim=True))
        backward = torch.ones_like(probs[:, 0])
        held = []  # (B,) each: the chance that nothing changes from a moment to the next, given everything
        for step in range(steps - 1, 0, -1):
            after = probs[:, step] * backward
            either = (stay - other) * after + other * after.sum(dim=1, keepdim=True)
            held.append(
                stay * (forward[step - 1] * after).sum(dim=1) / (forward[step - 1] * either).sum(dim=1)
            )
            backward = either / either.sum(dim=1, keepdim=True)
        unchanged = torch.stack([torch.ones_like(probs[:, 0, 0]), *held[::-1]], dim=1)  # (B, T)
        if lengths is not None:
            unchanged = torch.where(padding, 0, unchanged)
        reach = unchanged.clamp(min=1e-9).log().cumsum(dim=1)  # (B, T)
        weights = torch.exp(-(reach[:, :, None] - reach[:, None, :]).abs())  # (B, T, T)
        # Not by a matrix product: some processors' round by where in the batch a window stands.
        mean = (weights[:, :, :, None] * probs[:, None]).sum(dim=2) / weights.sum(dim=2, keepdim=True)
        return mean.clamp(min=1e-9).log()
