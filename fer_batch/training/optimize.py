"""Optimizer and learning-rate schedule of a training phase."""

from typing import Any

import torch
from torch import Tensor, nn

from fer_batch.config import TrainConfig


class PhaseOptimizer:
    """Takes the optimizer steps of one phase, with the learning-rate schedule of a configuration.

    `total_steps` is the number of steps of the whole phase.
    """

    def __init__(
        self,
        config: TrainConfig,
        parameters: list[nn.Parameter],
        *,
        optimizer: str,
        lr: float,
        weight_decay: float,
        total_steps: int,
    ) -> None:
        self.steps_taken = 0
        self.parameters, self.grad_clip = parameters, config.grad_clip
        self.optimizer = _build_optimizer(optimizer, parameters, lr, weight_decay)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            "max",
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            min_lr=config.min_lr,
        )
        self.step_schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        if config.schedule == "onecycle":
            self.step_schedule = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer,
                lr,
                total_steps=total_steps + 1,
                pct_start=0.25 if total_steps == 4 else 0.2,  # at 5 × 0.2, torch divides by 0
                cycle_momentum=False,
            )
        elif config.schedule == "cosine":
            self.step_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                self.optimizer, total_steps + 1, eta_min=config.min_lr
            )

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
        if self.step_schedule:
            self.step_schedule.step()

    def end_epoch(self, accuracy: float) -> None:
        """Pass the epoch's accuracy to the schedule "plateau"."""
        if not self.step_schedule:
            self.plateau.step(accuracy)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed phase needs."""
        schedule = self.step_schedule or self.plateau
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "taken": self.steps_taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        (self.step_schedule or self.plateau).load_state_dict(state["schedule"])
        self.steps_taken = state["taken"]


def _build_optimizer(
    name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    optimizers = {"nadam": torch.optim.NAdam, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[name](parameters, lr, weight_decay=weight_decay)
