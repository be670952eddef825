"""Optimizers and schedules, and resuming them."""

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from fer_batch.train_config import OPTIMIZERS, SCHEDULES, TrainConfig
from fer_batch.training.optimize import PhaseOptimizer


def make_parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([3.0, -2.0, 0.5]))


def make_optimizer(
    point: nn.Parameter, *, total_steps: int = 20, workers: int = 1, **options: Any
) -> PhaseOptimizer:
    config = TrainConfig(data=(("fer2013", "fer2013.csv"),), **{"weight_decay": 0.0} | options)
    return PhaseOptimizer(config, [point], total_steps, workers=workers)


def take_steps(phase: PhaseOptimizer, point: nn.Parameter, steps: int) -> list[float]:
    """Take steps towards 0, and return the learning rate of each."""
    taken = []
    for _ in range(steps):
        taken.append(phase.lr)
        phase.step(point.square().sum())
    return taken


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_optimizer_reduces_the_loss_by_different_steps(schedule: str) -> None:
    ends = []
    for optimizer in OPTIMIZERS:
        point = make_parameter()
        start = point.square().sum().item()
        phase = make_optimizer(point, optimizer=optimizer, schedule=schedule, weight_decay=0.1)
        take_steps(phase, point, 20)
        assert phase.steps_taken == 20
        assert point.square().sum() < 0.9 * start
        ends.append(tuple(point.tolist()))
    assert len(set(ends)) == len(OPTIMIZERS)


@pytest.mark.parametrize("steps", [*range(1, 9), 50])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_work_for_phases_of_any_length(schedule: str, steps: int) -> None:
    point = make_parameter()
    taken = take_steps(make_optimizer(point, total_steps=steps, schedule=schedule), point, steps)
    assert len(taken) == steps
    assert all(0 < lr <= 0.1 for lr in taken)


def test_onecycle_rises_for_a_fifth_of_the_steps_and_falls_to_almost_0() -> None:
    point = make_parameter()
    taken = take_steps(make_optimizer(point, total_steps=100), point, 100)
    top = taken.index(max(taken))
    assert 17 <= top <= 21
    assert taken[top] == pytest.approx(0.1, rel=0.01)
    assert taken[:top] == sorted(taken[:top])
    assert taken[top:] == sorted(taken[top:], reverse=True)
    assert taken[0] < 0.05 * taken[top]
    assert taken[-1] < 0.001 * taken[top]


def test_cosine_falls_to_the_lowest_learning_rate() -> None:
    point = make_parameter()
    taken = take_steps(make_optimizer(point, total_steps=100, schedule="cosine", min_lr=0.01), point, 100)
    wanted = [0.01 + 0.09 * (1 + math.cos(math.pi * step / 101)) / 2 for step in range(100)]
    assert taken == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_other_schedules_than_plateau_ignore_the_accuracy(schedule: str) -> None:
    point = make_parameter()
    phase = make_optimizer(point, schedule=schedule, plateau_patience=0)
    before = phase.lr
    for _ in range(4):
        phase.end_epoch(0.1)
    assert phase.lr == before


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
    ids=["no epochs", "always better", "no patience", "patience", "patience restarts", "lowest rate"],
)
def test_plateau_lowers_the_learning_rate_after_its_patience(
    scores: list[float], patience: int, rates: list[float]
) -> None:
    phase = make_optimizer(make_parameter(), schedule="plateau", plateau_patience=patience, min_lr=0.02)
    after = []
    for score in scores:
        phase.end_epoch(score)
        after.append(phase.lr)
    assert after == pytest.approx(rates)


def test_the_norm_of_the_gradient_is_clipped() -> None:
    for clip, moved in ((1e-3, 1e-4), (1e9, 0.1 * 2e6)):
        point = nn.Parameter(torch.tensor([1e6]))
        phase = make_optimizer(point, schedule="plateau", grad_clip=clip)
        take_steps(phase, point, 1)
        momentum = 1.9  # Nesterov's first step
        assert 1e6 - point.item() == pytest.approx(momentum * moved, rel=1e-2, abs=0.07)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_phase_takes_the_same_steps(optimizer: str, schedule: str) -> None:
    def epochs(phase: PhaseOptimizer, point: nn.Parameter, scores: list[float]) -> list[float]:
        taken = []
        for score in scores:
            taken += take_steps(phase, point, 3)
            phase.end_epoch(score)
        return taken

    options: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "plateau_patience": 1}
    whole = make_parameter()
    uninterrupted = make_optimizer(whole, **options)
    epochs(uninterrupted, whole, [0.5, 0.4])
    file = io.BytesIO()
    torch.save({"point": whole.detach(), "phase": uninterrupted.state_dict()}, file)
    wanted = epochs(uninterrupted, whole, [0.4, 0.4, 0.4])
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = nn.Parameter(state["point"])
    phase = make_optimizer(resumed, **options)
    phase.load_state_dict(state["phase"])
    assert phase.steps_taken == 6
    assert epochs(phase, resumed, [0.4, 0.4, 0.4]) == wanted
    assert torch.equal(resumed, whole)


def test_a_scaled_loss_gives_the_same_steps_and_leaves_out_those_that_overflow() -> None:
    ends = []
    for enabled in (False, True):
        point = make_parameter()
        phase = make_optimizer(point)
        phase.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, enabled=enabled)
        take_steps(phase, point, 3)
        ends.append(point.detach().clone())
        if enabled:
            before, scale = point.detach().clone(), phase.scaler.get_scale()
            phase.step(point.sum() * 1e20)  # its scaled gradients are infinite
            assert torch.equal(point, before)
            assert phase.scaler.get_scale() == scale / 2
            state, other = phase.state_dict(), make_optimizer(make_parameter())
            other.scaler = torch.amp.GradScaler("cpu")
            other.load_state_dict(state)
            assert other.scaler.get_scale() == scale / 2
    assert torch.equal(*ends)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_several_workers_multiply_the_learning_rate_and_let_it_rise(schedule: str) -> None:
    point = make_parameter()
    alone = take_steps(make_optimizer(point, total_steps=100, schedule=schedule), point, 100)
    options: dict[str, Any] = {"total_steps": 100, "schedule": schedule, "workers": 8}
    together, unscaled = (
        take_steps(make_optimizer(point, scale_lr=scale_lr, **options), point, 100)
        for scale_lr in (True, False)
    )
    assert unscaled == alone
    assert max(together) == pytest.approx(8 * max(alone), rel=0.03)
    assert together[0] == pytest.approx(alone[0] * (8 if schedule == "onecycle" else 1))
    assert together[:10] == sorted(together[:10])
    assert together[20:99] == pytest.approx([8 * lr for lr in alone[20:99]], rel=0.01, abs=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_a_phase_continues_with_another_number_of_workers(schedule: str, before: int, after: int) -> None:
    """Half of the phase with some workers, half with others, whose steps are larger or smaller."""
    options: dict[str, Any] = {"schedule": schedule, "optimizer": "adamw", "plateau_patience": 0}
    first = make_optimizer(point := make_parameter(), total_steps=80 // before, workers=before, **options)
    take_steps(first, point, 40 // before)
    first.end_epoch(0.5)
    first.end_epoch(0.4)  # "plateau" halves the rate
    second = make_optimizer(point, total_steps=80 // after, workers=after, **options)
    second.load_state_dict(first.state_dict())
    assert second.steps_taken == 40 // after
    assert second.lr / after == pytest.approx(first.lr / before, rel=0.1)
    kept = second.optimizer.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(kept, first.optimizer.state_dict()["state"][0]["exp_avg"])
    rates = take_steps(second, point, 40 // after)
    if schedule == "plateau":
        assert rates[-1] == pytest.approx(after * 0.05)
    whole = make_optimizer(make_parameter(), total_steps=80 // after, workers=after, **options)
    if schedule != "plateau":
        assert rates == pytest.approx(
            take_steps(whole, make_parameter(), 80 // after)[40 // after :], rel=1e-6
        )


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 1), (1, 4)])
def test_plateau_continues_its_warm_up_with_another_number_of_workers(before: int, after: int) -> None:
    options: dict[str, Any] = {"schedule": "plateau", "plateau_patience": 0}
    first = make_optimizer(point := make_parameter(), total_steps=400 // before, workers=before, **options)
    take_steps(first, point, 20 // before)  # half of the warm-up
    first.end_epoch(0.5)
    first.end_epoch(0.4)  # halves the rate
    second = make_optimizer(point, total_steps=400 // after, workers=after, **options)
    second.load_state_dict(first.state_dict())
    rates = take_steps(second, point, 380 // after)
    assert rates[0] == pytest.approx(0.05 * (after + 1) / 2)
    assert rates[-1] == pytest.approx(0.05 * after)
