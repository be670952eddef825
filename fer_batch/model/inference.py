"""Fast forms of trained networks. Their results do not depend on the other examples of a batch."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_batch.errors import ConfigError
from fer_batch.model.cnn_bilstm import Encoder
from fer_batch.model.network import CropEncoder, Network
from fer_batch.model.precision import FASTEST_PRECISIONS, MIN_CAPABILITY, has_cpu_precision, read_cpu_flags

DTYPES = {"fp32": torch.float32, "int8": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of the values outside the encoder for each precision."""

BATCH_SIZE = {"cpu": 32, "cuda": 512}
"""Images, or windows, per batch. Smaller batches are padded: a matrix product of another shape rounds
differently, and a prediction must not depend on the other faces of its batch. On a CPU, the first layers of
more than 32 images do not fit into the cache."""


class WindowReader(nn.Module):
    """Classify windows of any length in one batch of one shape.

    The LSTMs have the precision `dtype`. Each direction starts at the window's own first or last step, and
    ignores the steps beyond the other end.
    """

    def __init__(self, network: Network, temperature: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.temperature, self.dtype = network, temperature, dtype
        self.directions = nn.ModuleList(
            nn.ModuleList(_split_directions(lstm, dtype)) for lstm in network.lstms
        ).eval()

    def forward(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Convert windows `(B, T, D) float32` to log probabilities `(B, T, C)`.

        Only the first `lengths` `(B,)` steps of each window are valid.
        """
        step = torch.arange(windows.shape[1], device=windows.device)[None]
        reversed_step = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)[:, :, None]
        context = windows.to(self.dtype)
        for layer in self.directions:
            assert isinstance(layer, nn.ModuleList)
            forward = layer[0](context)[0]
            backward = layer[1](context.gather(1, reversed_step.expand_as(context)))[0]
            backward = backward.gather(1, reversed_step.expand_as(backward))
            context = torch.cat([forward, backward], dim=2)  # (B, T, 2·units)
        logits = self.network.classify_with_context(windows, context.float(), lengths)
        return self.network.smooth_log_probs(logits / self.temperature, windows, lengths)


def optimize_encoder(encoder: CropEncoder, dtype: torch.dtype) -> CropEncoder:
    """Return a form of a trained encoder that computes in `dtype` and returns single precision."""
    return FusedEncoder(encoder, dtype) if isinstance(encoder, Encoder) else AutocastEncoder(encoder, dtype)


class AutocastEncoder(CropEncoder):
    """Run any encoder with autocast, channels last."""

    def __init__(self, encoder: CropEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = encoder.to(memory_format=torch.channels_last)
        self.dtype, self.width = dtype, encoder.width

    def forward(self, crops: Tensor) -> Tensor:
        with torch.autocast(crops.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.encoder(crops).float()


class FusedEncoder(CropEncoder):
    """Run an `Encoder` in `dtype`, with batch norms merged into the convolutions."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.width, self.dtype = encoder.width, dtype
        layers: list[nn.Module] = []
        for layer, following in pairwise([*encoder.blocks, nn.Identity()]):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                layers.append(fuse_conv_bn_eval(layer, following))
            elif isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
                layers += [MaxPool2x2(), layer]  # equal, with ReLU on a quarter of the pixels
            elif not isinstance(layer, nn.BatchNorm2d | nn.MaxPool2d):
                layers.append(layer)
        blocks = nn.Sequential(*layers).to(dtype=self.dtype)
        self.blocks = blocks.to(memory_format=torch.channels_last)

    def forward(self, crops: Tensor) -> Tensor:
        maps = self.blocks(crops.to(self.dtype))  # (N, D, 3, 3)
        return maps.mean(dim=(2, 3)).float()  # (N, D)


class MaxPool2x2(nn.Module):
    """Max pooling of maps with even sides, in half the CPU time of `nn.MaxPool2d`."""

    def forward(self, maps: Tensor) -> Tensor:
        rows = torch.maximum(maps[:, :, ::2], maps[:, :, 1::2])
        return torch.maximum(rows[:, :, :, ::2], rows[:, :, :, 1::2])


def pad_batch(batch: Tensor, size: int) -> Tensor:
    """Append zeros to a batch up to `size` examples."""
    missing = size - len(batch)
    return torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch


def choose_precision(precision: str, device: torch.device, has_int8: bool = True) -> str:
    """Return the first of `FASTEST_PRECISIONS` that the device has in hardware if `precision` is "auto".

    Any other precision is returned unchanged. Raises ConfigError where the device does not have it.
    `has_int8` is the result of `network_has_int8`.
    """
    if precision == "auto":
        usable = FASTEST_PRECISIONS if has_int8 else FASTEST_PRECISIONS[1:]
        return next(name for name in usable if _has_precision(name, device))
    if not _has_precision(precision, device):
        name = "GPU" if device.type == "cuda" else "CPU"
        raise ConfigError(f"This {name} does not compute in {precision}: give fp32 or auto")
    return precision


def choose_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device multiplies it in hardware, else float32."""
    return torch.bfloat16 if _has_precision("bf16", device) else torch.float32


def _has_precision(precision: str, device: torch.device) -> bool:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major + minor / 10 >= MIN_CAPABILITY[precision]
    if precision == "fp32":
        return True
    if not torch.backends.mkldnn.is_available() or not has_cpu_precision(precision, read_cpu_flags()):
        return False
    if precision == "int8":
        return hasattr(torch.ops.onednn, "qconv2d_pointwise")
    mkldnn = torch.ops.mkldnn
    return bool(
        mkldnn._is_mkldnn_bf16_supported() if precision == "bf16" else mkldnn._is_mkldnn_fp16_supported()
    )


def _split_directions(lstm: nn.LSTM, dtype: torch.dtype) -> tuple[nn.LSTM, nn.LSTM]:
    """Return the two directions of a bidirectional layer as layers that read forwards."""
    weights = lstm.state_dict()
    directions = []
    for suffix in ("", "_reverse"):
        one = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True)
        one.load_state_dict({name: weights[name + suffix] for name in one.state_dict()})
        directions.append(one.to(weights["weight_ih_l0"].device, dtype).eval())
    return directions[0], directions[1]
