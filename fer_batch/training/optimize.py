"""Optimizer and learning-rate schedule of a training phase."""

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from fer_batch.train_config import TrainConfig

WARMUP_SHARE = 0.1
"""Share of the steps in which the rate of several workers rises from that of one worker."""


class PhaseOptimizer:
    """Takes the optimizer steps of one phase, with the learning-rate schedule of a configuration.

    `total_steps` is the number of steps of the whole phase. `scaler` scales the loss if the networks compute
    in float16, in which small gradients would be 0; a step whose scaled gradients overflow is left out.

    `workers` average their gradients. With `config.scale_lr`, the learning rate is multiplied by their number
    (Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv:1706.02677).
    """

    def __init__(
        self,
        config: TrainConfig,
        parameters: list[nn.Parameter],
        total_steps: int,
        *,
        workers: int = 1,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.scale = workers if config.scale_lr else 1
        config = dataclasses.replace(config, lr=config.lr * self.scale)
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.steps_taken, self.total_steps = 0, total_steps
        self.parameters, self.grad_clip = parameters, config.grad_clip
        self.optimizer = _build_optimizer(config, parameters)
        self.schedule = _build_schedule(config, self.optimizer, total_steps)
        rises = config.schedule == "onecycle"  # this schedule has a warm-up of its own
        steps = 0 if rises or self.scale == 1 else int(WARMUP_SHARE * total_steps)
        self.warmup = LinearLR(self.optimizer, 1 / self.scale, total_iters=steps) if steps else None

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`, clip their norm, and take one step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps_taken += 1
        self._step_schedules()

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
            "scaler": self.scaler.state_dict(),
            "warmup": self.warmup.state_dict() if self.warmup else None,
            "total": self.total_steps,
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, perhaps with another number of workers."""
        if state["scaler"]:  # empty if it was not used
            self.scaler.load_state_dict(state["scaler"])
        if (state["total"], state["scale"]) != (self.total_steps, self.scale):
            self._continue_with_other_steps(state)
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.warmup:
            self.warmup.load_state_dict(state["warmup"])
        self.steps_taken = state["taken"]

    def _step_schedules(self) -> None:
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        if self.warmup:
            self.warmup.step()

    def _continue_with_other_steps(self, state: dict[str, Any]) -> None:
        """Continue at the same share of the phase: other workers take another number of steps."""
        options = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        full = options[0]["initial_lr"] if self.warmup else options[0]["lr"]
        self.optimizer.load_state_dict(state["optimizer"])
        lowered = (self.lr / (state["scale"] * _compute_rise(state["warmup"]))) / (full / self.scale)
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)
        self.steps_taken = round(state["taken"] * self.total_steps / state["total"])
        # The schedules warn that the optimizer of this process has taken no step.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            for _ in range(self.steps_taken):
                self._step_schedules()
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.load_state_dict(state["schedule"])
            for group in self.optimizer.param_groups:
                group["lr"] *= lowered


def _compute_rise(warmup: dict[str, Any] | None) -> float:
    """Return the share of the learning rate that a warm-up with this state has reached."""
    if warmup is None:
        return 1.0
    start = float(warmup["start_factor"])
    return start + (1 - start) * min(1.0, warmup["last_epoch"] / warmup["total_iters"])


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
