"""The interface of all recognizers: crops become embeddings, and embeddings become log probabilities."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class CropEncoder(nn.Module):
    """Encode normalized crops `(N, 1, 48, 48)` float to embeddings `(N, width)` float."""

    width: int


class Network(nn.Module):
    """A recognizer in three steps: `encode`, `classify`, `smooth_log_probs`.

    So each crop of a track is encoded once. This base class classifies each crop by itself. A network with
    context calls `add_lstms`, and uses the LSTMs' output in `classify_with_context`.
    """

    encoder: CropEncoder
    crop_head: nn.Linear
    """From the last features to the classes."""
    first_phase: str = "stills"
    """First phase of training: "stills" for single frames, or "clips" for whole clips."""
    lstm_dropout: Sequence[float] = (0.0, 0.0)
    """Dropout after each of `lstms`, in training."""

    def add_lstms(self, units: Sequence[int]) -> None:
        """Create two bidirectional LSTMs over embeddings, with `units` per direction."""
        first, second = units
        self.lstm1 = nn.LSTM(self.width, first, batch_first=True, bidirectional=True)
        self.lstm2 = nn.LSTM(2 * first, second, batch_first=True, bidirectional=True)

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def lstms(self) -> list[nn.LSTM]:
        """Bidirectional LSTMs over a window, in order; empty if each crop is classified by itself."""
        return [module for module in self.children() if isinstance(module, nn.LSTM)]

    @property
    def classes(self) -> int:
        return self.crop_head.out_features

    def encode(self, crops: Tensor) -> Tensor:
        """Encode normalized crops `(N, 1, 48, 48)` to embeddings `(N, D)`."""
        return self.encoder(crops)

    def classify_crops(self, embeddings: Tensor) -> Tensor:
        """Classify each embedding `(N, D)` without its neighbours; returns logits `(N, classes)`."""
        return self.crop_head(embeddings)

    def classify_with_context(self, embeddings: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """Return logits `(B, T, classes)` of `embeddings` `(B, T, D)` and their context.

        `context` `(B, T, 2·units)` is the output of the last LSTM; `lengths` is `(B,)` int, 1..T.
        """
        return self.classify_crops(embeddings)

    def classify(self, embeddings: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Classify sequences of embeddings `(B, T, D)`; returns logits `(B, T, classes)`.

        `lengths` is `(B,)` int on the CPU, 1..T, by default T. Padding beyond a length does not change the
        logits before it; its own logits are meaningless.
        """
        batch, steps, _ = embeddings.shape
        if lengths is None:
            lengths = torch.full((batch,), steps, dtype=torch.int64)
        context = embeddings
        for lstm, dropout in zip(self.lstms, self.lstm_dropout, strict=False):
            packed = pack_padded_sequence(context, lengths, batch_first=True, enforce_sorted=False)
            read = run_lstm(lstm, packed)
            context, _ = pad_packed_sequence(read, batch_first=True, total_length=steps)
            context = F.dropout(context, dropout, self.training)  # (B, T, 2·units)
        return self.classify_with_context(embeddings, context, lengths.to(embeddings.device))

    def smooth_log_probs(self, logits: Tensor, embeddings: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Convert the logits `(B, T, classes)` of sequences to log probabilities of the same shape.

        A network may smooth them over the sequence; `embeddings` and `lengths` are as in `classify`.
        """
        return torch.log_softmax(logits, dim=2)

    def forward(self, crops: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Convert normalized crops `(B, T, 1, 48, 48)` to log probabilities `(B, T, classes)`; T from 1."""
        batch, steps = crops.shape[:2]
        embeddings = self.encode(crops.flatten(0, 1)).float().unflatten(0, (batch, steps))  # (B, T, D)
        return self.smooth_log_probs(self.classify(embeddings, lengths).float(), embeddings, lengths)


def run_lstm(lstm: nn.LSTM, sequences: Any) -> Any:
    """Return the output of an LSTM for a tensor or a `PackedSequence`, in single precision.

    Within autocast, small changes of its state would be lost and its gradients might vanish.
    """
    device = sequences.data.device.type
    if not torch.is_autocast_enabled(device):
        return lstm(sequences)[0]
    with torch.autocast(device, enabled=False):
        return lstm(sequences.to(torch.float32))[0]
