"""Training on the clips outside a fold, and predictions for the clips inside."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.data.clips import Clips
from fer_batch.errors import InputError
from fer_batch.evaluation.crossval.folds import Fold, draw_part, group_clips
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.train_config import TrainConfig
from fer_batch.training.loop import WorkerContext, train_network
from fer_batch.training.predict import (
    frames_to_tensor,
    normalize_crops,
    predict_log_probs,
    select_input_frames,
)
from fer_batch.training.state import TrainState

PAIR = ("cnn", "cnn_bilstm")
"""Two models of one training: the encoder with its head on the last frame, as the stills leave it; and the
whole network on all frames of the sequence, at the last one."""
ONE_MODEL = ("model",)
HELD_OUT_SHARE = 0.1
"""Share of the training clips of a fold for the "plateau" schedule and for early stopping."""
SEQUENCES_PER_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """The predictions for a fold, and facts about its training."""

    fold: Fold
    probs: dict[str, np.ndarray]
    """`(n, C) float64` by model: a row for each clip of the fold."""
    trained_on: int
    """Number of clips."""
    held_out: int
    """Number of clips for the schedule and early stopping."""
    train_accuracy: float
    """Accuracy of the last epoch on augmented training data."""
    epochs: int
    seconds: float


def train_fold(
    config: TrainConfig, data: Clips, fold: Fold, models: Sequence[str], device: torch.device
) -> FoldResult:
    """Train with the fold's seed on all clips outside the fold, and predict the clips inside."""
    started = time.monotonic()
    config = dataclasses.replace(config, seed=fold.seed)
    training, held_out = (data.take(part) for part in split_training(config, data, fold))
    stills: dict[str, torch.Tensor] = {}

    def keep_stills(state: TrainState) -> None:
        if state.history[-1].phase == "stills":
            stills.update({name: value.clone() for name, value in state.ema.items()})

    trained = train_network(config, training, held_out, WorkerContext(device=device), on_epoch=keep_stills)
    network = trained.build_network().to(device)
    tested = data.take(fold.tested)
    probs = {}
    if tuple(models) == PAIR:
        network.load_state_dict(stills)
        probs["cnn"] = predict_last_frames(network, tested, device)
        network.load_state_dict(trained.weights)
        probs["cnn_bilstm"] = predict_sequences(network, tested, device)
    else:
        network.load_state_dict(trained.weights)
        probs["model"] = predict_clips(network, tested, config.window_length, device)
    return FoldResult(
        fold=fold,
        probs=probs,
        trained_on=len(training),
        held_out=len(held_out),
        train_accuracy=trained.history[-1].train_accuracy,
        epochs=len(trained.history),
        seconds=round(time.monotonic() - started, 1),
    )


def split_training(config: TrainConfig, data: Clips, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips to train on, and the clips for the "plateau" schedule and early stopping.

    Both are `(N,) bool`. The fold itself must not influence any choice. So these two features use a tenth of
    the other clips, drawn in the way of the fold. Without these features all other clips are trained on.

    Raises InputError if either part would be empty, or if fewer than two classes are left to train on.
    """
    outside = np.flatnonzero(~fold.tested)
    held_out = np.zeros(len(data), bool)
    uses_plateau = config.schedule == "plateau" and config.plateau_patience < config.epochs
    needs_held_out = uses_plateau or bool(config.early_stopping)
    if needs_held_out:
        others = data.take(outside)
        drawn = draw_part(others.labels, group_clips(others), fold.by, HELD_OUT_SHARE, fold.seed)
        held_out[outside[drawn]] = True
    training = ~fold.tested & ~held_out
    if needs_held_out and not held_out.any():
        raise InputError(
            f"the {len(outside)} examples outside fold {fold.number} are too few to hold out a tenth of them "
            "for the plateau of the learning rate or for early stopping: give more data"
        )
    if len(np.unique(data.labels[training])) < 2:
        raise InputError(
            f"without the {fold.tested.sum()} examples of fold {fold.number}, fewer than two classes are "
            "left to train on; cross-validation needs subjects of several folds"
        )
    return training, held_out


@torch.inference_mode()
def predict_last_frames(model: Network, clips: Clips, device: torch.device) -> np.ndarray:
    """Return `(N, C) float64` probabilities of each clip's last frame, by the encoder and its head."""
    if not len(clips):
        return np.zeros((0, model.classes))
    crops = normalize_crops(frames_to_tensor(clips.frames[clips.starts[1:] - 1], device))  # (N, 1, 48, 48)
    return model.classify_crops(model.encode(crops)).double().softmax(dim=1).cpu().numpy()


@torch.inference_mode()
def predict_sequences(model: Network, clips: Clips, device: torch.device) -> np.ndarray:
    """Return `(N, C) float64` probabilities at the last frame, by the whole network on all frames."""
    probs = [np.zeros((0, model.classes))]
    for first in range(0, len(clips), SEQUENCES_PER_BATCH):
        block = clips.take(np.arange(first, min(first + SEQUENCES_PER_BATCH, len(clips))))
        lengths = np.diff(block.starts)
        steps = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)  # (B, T), padded by the last frame
        crops = normalize_crops(
            frames_to_tensor(block.frames[block.starts[:-1, None] + steps], device)
        )  # (B, T, 1, 48, 48)
        logits = model(crops, torch.from_numpy(lengths))  # (B, T, C)
        last = logits[torch.arange(len(block)), torch.from_numpy(lengths - 1)]
        probs.append(last.double().softmax(dim=1).cpu().numpy())
    return np.concatenate(probs)


def predict_clips(model: Network, clips: Clips, length: int, device: torch.device) -> np.ndarray:
    """Return `(N, C) float64` probabilities of each clip by the input that the network is made for.

    That is all frames for a CNN-BiLSTM, `length` frames for a network of whole clips, else the last frame.
    """
    if isinstance(model, CnnBiLstm):
        return predict_sequences(model, clips, device)
    log_probs = predict_log_probs(model, select_input_frames(model, clips, length), device)
    return np.exp(log_probs.astype(np.float64))
