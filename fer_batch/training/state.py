"""The state of a training after an epoch, and its result."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_batch.model.network import Network
from fer_batch.model.registry import build_network
from fer_batch.storage.atomic import write_bytes
from fer_batch.training.history import EpochResult


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """The result of training: a network by its name in `model.registry`, and its weights."""

    network: str
    architecture: dict[str, Any]
    weights: dict[str, Tensor]
    history: list[EpochResult]

    def build_network(self) -> Network:
        """Build the network with the trained weights, on the CPU and in evaluation mode."""
        network = build_network(self.network, self.architecture).eval()
        network.load_state_dict(self.weights)
        return network


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
    architecture: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        return {**vars(self), "history": [row.to_dict() for row in self.history]}

    def finish(self) -> TrainedNetwork:
        """Return the network that training keeps if it ends here."""
        weights = self.ema
        if self.kept is not None and self.history[-1].phase != "sequences":
            weights = self.kept
        return TrainedNetwork(
            network=self.network, architecture=self.architecture, weights=weights, history=self.history
        )


def write_state(path: Path, state: TrainState) -> None:
    """Write `state.pt`, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state.to_dict(), buffer)
    write_bytes(path, buffer.getvalue())


def read_state(path: Path) -> TrainState | None:
    """Read `state.pt`; returns None if it does not exist."""
    if not path.exists():
        return None
    values = torch.load(path, map_location="cpu", weights_only=True)
    return TrainState(**values | {"history": [EpochResult(**row) for row in values["history"]]})
