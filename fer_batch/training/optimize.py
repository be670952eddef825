"""Optimizer and learning-rate schedule of a phase of training."""

from typing import Any

import torch
from torch import Tensor, nn

from fer_batch.config import TrainConfig
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.training.datasets import Clips


class Stepper:
    """Takes the steps of one phase, "stills" (a pass over frames) or "sequences" (a pass over clips)."""

    def __init__(
        self, config: TrainConfig, phase: str, network: CnnBiLstm, training: Clips, world: int
    ) -> None:
        self.taken = 0
        self.units = len(training.frames) if phase == "stills" else len(training)
        self.steps = steps = max(1, self.units // world // config.batch_size)
        if phase == "stills":
            epochs, top = config.epochs, config.lr
            self.parameters = list(network.parameters())
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters, top, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
            )
        else:
            epochs, top = config.sequence_epochs, config.sequence_lr
            self.parameters = [p for n, p in network.named_parameters() if not n.startswith("encoder.")]
            self.optimizer = torch.optim.AdamW(self.parameters, top, weight_decay=0.01)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "max", factor=0.5, patience=3
        )
        self.each_step: torch.optim.lr_scheduler.LRScheduler | None = None
        if config.schedule == "onecycle":
            self.each_step = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, top, total_steps=epochs * steps + 1, pct_start=0.2, cycle_momentum=False
            )
        elif config.schedule == "cosine":
            self.each_step = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs * steps + 1)

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        self.taken += 1
        if self.each_step:
            self.each_step.step()

    def epoch_done(self, score: float) -> None:
        if not self.each_step:
            self.plateau.step(score)

    def state_dict(self) -> dict[str, Any]:
        schedule = self.each_step or self.plateau
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        (self.each_step or self.plateau).load_state_dict(state["schedule"])
        self.taken = state["taken"]
