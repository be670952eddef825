"""Training of a network, epoch by epoch: what each worker runs.

The CNN-BiLSTM has two phases. *Stills*: every frame on its own, and the encoder and its head learn what an
expression looks like. *Sequences*: every clip becomes a moving window in which expressions change; encoder
and crop head stay as they are, and the LSTMs and the chain learn what the neighbours of a moment say of it.
Networks of stills have the first phase alone, those of whole clips one of their own, *clips*.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import Tensor, nn

from fer_batch.config import TrainConfig
from fer_batch.data.datasets import Clips
from fer_batch.errors import CheckpointError
from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import GREY_MEAN, GREY_STD, Network
from fer_batch.model.registry import build_network
from fer_batch.model.weights import load_checkpoint, read_card
from fer_batch.storage.atomic import write_json
from fer_batch.training.augment import augment_sequences, augment_stills, mixup
from fer_batch.training.batches import Feed, Stream
from fer_batch.training.imbalance import expression_loss
from fer_batch.training.optimize import Stepper
from fer_batch.training.sequences import stretched

HISTORY = (
    "epoch", "phase", "loss", "train_accuracy", "lr", "select_loss", "accuracy", "macro_f1", "n", "seconds"
)  # fmt: skip
"""Of each epoch: mean loss and accuracy of training, on what it saw; of selection the mean negative log
likelihood, accuracy and macro-F1."""

STILLS = ("network.encoder", "network.crop_head", "votes_head")
"""What of the CNN-BiLSTM learns from stills; sequences teach the rest."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker computes, and how it is joined to the others."""

    device: torch.device
    rank: int = 0
    world: int = 1
    join: Callable[[nn.Module], nn.Module] = lambda module: module
    """Makes the workers' copies of a module share their gradients."""


def learn(
    config: TrainConfig,
    training: Clips,
    selection: Clips,
    place: Place,
    *,
    stream: Stream | None = None,
    state: dict[str, Any] | None = None,
    epoch_done: Callable[[dict[str, Any]], None] = lambda state: None,
    progress: Path | None = None,
) -> dict[str, Any]:
    """Train all phases and return the last state: `ema` (weights), `network` and `architecture` (see
    `model.registry.build_network`), `history` (a row an epoch), and what else a resumed run needs.

    `state` is an earlier one, to go on from; the same run, resumed or not, gives the same weights on a CPU.
    `epoch_done` is called with the state after each epoch; `progress` is a file that says how far the epoch
    is. With no clips in `selection` its figures are NaN.
    """
    name, architecture = architecture_of(config, len(training.classes))
    if state:
        architecture = state["architecture"]
    history: list[dict[str, Any]] = list(state["history"]) if state else []
    ema = _built(name, architecture, state["ema"] if state else None, place).eval()
    kept: dict[str, Tensor] | None = state["kept"] if state else None
    first = ema.first_phase
    phases = [(first, config.epochs)]
    if isinstance(ema, CnnBiLstm):
        phases.append(("sequences", config.sequence_epochs))
    for phase, epochs in phases:
        if not epochs or (history and history[-1]["phase"] == "sequences" and phase == first):
            continue
        module = _Step(
            _started(config, name, architecture, training.classes),
            phase,
            config.votes if training.votes.any() else 0,
        )
        if phase == "sequences":
            module.network.load_state_dict(ema.state_dict())
        module.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        feed = Feed(config, training, stream, phase, place.rank, place.world)
        stepper = _stepper(config, module, epochs * feed.steps)
        if state and history and history[-1]["phase"] == phase:
            module.load_state_dict(state["module"])
            stepper.load_state_dict(state["stepper"])
        else:
            ema.load_state_dict(module.network.state_dict())
        model = place.join(module)
        while not _ended(config, phase, epochs, history):
            began, lr = time.monotonic(), stepper.lr
            learned = _epoch(config, module, model, stepper, ema, feed, place, len(history), progress)
            scores = _scores(ema, selection, config.window_length, place)
            stepper.epoch_done(scores[1])
            row = (len(history) + 1, phase, *learned, lr, *scores, len(selection), time.monotonic() - began)
            history.append(dict(zip(HISTORY, row, strict=True)))
            if config.early_stopping and phase == first and _since_best(history) == 0:
                kept = _copy(ema)
            state = {
                "module": module.state_dict(),
                "ema": ema.state_dict(),
                "kept": kept,
                "stepper": stepper.state_dict(),
                "history": history,
                "network": name,
                "architecture": architecture,
            }
            epoch_done(state)
        if phase == first and kept is not None:
            ema.load_state_dict(kept)
    return {"ema": _copy(ema), "network": name, "architecture": architecture, "history": history}


def _ended(config: TrainConfig, phase: str, epochs: int, history: list[dict[str, Any]]) -> bool:
    rows = [row for row in history if row["phase"] == phase]
    stopped = config.early_stopping and phase != "sequences" and _since_best(rows) >= config.early_stopping
    return len(rows) >= epochs or bool(stopped)


def _since_best(rows: list[dict[str, Any]]) -> int:
    """How many epochs ago the accuracy was highest for the first time."""
    if not rows:
        return 0
    return len(rows) - 1 - int(np.argmax([row["accuracy"] for row in rows]))


class _Step(nn.Module):
    """What one step computes, as one forward, so that distributed data parallel sees every parameter used."""

    def __init__(self, network: Network, phase: str, votes: float) -> None:
        super().__init__()
        self.network, self.phase = network, phase
        self.sequences = phase == "sequences"
        self.dropout = network.dropout if isinstance(network, CnnBiLstm) else nn.Identity()
        self.votes_head = nn.Linear(network.width, network.classes) if votes and phase == "stills" else None

    def forward(self, crops: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Crops `(B, T, 1, 48, 48)` to logits, of sequences `(B, T, C)`, else `(B, 1, C)`; and of stills the
        votes `(B, C)`, of sequences what each crop says on its own `(B, T, C)`.
        """
        if self.sequences:
            with torch.no_grad():
                embeddings = self.network.encode(crops.flatten(0, 1)).float()
                alone = self.network.crop_head(embeddings)
            shape = crops.shape[:2]
            logits = self.network.classify(embeddings.unflatten(0, shape), lengths)
            return self.network.smooth_log_probs(logits.float(), lengths), alone.unflatten(0, shape)
        if self.phase == "clips":
            embeddings = self.network.encode(crops.flatten(0, 1)).float()
            return self.network.classify(embeddings.unflatten(0, crops.shape[:2]), lengths)[:, -1:], None
        embeddings = self.network.encode(crops[:, 0])
        votes = self.votes_head(self.dropout(embeddings)) if self.votes_head is not None else None
        return self.network.classify_crops(embeddings)[:, None], votes


def _epoch(
    config: TrainConfig,
    module: _Step,
    model: nn.Module,
    stepper: Stepper,
    ema: Network,
    feed: Feed,
    place: Place,
    epoch: int,
    progress: Path | None,
) -> tuple[float, float]:
    """One pass over the data; returns the mean loss and the accuracy over all workers."""
    classes = len(feed.training.classes)
    seed = config.seed * 1_000_003 + epoch * 1_009 + place.rank  # a resumed epoch is the same epoch
    torch.manual_seed(seed)
    drawn = torch.Generator().manual_seed(seed)
    generator = torch.Generator(place.device).manual_seed(seed)
    random = np.random.default_rng(seed)
    model.train()
    if module.sequences:
        module.network.encoder.eval()
    total, began, told = torch.zeros(4, device=place.device), time.monotonic(), 0.0
    for step, (windows, votes) in enumerate(feed.epoch(epoch, drawn)):
        crops = to_grey(windows.frames, place.device)
        labels = torch.from_numpy(windows.labels).to(place.device)
        target, known = F.one_hot(labels.clamp(min=0), classes).float(), labels >= 0  # (B, T, C), (B, T)
        lengths = known.sum(dim=1).cpu()
        shares = torch.from_numpy(votes).to(place.device)
        if module.sequences:
            crops = augment_sequences(crops, config, generator)
        else:
            crops, both = mixup(  # the frames of a clip as channels of one picture, all changed alike
                augment_stills(crops.squeeze(2), config, generator),
                torch.cat([target[:, 0], shares], dim=1),
                config.mixup,
                random,
            )
            crops, target, shares = crops[:, :, None], both[:, None, :classes], both[:, classes:]
            known = known[:, :1]
        with torch.autocast(place.device.type, dtype=torch.bfloat16):
            logits, other = model(normalise(crops), lengths)
        logits = logits.float()
        if module.sequences:
            moving = torch.from_numpy(windows.moving).to(place.device)
            held = hold_means(other.float(), torch.from_numpy(windows.holds).to(place.device), known)
            target = torch.where(moving[:, :, None], target, held)
            loss = expression_loss(logits[known], target[known], feed.counts, "none")
        else:
            loss = expression_loss(
                logits[:, 0], target[:, 0], feed.counts, config.imbalance, config.label_smoothing
            )
            if other is not None:
                loss = loss - config.votes * (shares * F.log_softmax(other.float(), dim=1)).sum(dim=1).mean()
        stepper.step(loss)
        _update_average(ema, module.network, config.ema_decay, stepper.taken)
        right = (logits.argmax(dim=2) == target.argmax(dim=2))[known]
        seen = torch.tensor([len(labels), len(right)], device=place.device)
        total += torch.stack([loss.detach() * len(labels), seen[0], right.sum(), seen[1]])
        if progress and time.monotonic() - told > 1:
            told = time.monotonic()
            rate = (step + 1) * config.batch_size * place.world / (told - began)
            write_json(
                progress, {"epoch": epoch + 1, "step": step + 1, "steps": feed.steps, "clips_per_s": rate}
            )
    total = _all_sum(total)
    return float(total[0] / total[1]), float(total[2] / total[3])


def hold_means(alone: Tensor, holds: Tensor, known: Tensor) -> Tensor:
    """What all moments of a hold say together, `(B, T, C)`: the mean of their probabilities.

    `alone` is `(B, T, C)` logits of single crops, `holds` `(B, T)` int, the same number where a window shows
    the same clip, `known` `(B, T)` bool. This is what sequences of stills teach. Their labels would teach the
    encoder's training faces once more: it answers these better than any new face, and LSTMs that learned to
    trust it so were 1 to 4 points worse than none on videos.
    """
    same = (holds[:, :, None] == holds[:, None, :]) & known[:, None, :]  # (B, T, T)
    weights = same.to(alone.dtype)
    return weights @ torch.softmax(alone, dim=2) / weights.sum(dim=2, keepdim=True).clamp(min=1)


def frame_logits(
    model: Network,
    frames: np.ndarray,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    batch: int = 256,
) -> np.ndarray:
    """`(N, T, 48, 48) uint8` windows, of one still or more, to `(N, C) float32` log probabilities at their
    last moment; ranks share the work and all get the whole answer.
    """
    answers = torch.zeros(len(frames), model.classes, device=device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
        for first in range(rank * batch, len(frames), world * batch):
            crops = normalise(to_grey(frames[first : first + batch], device))
            answers[first : first + batch] = model(crops)[:, -1].float()
    return _all_sum(answers).cpu().numpy()


def frames_of(model: Network, clips: Clips, length: int) -> np.ndarray:
    """What a network is asked of each clip, `(N, T, 48, 48) uint8`: its last frame, or `length` of its frames
    where the network is one of clips.
    """
    if model.first_phase == "clips":
        return stretched(clips, np.arange(len(clips)), length)
    return clips.frames[clips.starts[1:] - 1][:, None]


def to_grey(frames: np.ndarray, device: torch.device) -> Tensor:
    """`(…, 48, 48) uint8` to `(…, 1, 48, 48)` float in 0–1 on the device."""
    return torch.from_numpy(frames).to(device).float().div_(255).unsqueeze(-3)


def normalise(crops: Tensor) -> Tensor:
    """Grey values in 0–1 to what the encoder reads."""
    return (crops - GREY_MEAN) / GREY_STD


def architecture_of(config: TrainConfig, classes: int) -> tuple[str, dict[str, Any]]:
    """The network that `config` asks for: its name in `model.registry`, and its architecture."""
    if config.init:
        card = read_card(Path(config.init))[1]
        dropout = {"dropout": config.dropout} if card.network == "cnn-bilstm" else {}
        return card.network, {**card.architecture, "classes": classes, **dropout}
    blocks = {"filters": list(config.filters), "depths": list(config.depths)}
    if config.network != "cnn-bilstm":
        dropouts = {"dropouts": list(config.dropouts)} if config.dropouts else {}
        return config.network, {"classes": classes, **blocks, **dropouts}
    if config.backbone:
        encoder: dict[str, Any] = {"backbone": config.backbone, "size": config.backbone_size}
    else:
        encoder = {**blocks, "fold": config.fold}
    return config.network, {"classes": classes, **encoder, "dropout": config.dropout}


def _started(
    config: TrainConfig, name: str, architecture: dict[str, Any], classes: tuple[str, ...]
) -> Network:
    """A network of random weights, or with those of `config.init`, its heads by the classes' names, or with a
    pretrained backbone.
    """
    torch.manual_seed(config.seed)
    network = build_network(name, architecture)
    if config.backbone_weights and isinstance(network.encoder, BackboneEncoder):
        network.encoder.load_pretrained(Path(config.backbone_weights))
    if config.init:
        begun, card = load_checkpoint(Path(config.init))
        weights = network.state_dict()
        for part, value in begun.state_dict().items():
            if part.split(".")[0] in ("crop_head", "context_head"):
                for row, label in enumerate(classes):
                    if label in card.classes:
                        weights[part][row] = value[card.classes.index(label)]
            elif weights[part].shape == value.shape:
                weights[part] = value
            else:
                raise CheckpointError(
                    f"{config.init}: {part} is {tuple(value.shape)}, not {tuple(weights[part].shape)}"
                )
        network.load_state_dict(weights)
    return network


def _built(
    name: str, architecture: dict[str, Any], weights: dict[str, Tensor] | None, place: Place
) -> Network:
    network = build_network(name, architecture)
    if weights is not None:
        network.load_state_dict(weights)
    return network.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _stepper(config: TrainConfig, module: _Step, total_steps: int) -> Stepper:
    if module.sequences:
        chosen = [p for n, p in module.named_parameters() if not n.startswith(STILLS)]
        how: dict[str, Any] = {"optimizer": "adamw", "lr": config.sequence_lr, "weight_decay": 0.01}
    else:
        partly = isinstance(module.network, CnnBiLstm)
        chosen = [p for n, p in module.named_parameters() if n.startswith(STILLS) or not partly]
        how = {"optimizer": config.optimizer, "lr": config.lr, "weight_decay": config.weight_decay}
    return Stepper(config, chosen, **how, total_steps=total_steps)


def _scores(ema: Network, selection: Clips, length: int, place: Place) -> tuple[float, float, float]:
    """Mean negative log likelihood, accuracy and macro-F1 of what the network says of each clip."""
    if not len(selection):
        return float("nan"), float("nan"), float("nan")
    if dist.is_initialized():  # batch norm sees other batches on each worker; a resumed run has the first's
        for value in ema.state_dict().values():
            dist.broadcast(value, 0)
    frames = frames_of(ema, selection, length)
    logits = frame_logits(ema, frames, place.device, rank=place.rank, world=place.world)
    predicted = logits.argmax(axis=1)
    labels = range(len(selection.classes))
    return (
        float(log_loss(selection.labels, softmax(logits, axis=1), labels=labels)),
        float(accuracy_score(selection.labels, predicted)),
        float(f1_score(selection.labels, predicted, labels=labels, average="macro", zero_division=0)),
    )


@torch.no_grad()
def _update_average(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and batch-norm statistics, quicker at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    means, values = list(ema.state_dict().values()), list(network.state_dict().values())
    moving = [mean.dtype.is_floating_point for mean in means]
    torch._foreach_lerp_(
        [m for m, floating in zip(means, moving, strict=True) if floating],
        [v for v, floating in zip(values, moving, strict=True) if floating],
        1 - decay,
    )
    for mean, value, floating in zip(means, values, moving, strict=True):
        if not floating:
            mean.copy_(value)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _all_sum(value: Tensor) -> Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value
