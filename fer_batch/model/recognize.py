"""Crops of tracked faces to the probability of each emotion at each moment."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fer_batch.model.weights import load_checkpoint
from fer_batch.model.window import windows

ENCODE_BATCH = 32
CLASSIFY_BATCH = 32
"""Fixed, and padded to, windows of one length at a time: a matrix product of another shape rounds
differently, and the answer for a face must not depend on which other faces share its batch."""


class Recognizer:
    """A checkpoint ready to answer. Each crop is encoded once; windows are made of the embeddings.

    With `flip` the mirrored crops are encoded as well, and the embeddings of both are averaged: for the
    crop's own head, which is linear, that is the mean of the logits.
    """

    def __init__(self, checkpoint: Path | None = None, device: str | None = None, flip: bool = True) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, self.card = load_checkpoint(checkpoint)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bf16 = _bf16_pays(self.device)
        self.flip = flip

    @torch.inference_mode()
    def encode(self, crops: np.ndarray) -> Tensor:
        """`(n, 48, 48) uint8` grey to `(n, D) float32` embeddings on the device."""
        embeddings = []
        for first in range(0, len(crops), ENCODE_BATCH):
            batch = _padded(torch.from_numpy(crops[first : first + ENCODE_BATCH].copy()), ENCODE_BATCH)
            grey = batch.to(self.device).float().div_(255).sub_(self.card.mean).div_(self.card.std)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                embeddings.append(self.model.encode(grey[:, None]).float()[: len(crops) - first])
        return (
            torch.cat(embeddings)
            if embeddings
            else torch.zeros(0, self.model.encoder.width, device=self.device)
        )

    @torch.inference_mode()
    def recognize(
        self, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """Probabilities `(n, classes) float32`, of sum 1, for the faces where `wanted`; rows of NaN
        elsewhere. The card's temperature has been applied.

        `crops` is `(n, 48, 48) uint8`; `tracks` `(n,) int` and `times` `(n,) float64` seconds say which
        face is when, in any order. Unwanted faces still stand in the windows of their neighbours.
        """
        answers = np.full((len(crops), len(self.card.classes)), np.nan, np.float32)
        embeddings = self.encode(crops)
        if self.flip:
            embeddings = (embeddings + self.encode(crops[:, :, ::-1])) / 2
        rows, steps, lengths, centres = [], [], [], []
        order = np.lexsort((times, tracks))
        for members in np.split(order, np.flatnonzero(np.diff(tracks[order])) + 1):
            index, length, centre = windows(times[members], self.card.window_rate_hz, self.card.window_length)
            chosen = wanted[members]
            rows.append(members[chosen])
            steps.append(np.where(index >= 0, members[np.maximum(index, 0)], 0)[chosen])
            lengths.append(length[chosen])
            centres.append(centre[chosen])
        answers[np.concatenate(rows)] = self._classify(
            embeddings, np.concatenate(steps), np.concatenate(lengths), np.concatenate(centres)
        )
        return answers

    def _classify(
        self, embeddings: Tensor, steps: np.ndarray, lengths: np.ndarray, centres: np.ndarray
    ) -> np.ndarray:
        """Windows `(m, length)` of rows of `embeddings` to probabilities `(m, classes)` at their
        `centres`.
        """
        answers = np.zeros((len(steps), len(self.card.classes)), np.float32)
        for length in np.unique(lengths):
            members = np.flatnonzero(lengths == length)
            for first in range(0, len(members), CLASSIFY_BATCH):
                rows = members[first : first + CLASSIFY_BATCH]
                index = torch.from_numpy(steps[rows, :length]).to(self.device)
                logits = self.model.classify(_padded(embeddings[index], CLASSIFY_BATCH)).float()
                places = torch.arange(len(rows)), torch.from_numpy(centres[rows])
                settled = self.model.settle(logits / self.card.temperature)
                answers[rows] = settled[places].exp().cpu().numpy()
        return answers


def _padded(batch: Tensor, size: int) -> Tensor:
    missing = size - len(batch)
    return torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch


def _bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
