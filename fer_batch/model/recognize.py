"""Crops of tracked faces to the probability of each emotion at each moment."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_batch.model.cnn_bilstm import Encoder
from fer_batch.model.network import CropEncoder, Network
from fer_batch.model.weights import Card, is_onnx_path, load_checkpoint
from fer_batch.model.window import build_windows
from fer_batch.timing import StageTimer

BATCH = {"cpu": 32, "cuda": 512}
"""Images, and windows, that go through the network together. Fixed, and padded to: a matrix product of
another shape rounds differently, and the answer for a face must not depend on which other faces share its
batch. On a CPU more than 32 images of the first layers leave the cache."""


class Recognizer:
    """A checkpoint, or an exported network, ready to answer. Each crop is encoded once; windows are made of
    the embeddings.

    With `flip` the mirrored crops are encoded as well, and the embeddings of both are averaged: for the
    crop's own head, which is linear, that is the mean of the logits.
    """

    def __init__(self, checkpoint: Path | None = None, device: str | None = None, flip: bool = True) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.encoder: CropEncoder
        self.reader: nn.Module
        if checkpoint is not None and is_onnx_path(checkpoint):
            from fer_batch.model.onnx.network import open_onnx

            exported, self.reader, self.card = open_onnx(checkpoint, self.device.type)
            self.encoder, self.batch = exported, BATCH[exported.place]
            self.device = torch.device("cpu")  # from where onnxruntime takes each batch itself
        else:
            model, self.card = load_checkpoint(checkpoint)
            model = model.to(self.device)
            dtype = torch.bfloat16 if _bf16_pays(self.device) else torch.float32
            self.encoder = fast_encoder(model.encoder, dtype)
            self.reader = WindowReader(model, self.card.temperature, dtype)
            self.batch = BATCH[self.device.type]
        self.flip = flip
        self.timer = StageTimer()
        """Of all calls of `predict_tracks`: "encode" and "window". A GPU is waited for in "window"."""

    @torch.inference_mode()
    def encode(self, crops: np.ndarray) -> Tensor:
        """`(n, 48, 48) uint8` grey to `(n, D) float32` embeddings on the device; with `flip` means of two."""
        views = 2 if self.flip else 1
        count = self.batch // views
        there = torch.from_numpy(np.require(crops, requirements=["C", "W"]))
        if self.device.type == "cuda":
            there = there.pin_memory().to(self.device, non_blocking=True)
        embeddings = [torch.zeros(0, self.encoder.width, device=self.device)]
        for grey in there.split(count):
            batch = torch.cat([grey, grey.flip(2)]) if self.flip else grey
            batch = _padded(batch, self.batch)
            batch = batch.float().div_(255).sub_(self.card.mean).div_(self.card.std)
            made = self.encoder(batch[:, None])[: views * len(grey)]
            embeddings.append(made.view(views, len(grey), self.encoder.width).mean(0))
        return torch.cat(embeddings)

    @torch.inference_mode()
    def predict_tracks(
        self, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """Probabilities `(n, classes) float32`, of sum 1, for the faces where `wanted`; rows of NaN
        elsewhere. The card's temperature has been applied.

        `crops` is `(n, 48, 48) uint8`; `tracks` `(n,) int` and `times` `(n,) float64` seconds say which
        face is when, in any order. Unwanted faces still stand in the windows of their neighbours.
        """
        self.timer.restart()
        answers = np.full((len(crops), len(self.card.classes)), np.nan, np.float32)
        embeddings = self.encode(crops)
        self.timer.record("encode")
        rows, steps, lengths, centres = [], [], [], []
        order = np.lexsort((times, tracks))
        for members in np.split(order, np.flatnonzero(np.diff(tracks[order])) + 1):
            index, length, centre = build_windows(
                times[members], self.card.window_rate_hz, self.card.window_length
            )
            chosen = wanted[members]
            rows.append(members[chosen])
            steps.append(np.where(index >= 0, members[np.maximum(index, 0)], 0)[chosen])
            lengths.append(length[chosen])
            centres.append(centre[chosen])
        answers[np.concatenate(rows)] = self._classify(
            embeddings, np.concatenate(steps), np.concatenate(lengths), np.concatenate(centres)
        )
        self.timer.record("window")
        return answers

    def _classify(
        self, embeddings: Tensor, steps: np.ndarray, lengths: np.ndarray, centres: np.ndarray
    ) -> np.ndarray:
        """Windows `(m, length)` of rows of `embeddings`, the first `lengths` of each, to probabilities
        `(m, classes)` at their `centres`.
        """
        answers = [torch.zeros(0, len(self.card.classes), device=self.device)]
        for first in range(0, len(steps), self.batch):
            part = slice(first, first + self.batch)
            index, centre = torch.from_numpy(steps[part]), torch.from_numpy(centres[part])
            length = torch.from_numpy(lengths[part])
            batch = _padded(embeddings[index.to(self.device)], self.batch)
            length = torch.cat([length, length.new_ones(self.batch - len(length))])
            settled = self.reader(batch, length.to(self.device))
            answers.append(settled[torch.arange(len(centre)), centre].exp())
        return torch.cat(answers).cpu().numpy()


def check_checkpoint(checkpoint: Path | None = None) -> Card:
    """The card of what a Recognizer can be made of; raises CheckpointError for anything else."""
    if checkpoint is not None and is_onnx_path(checkpoint):
        from fer_batch.model.onnx.network import open_onnx

        return open_onnx(checkpoint)[2]
    return load_checkpoint(checkpoint)[1]


class WindowReader(nn.Module):
    """A trained network's answer to windows of embeddings, all in one batch of one shape, however long.

    Each direction of the LSTMs, which are of `dtype`, begins with a window's own first or last step, and what
    comes after that window's other end is not looked at.
    """

    def __init__(self, network: Network, temperature: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.temperature, self.dtype = network, temperature, dtype
        self.directions = nn.ModuleList(
            nn.ModuleList(_directions(lstm, dtype)) for lstm in network.lstms
        ).eval()

    def forward(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Windows `(B, T, D) float32`, the first `lengths` `(B,)` steps of each, to log probabilities
        `(B, T, C)`.
        """
        place = torch.arange(windows.shape[1], device=windows.device)[None]
        turned = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[:, :, None]
        context = windows.to(self.dtype)
        for layer in self.directions:
            assert isinstance(layer, nn.ModuleList)
            ahead = layer[0](context)[0]
            back = layer[1](context.gather(1, turned.expand_as(context)))[0]
            context = torch.cat([ahead, back.gather(1, turned.expand_as(back))], dim=2)  # (B, T, 2·units)
        logits = self.network.classify_with_context(windows, context.float(), lengths)
        return self.network.smooth_log_probs(logits / self.temperature, lengths)


def fast_encoder(encoder: CropEncoder, dtype: torch.dtype) -> CropEncoder:
    """An encoder that is not trained any more, its arithmetic in `dtype`, its answers in single precision."""
    return FastEncoder(encoder, dtype) if isinstance(encoder, Encoder) else _Autocast(encoder, dtype)


class _Autocast(CropEncoder):
    def __init__(self, encoder: CropEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.dtype, self.width = (
            encoder.to(memory_format=torch.channels_last),
            dtype,
            encoder.width,
        )

    def forward(self, crops: Tensor) -> Tensor:
        with torch.autocast(crops.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.encoder(crops).float()


class FastEncoder(CropEncoder):
    """An `Encoder` that is not trained any more: batch norms are part of the convolutions, which are of
    `dtype`.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.width, self.dtype = encoder.width, dtype
        layers: list[nn.Module] = []
        for layer, after in pairwise([*encoder.blocks, nn.Identity()]):
            if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                layers.append(fuse_conv_bn_eval(layer, after))
            elif isinstance(layer, nn.ReLU) and isinstance(after, nn.MaxPool2d):
                layers += [_HalfPool(), layer]  # the same, on a quarter of the pixels
            elif not isinstance(layer, nn.BatchNorm2d | nn.MaxPool2d):
                layers.append(layer)
        blocks = nn.Sequential(*layers).to(dtype=self.dtype)
        self.blocks = blocks.to(memory_format=torch.channels_last)

    def forward(self, crops: Tensor) -> Tensor:
        """`(N, 1, 48, 48)` normalised crops to `(N, D) float32` embeddings."""
        maps = self.blocks(crops.to(self.dtype))  # (N, D, 3, 3)
        return maps.mean(dim=(2, 3)).float()  # (N, D)


class _HalfPool(nn.Module):
    """Max-pooling 2×2 of even maps, at half of what `nn.MaxPool2d` costs a CPU."""

    def forward(self, maps: Tensor) -> Tensor:
        rows = torch.maximum(maps[:, :, ::2], maps[:, :, 1::2])
        return torch.maximum(rows[:, :, :, ::2], rows[:, :, :, 1::2])


def _directions(lstm: nn.LSTM, dtype: torch.dtype) -> tuple[nn.LSTM, nn.LSTM]:
    """The two directions of a bidirectional layer, each as a layer that reads from the left."""
    weights = lstm.state_dict()
    directions = []
    for suffix in ("", "_reverse"):
        one = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True)
        one.load_state_dict({name: weights[name + suffix] for name in one.state_dict()})
        directions.append(one.to(weights["weight_ih_l0"].device, dtype).eval())
    return directions[0], directions[1]


def _padded(batch: Tensor, size: int) -> Tensor:
    missing = size - len(batch)
    return torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch


def _bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
