"""Run MTCNN's networks in forms that are fast on a CPU and do not depend on the batch.

PyTorch's PReLU and max-pooling are slow on P-Net's ten channels in channels-last order. Here whole rows of
the picture are the channels of PReLU, and maxima of slices replace the pooling.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_MATRIX_ROWS = 16
"""Minimum number of rows in a matrix product. Fewer rows round differently, and a face must not depend on
its batch."""


class FastPNet(nn.Module):
    """Run P-Net on a batch `(n, 3, h, w)` that is channels last in memory."""

    def __init__(self, pnet: nn.Module) -> None:
        super().__init__()
        layers: dict[str, Any] = dict(pnet.named_children())
        self.body = nn.Sequential(
            layers["conv1"],
            _RowPReLU(layers["prelu1"].weight),
            _HalvingMaximum(),
            layers["conv2"],
            _RowPReLU(layers["prelu2"].weight),
            layers["conv3"],
            _RowPReLU(layers["prelu3"].weight),
        )
        heads = layers["conv4_1"], layers["conv4_2"]
        self.heads = nn.Conv2d(32, 6, kernel_size=1, device=heads[0].weight.device)
        self.heads.weight = nn.Parameter(torch.cat([head.weight for head in heads]))
        self.heads.bias = nn.Parameter(torch.cat([head.bias for head in heads]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return shifts `(n, 4, h', w')` and probabilities `(n, 2, h', w')`, as MTCNN's P-Net does."""
        outputs = self.heads(self.body(images))
        return outputs[:, 2:], outputs[:, :2].softmax(dim=1)


def pad_linear_layers(network: nn.Module) -> None:
    """Replace the linear layers of R-Net or O-Net by layers that do not depend on the batch."""
    for name, layer in list(network.named_children()):
        if isinstance(layer, nn.Linear):
            setattr(network, name, PaddedLinear(layer))


class PaddedLinear(nn.Module):
    """Run a linear layer on a multiple of `MIN_MATRIX_ROWS` rows."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, rows: Tensor) -> Tensor:
        missing = -len(rows) % MIN_MATRIX_ROWS
        return self.layer(torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]))[: len(rows)]


class _RowPReLU(nn.Module):
    """PReLU with a slope per channel `(c,)`."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes = nn.Parameter(slopes)
        self._repeated = slopes.detach()

    def forward(self, maps: Tensor) -> Tensor:
        count, channels, height, width = maps.shape
        if len(self._repeated) < width * channels:
            self._repeated = self.slopes.detach().repeat(width)
        rows = maps.permute(0, 2, 3, 1).reshape(count * height, width * channels)
        activated = F.prelu(rows, self._repeated[: width * channels])
        return activated.view(count, height, width, channels).permute(0, 3, 1, 2)


class _HalvingMaximum(nn.Module):
    """Max-pooling of 2×2 pixels, where an odd last row or column is pooled alone."""

    def forward(self, maps: Tensor) -> Tensor:
        count, channels, height, width = maps.shape
        pixels = maps.permute(0, 2, 3, 1)
        rows = pixels.new_empty(count, (height + 1) // 2, width, channels)
        torch.maximum(pixels[:, : height - 1 : 2], pixels[:, 1::2], out=rows[:, : height // 2])
        rows[:, height // 2 :] = pixels[:, height - height % 2 :]
        pooled = pixels.new_empty(count, (height + 1) // 2, (width + 1) // 2, channels)
        torch.maximum(rows[:, :, : width - 1 : 2], rows[:, :, 1::2], out=pooled[:, :, : width // 2])
        pooled[:, :, width // 2 :] = rows[:, :, width - width % 2 :]
        return pooled.permute(0, 3, 1, 2)
