"""One training step: a batch is augmented, passed through the network, and compared with its labels."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_batch.config import TrainConfig
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.training.augment import augment_sequences, augment_stills, mix_examples
from fer_batch.training.imbalance import compute_expression_loss
from fer_batch.training.predict import frames_to_tensor
from fer_batch.training.sequences import Windows


@dataclass(frozen=True, kw_only=True)
class Batch:
    """An augmented batch on the training device: B windows of T frames, C classes."""

    crops: Tensor
    """`(B, T, 1, 48, 48)` float, grey values from 0 to 1."""
    targets: Tensor
    """`(B, T, C)` float of sequences, else `(B, 1, C)`: a distribution over the classes."""
    votes: Tensor
    """`(B, C)` float: shares of the annotators."""
    known: Tensor
    """`(B, T)` bool of sequences, else `(B, 1)`: False beyond the end of a clip."""
    lengths: Tensor
    """`(B,)` int64 on the CPU: frames in each window."""
    clip_ids: Tensor
    """`(B, T)` int64, as in `Windows`."""
    moving: Tensor
    """`(B, T)` bool, as in `Windows`."""


class TrainingModule(nn.Module):
    """The network as one forward pass of a phase.

    Distributed data parallel needs all parameters to be used in one forward pass.
    """

    def __init__(self, network: Network, phase: str, votes: float) -> None:
        super().__init__()
        self.network, self.phase = network, phase
        self.dropout = network.dropout if isinstance(network, CnnBiLstm) else nn.Identity()
        self.votes_head = nn.Linear(network.width, network.classes) if votes and phase == "stills" else None

    def forward(self, crops: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute logits, and a second output that depends on the phase, from `(B, T, 1, 48, 48)` crops.

        - "sequences": logits `(B, T, C)`, and the logits of each single crop `(B, T, C)`.
        - "stills": logits `(B, 1, C)`, and the logits of the votes `(B, C)` or None.
        - "clips": logits `(B, 1, C)`, and None.
        """
        if self.phase == "sequences":
            with torch.no_grad():
                embeddings = self.network.encode(crops.flatten(0, 1)).float()
                single = self.network.crop_head(embeddings)
            shape = crops.shape[:2]
            logits = self.network.classify(embeddings.unflatten(0, shape), lengths)
            return self.network.smooth_log_probs(logits.float(), lengths), single.unflatten(0, shape)
        if self.phase == "clips":
            embeddings = self.network.encode(crops.flatten(0, 1)).float()
            return self.network.classify(embeddings.unflatten(0, crops.shape[:2]), lengths)[:, -1:], None
        embeddings = self.network.encode(crops[:, 0])
        votes = self.votes_head(self.dropout(embeddings)) if self.votes_head is not None else None
        return self.network.classify_crops(embeddings)[:, None], votes


def augment_batch(
    config: TrainConfig,
    phase: str,
    windows: Windows,
    votes: np.ndarray,
    generator: torch.Generator,
    random: np.random.Generator,
) -> Batch:
    """Move windows and their votes `(B, C) float32` to the device of `generator`, and augment them."""
    device, classes = generator.device, votes.shape[1]
    crops = frames_to_tensor(windows.frames, device)
    labels = torch.from_numpy(windows.labels).to(device)
    targets, known = F.one_hot(labels.clamp(min=0), classes).float(), labels >= 0  # (B, T, C), (B, T)
    lengths = known.sum(dim=1).cpu()
    shares = torch.from_numpy(votes).to(device)
    if phase == "sequences":
        crops = augment_sequences(crops, config, generator)
    else:
        # The frames of a clip are channels of one image, so that all are augmented in the same way.
        crops, mixed = mix_examples(
            augment_stills(crops.squeeze(2), config, generator),
            torch.cat([targets[:, 0], shares], dim=1),
            config.mixup,
            random,
        )
        crops, targets, shares = crops[:, :, None], mixed[:, None, :classes], mixed[:, classes:]
        known = known[:, :1]
    return Batch(
        crops=crops,
        targets=targets,
        votes=shares,
        known=known,
        lengths=lengths,
        clip_ids=torch.from_numpy(windows.clip_ids).to(device),
        moving=torch.from_numpy(windows.moving).to(device),
    )


def compute_loss(
    config: TrainConfig, phase: str, batch: Batch, logits: Tensor, second: Tensor | None, counts: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Compute the mean loss of a batch, and the targets `(B, T, C)` that it compares `logits` with.

    `logits` and `second` are the outputs of `TrainingModule`, and `counts` is `(C,) int`, the training
    examples of each class.
    """
    targets = batch.targets
    if phase == "sequences":
        assert second is not None
        averaged = average_clip_probs(second.float(), batch.clip_ids, batch.known)
        targets = torch.where(batch.moving[:, :, None], targets, averaged)
        return compute_expression_loss(logits[batch.known], targets[batch.known], counts, "none"), targets
    loss = compute_expression_loss(
        logits[:, 0], targets[:, 0], counts, config.imbalance, config.label_smoothing
    )
    if second is not None:
        loss = loss - config.votes * (batch.votes * F.log_softmax(second.float(), dim=1)).sum(dim=1).mean()
    return loss, targets


def average_clip_probs(logits: Tensor, clip_ids: Tensor, known: Tensor) -> Tensor:
    """Average the probabilities of single crops over the frames of the same clip, `(B, T, C)`.

    `logits` is `(B, T, C)`, `clip_ids` is `(B, T)` int with equal numbers for frames of the same clip, and
    `known` is `(B, T)` bool.

    The averages are the targets for sequences of stills. Labels would not do: the encoder was trained on the
    same faces, and recognizes them better than any new face. LSTMs that learned to trust it that much were 1
    to 4 points worse on videos than no LSTMs.
    """
    same = (clip_ids[:, :, None] == clip_ids[:, None, :]) & known[:, None, :]  # (B, T, T)
    weights = same.to(logits.dtype)
    return weights @ torch.softmax(logits, dim=2) / weights.sum(dim=2, keepdim=True).clamp(min=1)
