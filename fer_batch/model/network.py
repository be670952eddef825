"""What all recognizers have in common: crops become embeddings, embeddings become answers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CROP_SIZE = 48
GREY_MEAN, GREY_STD = 0.5077, 0.2551
"""Of grey values in 0–1, those of FER2013's training images: what crops are normalised by."""


class CropEncoder(nn.Module):
    """Crops to embeddings: `(N, 1, 48, 48)` float, normalised, to `(N, width)` float."""

    width: int


class Network(nn.Module):
    """A recognizer in three steps, so that each crop of a track is encoded once: `encode`, `classify`,
    `smooth_log_probs`.

    As it stands here it answers each crop on its own. One that reads its neighbours names its bidirectional
    LSTMs in `lstms` and says in `classify_with_context` what it makes of them.
    """

    encoder: CropEncoder
    crop_head: nn.Linear
    """From the last features to the classes."""
    first_phase = "stills"
    """What it learns from first: "stills", every frame on its own, or "clips", whole ones."""
    lstm_dropout: Sequence[float] = (0.0, 0.0)
    """After each of `lstms`, in training."""

    @property
    def width(self) -> int:
        """Values of an embedding."""
        return self.encoder.width

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.crop_head.out_features

    @property
    def lstms(self) -> list[nn.LSTM]:
        """Its bidirectional layers over a window, in order; none where each crop is answered on its own."""
        return []

    def encode(self, crops: Tensor) -> Tensor:
        """`(N, 1, 48, 48)` normalised crops to `(N, D)` embeddings, each on its own."""
        return self.encoder(crops)

    def classify_crops(self, embeddings: Tensor) -> Tensor:
        """`(N, D)` embeddings to `(N, classes)` logits: what each crop says without its neighbours."""
        return self.crop_head(embeddings)

    def classify_with_context(self, embeddings: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """`(B, T, classes)` logits of `embeddings` `(B, T, D)` and what the last of `lstms` made of them,
        `context` `(B, T, 2·units)`; `lengths` is `(B,)` int, 1..T.
        """
        return self.classify_crops(embeddings)

    def classify(self, embeddings: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`(B, T, D)` embeddings to `(B, T, classes)` logits; `lengths` `(B,)` int on the CPU, 1..T, else
        all T.

        Padding beyond a sequence's length changes nothing before it; its own logits are meaningless.
        """
        batch, steps, _ = embeddings.shape
        if lengths is None:
            lengths = torch.full((batch,), steps, dtype=torch.int64)
        context = embeddings
        for lstm, dropout in zip(self.lstms, self.lstm_dropout, strict=False):
            packed = pack_padded_sequence(context, lengths, batch_first=True, enforce_sorted=False)
            context, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=steps)
            context = F.dropout(context, dropout, self.training)  # (B, T, 2·units)
        return self.classify_with_context(embeddings, context, lengths.to(embeddings.device))

    def smooth_log_probs(self, logits: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`(B, T, classes)` logits, each moment on its own, to `(B, T, classes)` log probabilities in view of
        the whole sequence; `lengths` as in `classify`.
        """
        return torch.log_softmax(logits, dim=2)

    def forward(self, crops: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`(B, T, 1, 48, 48)` normalised crops to `(B, T, classes)` log probabilities; any T from 1."""
        batch, steps = crops.shape[:2]
        embeddings = self.encode(crops.flatten(0, 1))  # (B·T, D)
        logits = self.classify(embeddings.float().unflatten(0, (batch, steps)), lengths)
        return self.smooth_log_probs(logits.float(), lengths)
