"""Results of epochs, and which epoch's weights are kept."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_batch.config import TrainConfig


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
