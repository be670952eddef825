"""One training step: a batch is augmented, passed through the network, and compared with its labels."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.train_config import TrainConfig
from fer_batch.training.augment import augment_sequences, augment_stills, mix_examples
from fer_batch.training.batches import Annotations
from fer_batch.training.imbalance import compute_expression_loss
from fer_batch.training.predict import autocast, frames_to_tensor, normalize_crops
from fer_batch.training.sequences import Windows

BLEND_EXPONENT = 4
"""Power of its share with which a frame counts in the mean of a clip, so that frames of a change count little
where a clip has others."""


class TrainingModule(nn.Module):
    """The network as one forward pass of a phase, so that all workers use all of its parameters.

    With `heads` above 1, the stills have that number of heads: the network's own, which is the first, and
    copies of it that are dropped after training.
    """

    def __init__(self, network: Network, phase: str, votes: float, heads: int = 1) -> None:
        super().__init__()
        self.network, self.phase = network, phase
        self.dropout = network.dropout if isinstance(network, CnnBiLstm) else nn.Identity()
        self.votes_head = nn.Linear(network.width, network.classes) if votes and phase == "stills" else None
        copies = heads - 1 if phase == "stills" else 0
        self.other_heads: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            copy.deepcopy(network.crop_head) for _ in range(copies)
        )

    def forward(self, crops: Tensor, lengths: np.ndarray, heads: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute logits and a second output from `(B, T, 1, 48, 48)` crops.

        `lengths` is `(B,) int64`, as an array: DistributedDataParallel moves tensors to the GPU, but LSTMs
        need lengths on the CPU. `heads` is `(B,) int64`: the head of each example, which only stills use.

        - "sequences": logits `(B, T, C)`, and the logits of each single crop `(B, T, C)`.
        - "stills": logits `(B, 1, C)`, and the logits of the votes `(B, C)` or None.
        - "clips": logits `(B, 1, C)`, and None.
        """
        if self.phase == "sequences":
            with torch.no_grad():
                embeddings = self.network.encode(crops.flatten(0, 1)).float()
                single = self.network.crop_head(embeddings)
            shape = crops.shape[:2]
            steps = torch.from_numpy(lengths)
            sequences = embeddings.unflatten(0, shape)
            logits = self.network.classify(sequences, steps).float()
            return self.network.smooth_log_probs(logits, sequences, steps), single.unflatten(0, shape)
        if self.phase == "clips":
            embeddings = self.network.encode(crops.flatten(0, 1)).float()
            steps = torch.from_numpy(lengths)
            return self.network.classify(embeddings.unflatten(0, crops.shape[:2]), steps)[:, -1:], None
        embeddings = self.network.encode(crops[:, 0])
        votes = self.votes_head(self.dropout(embeddings)) if self.votes_head is not None else None
        logits = self.network.classify_crops(embeddings)
        if self.other_heads:
            features = self.dropout(embeddings)
            stacked = torch.stack([logits, *(head(features) for head in self.other_heads)], dim=1)
            logits = stacked[torch.arange(len(heads), device=heads.device), heads]  # (B, C)
        return logits[:, None], votes


def compute_loss(
    config: TrainConfig,
    phase: str,
    model: nn.Module,
    windows: Windows,
    annotations: Annotations,
    counts: np.ndarray,
    generator: torch.Generator,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Augment a batch on the device of `generator`, and compute its loss.

    `model` is a `TrainingModule`, perhaps joined with those of other workers. `counts` is `(H, C) int`: the
    training examples of each head and class. Returns the mean loss, and a `(n,)` bool mask of the frames with
    a label: whether the prediction is correct.
    """
    device, classes = generator.device, counts.shape[1]
    crops = frames_to_tensor(windows.frames, device)  # (B, T, 1, 48, 48)
    labels = torch.from_numpy(windows.labels).to(device)
    targets, known = F.one_hot(labels.clamp(min=0), classes).float(), labels >= 0  # (B, T, C), (B, T)
    lengths = (windows.labels >= 0).sum(axis=1)
    shares = torch.from_numpy(annotations.votes).to(device)
    heads = torch.from_numpy(annotations.heads).to(device)
    if phase == "sequences":
        crops = augment_sequences(crops, config, generator)
    else:
        if annotations.taught is not None:
            taught = torch.from_numpy(annotations.taught).to(device)[:, None]
            targets = torch.lerp(targets[:, :1], taught, config.teacher_weight)
        # The frames of a clip are channels of one image, so that all are augmented in the same way.
        crops, mixed = mix_examples(
            augment_stills(crops.squeeze(2), config, generator),
            torch.cat([targets[:, 0], shares], dim=1),
            config.mixup,
            random,
        )
        crops, targets, shares = crops[:, :, None], mixed[:, None, :classes], mixed[:, classes:]
        known = known[:, :1]
    with autocast(device):
        logits, second = model(normalize_crops(crops), lengths, heads)
    logits = logits.float()
    if phase == "sequences":
        targets = compute_sequence_targets(windows, second.float(), known)
        loss = compute_expression_loss(logits[known], targets[known], counts.sum(axis=0), "none")
    else:
        present = counts > 0 if config.head_names else np.ones_like(counts, bool)  # (H, C)
        logits = logits.masked_fill(~torch.from_numpy(present).to(device)[heads][:, None], -torch.inf)
        loss = compute_heads_loss(logits[:, 0], targets[:, 0], annotations.heads, counts, present, config)
        if second is not None:
            votes_loss = -(shares * F.log_softmax(second.float(), dim=1)).sum(dim=1).mean()
            loss = loss + config.votes * votes_loss
    return loss, (logits.argmax(dim=2) == targets.argmax(dim=2))[known]


def compute_heads_loss(
    logits: Tensor,
    targets: Tensor,
    heads: np.ndarray,
    counts: np.ndarray,
    present: np.ndarray,
    config: TrainConfig,
) -> Tensor:
    """Compute the mean loss of examples, each over the classes that its head has.

    `logits` and `targets` are `(B, C)` and `heads` is `(B,) int`. `counts` and `present` are `(H, C)`: the
    training examples of each head and class, and whether the head has the class.
    """
    losses = []
    for head in np.unique(heads).tolist():
        rows, columns = np.flatnonzero(heads == head), np.flatnonzero(present[head])
        block = np.ix_(rows, columns)
        wanted = targets[block]
        wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1e-6)  # teachers know absent classes
        loss = compute_expression_loss(
            logits[block], wanted, counts[head][columns], config.imbalance, config.label_smoothing
        )
        losses.append(loss * (len(rows) / len(heads)))
    return torch.stack(losses).sum()


def compute_sequence_targets(windows: Windows, logits: Tensor, known: Tensor) -> Tensor:
    """Compute the probabilities `(B, T, C)` that sequences should have.

    They are the labels for clips of several frames, and `average_clip_probs` for stills. In a change they are
    mixed from both clips. `logits` is `(B, T, C)`, of single crops, and `known` is `(B, T)` bool.
    """
    device, classes = logits.device, logits.shape[2]
    averaged = average_clip_probs(logits, compute_clip_shares(windows).to(device), known)
    first, following = (
        F.one_hot(torch.from_numpy(labels).to(device).clamp(min=0), classes).float()
        for labels in (windows.first_labels, windows.next_labels)
    )
    labelled = torch.lerp(first, following, torch.from_numpy(windows.next_shares).to(device)[:, :, None])
    return torch.where(torch.from_numpy(windows.moving).to(device)[:, :, None], labelled, averaged)


def compute_clip_shares(windows: Windows) -> Tensor:
    """Compute the share of each clip of a window in each frame, `(B, T, K) float32`; rows sum to 1."""
    clip_ids, next_shares = torch.from_numpy(windows.clip_ids), torch.from_numpy(windows.next_shares)
    count = int(clip_ids.max()) + 2 if clip_ids.numel() else 1
    first, following = F.one_hot(clip_ids, count), F.one_hot((clip_ids + 1).clamp(max=count - 1), count)
    return torch.lerp(first.float(), following.float(), next_shares[:, :, None])


def average_clip_probs(logits: Tensor, clip_shares: Tensor, known: Tensor) -> Tensor:
    """Average the probabilities of single crops over the frames of the same clip, `(B, T, C)`.

    `logits` is `(B, T, C)`, `clip_shares` is `(B, T, K)`, and `known` is `(B, T)` bool. A frame in a change
    gets the mean of both clips, weighted by their shares.

    The averages are the targets for sequences of stills. Labels would not do: the encoder was trained on the
    same faces, and recognizes them better than any new face. LSTMs that learned to trust it that much were 1
    to 4 points worse on videos than no LSTMs.
    """
    weights = clip_shares**BLEND_EXPONENT * known[:, :, None]  # (B, T, K)
    sums = torch.einsum("btk,btc->bkc", weights, torch.softmax(logits, dim=2))
    means = sums / weights.sum(dim=1).clamp(min=1e-12)[:, :, None]  # (B, K, C)
    return torch.einsum("btk,bkc->btc", clip_shares, means)
