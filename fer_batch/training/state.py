"""Results of epochs, and the state of a training after an epoch."""

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_batch.errors import CheckpointError
from fer_batch.model.card import shorten
from fer_batch.model.network import Network
from fer_batch.model.registry import build_network
from fer_batch.train_config import TrainConfig
from fer_batch.training.initialize import Architecture


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Results of one epoch: a row of `history.json` and `history.csv`."""

    epoch: int
    """Number of the epoch over all phases, from 1."""
    phase: str
    """"stills", "sequences" or "clips"."""
    loss: float
    """Mean training loss."""
    train_accuracy: float
    """Accuracy on the augmented training examples."""
    lr: float
    """Learning rate at the start of the epoch."""
    select_loss: float
    """Mean negative log likelihood of the selection split; NaN, like the next two, if it is empty."""
    accuracy: float
    """Accuracy on the selection split."""
    macro_f1: float
    """Macro-F1 on the selection split."""
    n: int
    """Number of selection clips."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """Progress within an epoch."""

    epoch: int
    step: int
    steps: int
    clips_per_s: float


HISTORY_COLUMNS = tuple(field.name for field in dataclasses.fields(EpochResult))


def selected_epoch(config: TrainConfig, history: Sequence[EpochResult]) -> EpochResult:
    """Return the epoch whose weights `train` keeps if training ends after `history`.

    With early stopping it is the most accurate epoch, unless sequences followed; otherwise it is the last.
    """
    if config.early_stopping and history[-1].phase != "sequences":
        return max(history, key=lambda row: row.accuracy)
    return history[-1]


def count_epochs_since_best(history: Sequence[EpochResult]) -> int:
    """Return the number of epochs since the accuracy was first at its highest."""
    if not history:
        return 0
    return len(history) - 1 - int(np.argmax([row.accuracy for row in history]))


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that training needs to continue after an epoch; the names are those in `state.pt`."""

    module: dict[str, Tensor]
    """Weights of the phase's `TrainingModule`."""
    ema: dict[str, Tensor]
    """Moving average of the network's weights."""
    kept: dict[str, Tensor] | None
    """With early stopping, the averaged weights after the most accurate epoch of the first phase."""
    stepper: dict[str, Any]
    """State of the phase's `PhaseOptimizer`."""
    history: list[EpochResult]
    network: str
    """Name in `model.registry`."""
    architecture: Architecture

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        return {**vars(self), "history": [row.to_dict() for row in self.history]}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights of the network that training keeps if it ends here."""
        if self.kept is not None and self.history[-1].phase != "sequences":
            return self.kept
        return self.ema

    def build_network(self) -> Network:
        """Build the network with `weights`, on the CPU and in evaluation mode."""
        network = build_network(self.network, self.architecture).eval()
        network.load_state_dict(self.weights)
        return network


def encode_state(state: TrainState) -> bytes:
    """Return the content of `state.pt`."""
    buffer = io.BytesIO()
    torch.save(state.to_dict(), buffer)
    return buffer.getvalue()


def decode_state(content: bytes, name: str) -> TrainState:
    """Decode the content of `state.pt`, which messages call `name`.

    Raises CheckpointError if it is not a state of a training. No code in the file is executed.
    """
    try:
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return TrainState(**values | {"history": [EpochResult(**row) for row in values["history"]]})
    except Exception as error:  # torch raises many types, all caused by the file
        raise CheckpointError(
            f"{name} is not the state of a training, or is damaged: {shorten(error)}; remove it to start "
            "again"
        ) from error
