"""Distillation: a network learns from the predictions of trained networks, its teachers.

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from fer_batch.data.clips import Clips
from fer_batch.data.labels import normalize_label
from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.weights import load_checkpoint
from fer_batch.train_config import TrainConfig
from fer_batch.training.predict import predict_log_probs


def check_teachers(config: TrainConfig, classes: tuple[str, ...]) -> None:
    """Check that the teachers can predict the `classes` of stills.

    Raises CheckpointError if a teacher cannot be read, has other classes or reads whole clips; ConfigError
    for labelled videos, whose frames are not known before they are trained on.
    """
    if config.teacher and any(name == "clips" for name, _ in config.data):
        raise ConfigError("--teacher works with images, but --data clips=… gives videos; leave one out")
    for path in config.teacher:
        card = load_checkpoint(Path(path))[1]
        if {normalize_label(name) for name in card.classes} != {normalize_label(name) for name in classes}:
            raise CheckpointError(
                f"--teacher {path} has the classes {', '.join(card.classes)}, but the data has "
                f"{', '.join(classes)}; give a teacher of the same classes, or give them with --classes"
            )
        if card.network == "dcnn-bilstm":
            raise CheckpointError(f"--teacher {path} reads whole clips; give a network of stills")


def predict_teachers(
    config: TrainConfig, training: Clips, device: torch.device, *, rank: int = 0, world: int = 1
) -> np.ndarray | None:
    """Predict the mean probabilities of the teachers for each frame; returns None without teachers.

    The result is `(M, C) float32`, in the order of `training.frames` and `training.classes`. Each teacher's
    prediction is its mean for the frame and the mirror image, calibrated by its card. The `world` workers
    share the frames, and each returns all predictions.
    """
    if not config.teacher:
        return None
    frames = training.frames[:, None]  # (M, 1, 48, 48)
    views = (frames, frames[..., ::-1].copy())
    sums = np.zeros((len(frames), len(training.classes)), np.float32)
    for path in config.teacher:
        network, card = load_checkpoint(Path(path))
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        log_probs = np.mean(
            [predict_log_probs(network, view, device, rank=rank, world=world) for view in views], axis=0
        )
        names = [normalize_label(name) for name in card.classes]
        order = [names.index(normalize_label(name)) for name in training.classes]
        sums += softmax(log_probs / card.temperature, axis=1)[:, order]
    return sums / len(config.teacher)
