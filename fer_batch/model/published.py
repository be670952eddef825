"""Published recognizers, as networks that train and predict like the default one.

Each network follows its published description layer by layer. Its training settings are in `model/recipes/`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_batch.config import CROP_SIZE_PX
from fer_batch.model.network import CropEncoder, Network, run_lstm
from fer_batch.train_config import BLOCKS


class SequentialEncoder(CropEncoder):
    """An encoder of layers in sequence."""

    def __init__(self, layers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers, self.width = nn.Sequential(*layers), width

    def forward(self, crops: Tensor) -> Tensor:
        return self.layers(crops)


class Cnn4Bn(Network):
    """Four blocks of convolutions with batch norm, and two dense layers with batch norm.

    `dropouts` follow the pools and the dense layers, in order. With `depths` (2, 2, 3, 2) it has the 10.5
    million parameters of the published network.
    """

    padding, norm = 1, True

    def __init__(
        self,
        classes: int = 7,
        filters: Sequence[int] = BLOCKS["cnn4bn"][0],
        depths: Sequence[int] = BLOCKS["cnn4bn"][1],
        dense: Sequence[int] = (1024, 512),
        dropouts: Sequence[float] = (0.25, 0.3, 0.4, 0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        layers, inputs = _conv_blocks(filters, depths, dropouts, padding=self.padding, norm=self.norm)
        layers.append(nn.Flatten())
        for width, dropout in zip(dense, dropouts[len(filters) :], strict=True):
            layers.append(nn.Linear(inputs, width))
            layers += [nn.BatchNorm1d(width)] if self.norm else []
            layers += [nn.ReLU(), nn.Dropout(dropout)]
            inputs = width
        self.encoder = SequentialEncoder(layers, inputs)
        self.crop_head = nn.Linear(self.width, classes)


class Cnn4(Cnn4Bn):
    """Four 3×3 convolutions without padding, and two dense layers: 48 → 46 → 23 → 21 → 10 → 8 → 4 → 2 → 1."""

    padding, norm = 0, False

    def __init__(
        self,
        classes: int = 7,
        filters: Sequence[int] = BLOCKS["cnn4"][0],
        depths: Sequence[int] = BLOCKS["cnn4"][1],
        dense: Sequence[int] = (512, 256),
        dropouts: Sequence[float] = (0.4, 0.4, 0.4, 0.4, 0.4, 0.3),
    ) -> None:
        super().__init__(classes, filters, depths, dense, dropouts)


class CnnLstm(Network):
    """Four blocks of convolutions; two LSTMs read the 3×3 map of a crop cell by cell, row after row."""

    def __init__(
        self,
        classes: int = 7,
        filters: Sequence[int] = BLOCKS["cnn-lstm"][0],
        depths: Sequence[int] = BLOCKS["cnn-lstm"][1],
        lstm: Sequence[int] = (128, 64),
        dropouts: Sequence[float] = (0.25, 0.3, 0.4, 0.5),
    ) -> None:
        super().__init__()
        layers, _ = _conv_blocks(filters, depths, dropouts)
        self.encoder = SequentialEncoder([*layers, _MapLstm(filters[-1], lstm)], lstm[-1])
        self.crop_head = nn.Linear(self.width, classes)


class DcnnBiLstm(Network):
    """Classify each sequence as a whole: a deep CNN per frame, two bidirectional LSTMs, and a dense layer.

    All frames of a window have the same logits. `dropouts` follow the four pairs of convolutions, the two
    LSTMs and the dense layer.
    """

    first_phase = "clips"

    def __init__(
        self,
        classes: int = 5,
        filters: Sequence[int] = BLOCKS["dcnn-bilstm"][0],
        depths: Sequence[int] = BLOCKS["dcnn-bilstm"][1],
        lstm: Sequence[int] = (128, 64),
        dense: int = 128,
        dropouts: Sequence[float] = (0.4, 0.4, 0.4, 0.45, 0.35, 0.45, 0.7),
    ) -> None:
        super().__init__()
        layers, _ = _conv_blocks(filters, depths, dropouts, activation=nn.ELU)
        layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten()]
        self.encoder = SequentialEncoder(layers, filters[-1])
        self.add_lstms(lstm)
        *_, after_first, after_second, before_head = dropouts
        self.lstm_dropout = (after_first, after_second)
        self.dense = nn.Sequential(nn.Linear(2 * lstm[1], dense), nn.ELU(), nn.Dropout(before_head))
        self.crop_head = nn.Linear(dense, classes)

    def classify_crops(self, embeddings: Tensor) -> Tensor:
        """Classify each crop as a sequence of one frame, as in `Network`."""
        return self.classify(embeddings[:, None])[:, 0]

    def classify_with_context(self, embeddings: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """Classify a sequence by the last output of each direction, as in `Network`."""
        units = context.shape[2] // 2
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, units)
        ends = torch.cat([context[:, :, :units].gather(1, last)[:, 0], context[:, 0, units:]], dim=1)
        logits = self.crop_head(self.dense(ends))  # (B, classes)
        return logits[:, None].expand(-1, embeddings.shape[1], -1)  # (B, T, classes)


class _MapLstm(nn.Module):
    """Read maps `(N, C, H, W)` cell by cell; returns the last output `(N, lstm[-1])`."""

    def __init__(self, channels: int, lstm: Sequence[int]) -> None:
        super().__init__()
        self.lstm1 = nn.LSTM(channels, lstm[0], batch_first=True)
        self.lstm2 = nn.LSTM(lstm[0], lstm[1], batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        cells = maps.flatten(2).transpose(1, 2)  # (N, H·W, C)
        return run_lstm(self.lstm2, run_lstm(self.lstm1, cells))[:, -1]  # (N, lstm[1])


def _conv_blocks(
    filters: Sequence[int],
    depths: Sequence[int],
    dropouts: Sequence[float],
    *,
    padding: int = 1,
    norm: bool = True,
    activation: type[nn.Module] = nn.ReLU,
) -> tuple[list[nn.Module], int]:
    """Return blocks of convolutions with max pooling and dropout, and the number of output values."""
    layers: list[nn.Module] = []
    channels, side = 1, CROP_SIZE_PX
    for width, depth, dropout in zip(filters, depths, dropouts, strict=False):
        for _ in range(depth):
            layers.append(nn.Conv2d(channels, width, 3, padding=padding))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(activation())
            channels, side = width, side - 2 + 2 * padding
        layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        side //= 2
    return layers, channels * side * side
