"""Optimizers and schedules: each takes its steps, and a phase that is resumed takes the same ones."""

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from fer_batch.config import OPTIMIZERS, SCHEDULES, TrainConfig
from fer_batch.training.optimize import PhaseOptimizer


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([3.0, -2.0, 0.5]))


def stepping(
    point: nn.Parameter, *, total_steps: int = 20, optimizer: str = "sgd", lr: float = 0.1, **options: Any
) -> PhaseOptimizer:
    config = TrainConfig(data=(("fer2013", "fer2013.csv"),), **options)
    return PhaseOptimizer(
        config, [point], optimizer=optimizer, lr=lr, weight_decay=0.0, total_steps=total_steps
    )


def rates(stepper: PhaseOptimizer, point: nn.Parameter, steps: int) -> list[float]:
    """Take steps towards 0; the learning rate of each."""
    taken = []
    for _ in range(steps):
        taken.append(stepper.lr)
        stepper.step(point.square().sum())
    return taken


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_goes_down_along_each_schedule(optimizer: str, schedule: str) -> None:
    point = parameter()
    start = point.square().sum().item()
    stepper = stepping(point, optimizer=optimizer, schedule=schedule)
    rates(stepper, point, 20)
    assert stepper.taken == 20
    assert point.square().sum() < 0.9 * start


def test_optimizers_step_in_their_own_ways() -> None:
    ends = []
    for optimizer in OPTIMIZERS:
        point = parameter()
        stepper = PhaseOptimizer(
            TrainConfig(data=(("a", "b"),)),
            [point],
            optimizer=optimizer,
            lr=0.1,
            weight_decay=0.1,
            total_steps=9,
        )
        rates(stepper, point, 9)
        ends.append(tuple(point.tolist()))
    assert len(set(ends)) == len(OPTIMIZERS)


@pytest.mark.parametrize("steps", [*range(1, 9), 50])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_phase_of_any_length_has_a_learning_rate_for_each_step(schedule: str, steps: int) -> None:
    point = parameter()
    taken = rates(stepping(point, total_steps=steps, schedule=schedule), point, steps)
    assert len(taken) == steps
    assert all(0 < lr <= 0.1 for lr in taken)


def test_onecycle_rises_for_a_fifth_and_falls_to_next_to_nothing() -> None:
    point = parameter()
    taken = rates(stepping(point, total_steps=100), point, 100)
    top = taken.index(max(taken))
    assert 17 <= top <= 21
    assert taken[top] == pytest.approx(0.1, rel=0.01)
    assert taken[:top] == sorted(taken[:top])
    assert taken[top:] == sorted(taken[top:], reverse=True)
    assert taken[0] < 0.05 * taken[top]
    assert taken[-1] < 0.001 * taken[top]


def test_cosine_falls_from_the_highest_to_the_lowest() -> None:
    point = parameter()
    taken = rates(stepping(point, total_steps=100, schedule="cosine", min_lr=0.01), point, 100)
    wanted = [0.01 + 0.09 * (1 + math.cos(math.pi * step / 101)) / 2 for step in range(100)]
    assert taken == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_only_plateau_heeds_how_good_an_epoch_was(schedule: str) -> None:
    point = parameter()
    stepper = stepping(point, schedule=schedule, plateau_patience=0)
    before = stepper.lr
    for _ in range(4):
        stepper.epoch_done(0.1)
    assert stepper.lr == before


@pytest.mark.parametrize(
    ("scores", "patience", "rates"),
    [
        ([], 1, []),
        ([0.1, 0.2, 0.3, 0.4], 0, [0.1, 0.1, 0.1, 0.1]),
        ([0.5, 0.5, 0.4], 0, [0.1, 0.05, 0.025]),
        ([0.5, 0.4, 0.4, 0.4], 1, [0.1, 0.1, 0.05, 0.05]),
        ([0.5, 0.4, 0.6, 0.5, 0.5], 1, [0.1, 0.1, 0.1, 0.1, 0.05]),
        ([0.5] * 7, 0, [0.1, 0.05, 0.025, 0.02, 0.02, 0.02, 0.02]),
    ],
    ids=["no epochs", "better each time", "at once", "after patience", "patience anew", "to the lowest"],
)
def test_plateau_lowers_by_its_factor_after_its_patience(
    scores: list[float], patience: int, rates: list[float]
) -> None:
    stepper = stepping(parameter(), schedule="plateau", plateau_patience=patience, min_lr=0.02)
    after = []
    for score in scores:
        stepper.epoch_done(score)
        after.append(stepper.lr)
    assert after == pytest.approx(rates)


def test_a_step_is_no_longer_than_the_clipped_gradient() -> None:
    for clip, moved in ((1e-3, 1e-4), (1e9, 0.1 * 2e6)):
        point = nn.Parameter(torch.tensor([1e6]))
        stepper = stepping(point, schedule="plateau", grad_clip=clip)
        rates(stepper, point, 1)
        momentum = 1.9  # Nesterov's first step
        assert 1e6 - point.item() == pytest.approx(momentum * moved, rel=1e-2, abs=0.07)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_resumed_takes_the_same_steps(optimizer: str, schedule: str) -> None:
    def epochs(stepper: PhaseOptimizer, point: nn.Parameter, scores: list[float]) -> list[float]:
        taken = []
        for score in scores:
            taken += rates(stepper, point, 3)
            stepper.epoch_done(score)
        return taken

    options: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "plateau_patience": 1}
    whole = parameter()
    undisturbed = stepping(whole, **options)
    epochs(undisturbed, whole, [0.5, 0.4])
    file = io.BytesIO()
    torch.save({"point": whole.detach(), "stepper": undisturbed.state_dict()}, file)
    wanted = epochs(undisturbed, whole, [0.4, 0.4, 0.4])
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = nn.Parameter(state["point"])
    stepper = stepping(resumed, **options)
    stepper.load_state_dict(state["stepper"])
    assert stepper.taken == 6
    assert epochs(stepper, resumed, [0.4, 0.4, 0.4]) == wanted
    assert torch.equal(resumed, whole)
