"""Optimizer and learning-rate schedule of a training phase."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from fer_batch.config import TrainConfig


class PhaseOptimizer:
    """Takes the optimizer steps of one phase, with the learning-rate schedule of a configuration.

    `total_steps` is the number of steps of the whole phase.
    """

    def __init__(self, config: TrainConfig, parameters: list[nn.Parameter], total_steps: int) -> None:
        self.steps_taken = 0
        self.parameters, self.grad_clip = parameters, config.grad_clip
        self.optimizer = _build_optimizer(config, parameters)
        self.schedule = _build_schedule(config, self.optimizer, total_steps)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`, clip their norm, and take one step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.optimizer.step()
        self.steps_taken += 1
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()

    def end_epoch(self, accuracy: float) -> None:
        """Pass the epoch's accuracy to the schedule "plateau"."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(accuracy)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed phase needs."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "taken": self.steps_taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps_taken = state["taken"]


def _build_optimizer(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    lr, weight_decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    optimizers = {"nadam": torch.optim.NAdam, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[config.optimizer](parameters, lr, weight_decay=weight_decay)


def _build_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> LRScheduler | ReduceLROnPlateau:
    if config.schedule == "onecycle":
        rise = 0.25 if total_steps == 4 else 0.2  # at 5 × 0.2, torch divides by 0
        return OneCycleLR(optimizer, config.lr, total_steps + 1, pct_start=rise, cycle_momentum=False)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, total_steps + 1, eta_min=config.min_lr)
    factor, patience = config.plateau_factor, config.plateau_patience
    return ReduceLROnPlateau(optimizer, "max", factor, patience, min_lr=config.min_lr)
