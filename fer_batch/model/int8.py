"""An encoder in 8-bit integers, for CPUs with instructions for them (VNNI).

The ranges of all maps follow from the batch norms: after training, a channel has the mean and the standard
deviation of its batch norm (Nagel et al. 2019, arXiv:1906.04721). So any checkpoint can be quantized when it
is loaded, without images, and equally on all machines.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_batch.model.cnn_bilstm import Encoder
from fer_batch.model.inference import MaxPool2x2
from fer_batch.model.network import CropEncoder

RANGE_STDS = 5.0
"""Standard deviations above the mean of a channel that an 8-bit map can hold."""


class Int8Encoder(CropEncoder):
    """Run an `Encoder` in 8-bit integers. `mean` and `std` are those of the grey values 0–1, as in the card.

    Weights have one scale per output channel, and maps one scale.
    """

    def __init__(self, encoder: Encoder, mean: float, std: float) -> None:
        super().__init__()
        self.width, self.mean, self.std = encoder.width, mean, std
        scale, zero_point = 1 / (255 * std), round(255 * mean)
        layers: list[nn.Module] = []
        for layer, following in pairwise([*encoder.blocks, nn.Identity()]):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                convolution = _Int8Convolution(layer, following, scale, zero_point)
                layers.append(convolution)
                scale, zero_point = convolution.output_scale, 0
            elif isinstance(layer, nn.PixelUnshuffle):
                layers.append(layer)
            elif isinstance(layer, nn.MaxPool2d):
                layers.append(MaxPool2x2())
        self.blocks = nn.Sequential(*layers)
        self.scale = scale

    def forward(self, crops: Tensor) -> Tensor:
        grey = (crops * (255 * self.std)).add_(255 * self.mean).round_().to(torch.uint8)
        maps = self.blocks(grey)  # (N, D, 3, 3) uint8
        return maps.float().mean(dim=(2, 3)) * self.scale  # (N, D)


class _Int8Convolution(nn.Module):
    """A 3×3 convolution with batch norm and ReLU from uint8 maps to uint8 maps."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, scale: float, zero_point: int) -> None:
        super().__init__()
        fused = fuse_conv_bn_eval(conv, norm)
        assert fused.bias is not None
        weights = fused.weight.detach()  # (out, in, 3, 3)
        self.scales = (weights.abs().amax(dim=(1, 2, 3)) / 127).clamp(min=1e-12)
        self.zero_points = torch.zeros(len(weights), dtype=torch.int32)
        self.bias = fused.bias.detach()
        self.input_scale, self.input_zero_point = scale, zero_point
        largest = (norm.bias + RANGE_STDS * norm.weight.abs()).detach().max()
        self.output_scale = max(float(largest), 1e-6) / 255
        quantized = (weights / self.scales[:, None, None, None]).round().to(torch.int8)
        geometry = [1, 1], [1, 1], [1, 1], 1  # strides, padding, dilation, groups
        self.packed = torch.ops.onednn.qconv_prepack(
            quantized, self.scales, scale, zero_point, *geometry, None
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.ops.onednn.qconv2d_pointwise(
            maps.contiguous(memory_format=torch.channels_last),
            self.input_scale,
            self.input_zero_point,
            self.packed,
            self.scales,
            self.zero_points,
            self.bias,
            [1, 1],
            [1, 1],
            [1, 1],
            1,
            self.output_scale,
            0,
            torch.uint8,
            "relu",
            [],
            "",
        )
