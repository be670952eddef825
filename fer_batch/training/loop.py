"""The training loop that each worker runs, epoch by epoch.

The CNN-BiLSTM is trained in two phases. In the phase *stills*, the encoder and its head learn expressions
from single frames. In the phase *sequences*, every clip becomes a moving window in which expressions change;
the encoder and its head are frozen, and the LSTMs and the chain learn from neighbouring frames. Networks of
stills have the first phase only. Networks of whole clips have one phase, *clips*.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import nn

from fer_batch.data.clips import Clips
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.model.registry import build_network
from fer_batch.train_config import MIXED_HEAD, TrainConfig
from fer_batch.training.batches import BatchSource, ClipStream
from fer_batch.training.distill import predict_teachers
from fer_batch.training.head_mix import mix_heads
from fer_batch.training.initialize import build_initial_network, choose_architecture
from fer_batch.training.optimize import PhaseOptimizer
from fer_batch.training.predict import (
    choose_training_dtype,
    predict_log_probs,
    select_input_frames,
    sum_over_workers,
)
from fer_batch.training.state import EpochResult, StepProgress, TrainState, count_epochs_since_best
from fer_batch.training.step import TrainingModule, compute_loss

STILLS_PARTS = ("network.encoder", "network.crop_head", "votes_head", "other_heads")
"""Parts of the CNN-BiLSTM that the phase of stills trains; sequences train all others."""
SEQUENCES_WEIGHT_DECAY = 0.01
STEP_REPORT_S = 1.0
"""Seconds between two reports of steps."""


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """The device of a worker, and its rank among all workers."""

    device: torch.device
    rank: int = 0
    world: int = 1
    """Number of workers."""
    join: Callable[[nn.Module], nn.Module] = lambda module: module
    """Wraps a module so that all workers average its gradients."""


def train_network(
    config: TrainConfig,
    training: Clips,
    selection: Clips,
    context: WorkerContext,
    *,
    stream: ClipStream | None = None,
    state: TrainState | None = None,
    on_epoch: Callable[[TrainState], None] = lambda state: None,
    on_step: Callable[[StepProgress], None] = lambda progress: None,
) -> TrainState:
    """Train all phases of a network, and return the last state.

    `training` and `stream` are the clips to learn from, and `selection` measures each epoch; if it is empty,
    its metrics are NaN. `state` is an earlier state to continue from: on a CPU, an interrupted training ends
    with the same weights as an uninterrupted one. `on_epoch` receives the state after each epoch, and
    `on_step` the progress within an epoch about once a second.
    """
    name, architecture = choose_architecture(config, len(training.classes))
    if state:
        architecture = state.architecture
    history = list(state.history) if state else []
    ema = build_network(name, architecture)
    if state:
        ema.load_state_dict(state.ema)
    ema.to(context.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    kept = state.kept if state else None
    phases = [(ema.first_phase, config.epochs)]
    if isinstance(ema, CnnBiLstm):
        phases.append(("sequences", config.sequence_epochs))
    for phase, epochs in phases:
        is_first = phase == ema.first_phase
        if not epochs or (history and history[-1].phase == "sequences" and is_first):
            continue
        votes = config.votes if training.votes.any() else 0
        module = TrainingModule(
            build_initial_network(config, name, architecture, training.classes),
            phase,
            votes,
            max(len(config.head_names), 1),
        )
        if history:
            module.network.load_state_dict(ema.state_dict())
        module.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        taught = None
        if phase == "stills":
            taught = predict_teachers(
                config, training, context.device, rank=context.rank, world=context.world
            )
        batches = BatchSource(config, training, stream, phase, context.rank, context.world, taught)
        optimizer = _build_optimizer(config, module, epochs * batches.steps, context)
        if state and history and history[-1].phase == phase:
            module.load_state_dict(state.module)
            optimizer.load_state_dict(state.stepper)
        else:
            ema.load_state_dict(module.network.state_dict())
        trainer = _PhaseTrainer(config, module, context.join(module), optimizer, ema, batches, context)
        while not _is_phase_over(config, phase, epochs, history):
            began, lr, number = time.monotonic(), optimizer.lr, len(history) + 1
            loss, train_accuracy = trainer.train_epoch(number, on_step)
            select_loss, accuracy, macro_f1 = _measure_selection(ema, selection, config, context)
            optimizer.end_epoch(accuracy)
            history.append(
                EpochResult(
                    epoch=number,
                    phase=phase,
                    loss=loss,
                    train_accuracy=train_accuracy,
                    lr=lr,
                    select_loss=select_loss,
                    accuracy=accuracy,
                    macro_f1=macro_f1,
                    n=len(selection),
                    seconds=time.monotonic() - began,
                )
            )
            if config.early_stopping and is_first and count_epochs_since_best(history) == 0:
                kept = {name: value.detach().clone() for name, value in ema.state_dict().items()}
            state = TrainState(
                module=module.state_dict(),
                ema=ema.state_dict(),
                kept=kept,
                stepper=optimizer.state_dict(),
                history=list(history),
                network=name,
                architecture=architecture,
            )
            on_epoch(state)
        if is_first and kept is not None:
            ema.load_state_dict(kept)
        if is_first and config.ship_head == MIXED_HEAD:
            mix_heads(ema, module.other_heads, batches.counts, selection)
    assert state is not None, "a configuration has at least one epoch"
    return state


@dataclass(frozen=True)
class _PhaseTrainer:
    """The parts that one phase trains with."""

    config: TrainConfig
    module: TrainingModule
    model: nn.Module
    """`module`, joined with the copies of the other workers."""
    optimizer: PhaseOptimizer
    ema: Network
    batches: BatchSource
    context: WorkerContext

    def train_epoch(self, number: int, on_step: Callable[[StepProgress], None]) -> tuple[float, float]:
        """Train on all batches once; returns the mean loss and the accuracy over all workers."""
        config, phase, device = self.config, self.module.phase, self.context.device
        # A resumed epoch must draw the same numbers.
        seed = config.seed * 1_000_003 + (number - 1) * 1_009 + self.context.rank
        torch.manual_seed(seed)
        drawing = torch.Generator().manual_seed(seed)
        augmenting = torch.Generator(device).manual_seed(seed)
        random = np.random.default_rng(seed)
        self.model.train()
        if phase == "sequences":
            self.module.network.encoder.eval()
        # A step is as many examples as `scale` steps of one worker.
        decay = config.ema_decay**self.optimizer.scale
        totals = torch.zeros(4, device=device)  # loss, windows, correct frames, frames
        began, reported = time.monotonic(), 0.0
        for step, (windows, annotations) in enumerate(self.batches.draw_epoch(number - 1, drawing), start=1):
            loss, correct = compute_loss(
                config, phase, self.model, windows, annotations, self.batches.counts, augmenting, random
            )
            self.optimizer.step(loss)
            _update_average(self.ema, self.module.network, decay, self.optimizer.steps_taken)
            seen = torch.tensor([len(windows.labels), len(correct)], device=device)
            totals += torch.stack([loss.detach() * len(windows.labels), seen[0], correct.sum(), seen[1]])
            if time.monotonic() - reported > STEP_REPORT_S:
                reported = time.monotonic()
                rate = step * config.batch_size * self.context.world / (reported - began)
                on_step(StepProgress(epoch=number, step=step, steps=self.batches.steps, clips_per_s=rate))
        totals = sum_over_workers(totals)
        return float(totals[0] / totals[1]), float(totals[2] / totals[3])


def _is_phase_over(config: TrainConfig, phase: str, epochs: int, history: list[EpochResult]) -> bool:
    results = [row for row in history if row.phase == phase]
    if len(results) >= epochs:
        return True
    may_stop = config.early_stopping > 0 and phase != "sequences"
    return may_stop and count_epochs_since_best(results) >= config.early_stopping


def _build_optimizer(
    config: TrainConfig, module: TrainingModule, total_steps: int, context: WorkerContext
) -> PhaseOptimizer:
    trains_stills = module.phase != "sequences"
    trained = [
        parameter
        for name, parameter in module.named_parameters()
        if name.startswith(STILLS_PARTS) == trains_stills or not isinstance(module.network, CnnBiLstm)
    ]
    if not trains_stills:
        config = dataclasses.replace(
            config, optimizer="adamw", lr=config.sequence_lr, weight_decay=SEQUENCES_WEIGHT_DECAY
        )
    is_half = choose_training_dtype(context.device) == torch.float16
    scaler = torch.amp.GradScaler(context.device.type, enabled=is_half)
    return PhaseOptimizer(config, trained, total_steps, workers=context.world, scaler=scaler)


def _measure_selection(
    ema: Network, selection: Clips, config: TrainConfig, context: WorkerContext
) -> tuple[float, float, float]:
    """Measure the mean negative log likelihood, the accuracy and the macro-F1 on the selection split."""
    if not len(selection):
        return float("nan"), float("nan"), float("nan")
    # Batch norm sees other batches on each worker; a resumed run starts with the first worker's.
    if dist.is_initialized():
        for value in ema.state_dict().values():
            dist.broadcast(value, 0)
    frames = select_input_frames(ema, selection, config.window_length)
    log_probs = predict_log_probs(ema, frames, context.device, rank=context.rank, world=context.world)
    predicted = log_probs.argmax(axis=1)
    labels = range(len(selection.classes))
    return (
        float(log_loss(selection.labels, softmax(log_probs, axis=1), labels=labels)),
        float(accuracy_score(selection.labels, predicted)),
        float(f1_score(selection.labels, predicted, labels=labels, average="macro", zero_division=0)),
    )


@torch.no_grad()
def _update_average(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update the moving average of weights and batch-norm statistics; it moves faster at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    pairs = list(zip(ema.state_dict().values(), network.state_dict().values(), strict=True))
    floating = [(mean, value) for mean, value in pairs if mean.dtype.is_floating_point]
    torch._foreach_lerp_([mean for mean, _ in floating], [value for _, value in floating], 1 - decay)
    for mean, value in pairs:
        if not mean.dtype.is_floating_point:
            mean.copy_(value)
