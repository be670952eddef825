"""Optimizer and learning-rate schedule of a phase of training."""

from typing import Any

import torch
from torch import Tensor, nn

from fer_batch.config import TrainConfig


class Stepper:
    """Takes the `total_steps` of one phase over `parameters`, along `config`'s schedule."""

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
        self.taken = 0
        self.parameters, self.grad_clip = parameters, config.grad_clip
        self.optimizer = _optimizer(optimizer, parameters, lr, weight_decay)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            "max",
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            min_lr=config.min_lr,
        )
        self.each_step: torch.optim.lr_scheduler.LRScheduler | None = None
        if config.schedule == "onecycle":
            self.each_step = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer,
                lr,
                total_steps=total_steps + 1,
                pct_start=0.25 if total_steps == 4 else 0.2,  # at 5 × 0.2 torch divides by 0
                cycle_momentum=False,
            )
        elif config.schedule == "cosine":
            self.each_step = torch.optim.lr_scheduler.CosineAnnealingLR(
                self.optimizer, total_steps + 1, eta_min=config.min_lr
            )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> None:
        """Gradients of `loss`, clipped by their norm, and one step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.optimizer.step()
        self.taken += 1
        if self.each_step:
            self.each_step.step()

    def epoch_done(self, score: float) -> None:
        """Tell "plateau" how good the epoch was, higher is better."""
        if not self.each_step:
            self.plateau.step(score)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed phase needs."""
        schedule = self.each_step or self.plateau
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s answer."""
        self.optimizer.load_state_dict(state["optimizer"])
        (self.each_step or self.plateau).load_state_dict(state["schedule"])
        self.taken = state["taken"]


def _optimizer(name: str, parameters: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=decay)
    if name == "nadam":
        return torch.optim.NAdam(parameters, lr, weight_decay=decay)
    if name == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr, weight_decay=decay)
