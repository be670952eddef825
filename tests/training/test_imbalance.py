"""Class weights, losses and sampling against class imbalance."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.train_config import IMBALANCE
from fer_batch.training.imbalance import compute_class_weights, compute_expression_loss, draw_epoch_order

COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=7).filter(any)
WEIGHTING = ("sqrt", "weighted", "effective")


def logits_and_targets(seed: int = 0, count: int = 12, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    return logits, F.one_hot(torch.arange(count) % classes, classes).float()


@pytest.mark.parametrize(
    ("counts", "method", "weights"),
    [
        ([0, 0, 0], "none", [1, 1, 1]),
        ([0, 0, 0], "weighted", [1, 1, 1]),
        ([0, 0, 0], "effective", [1, 1, 1]),
        ([2, 1], "none", [1, 1]),
        ([4, 1], "weighted", [0.625, 2.5]),
        ([4, 1], "sqrt", [5 / 6, 10 / 6]),
        ([4, 1], "effective", [0.6254688, 2.4981248]),
        ([1, 1, 1], "sqrt", [1, 1, 1]),
        ([0, 0, 2], "weighted", [1, 1, 1]),
        ([4, 0, 1], "weighted", [0.625, 1, 2.5]),
        ([4, 1], "focal", [1, 1]),
        ([4, 1], "logit-adjustment", [1, 1]),
        ([4, 1], "balanced-sampling", [1, 1]),
    ],
)
def test_class_weights_of_each_method(counts: list[int], method: str, weights: list[float]) -> None:
    computed = compute_class_weights(np.array(counts), method)
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, weights, rtol=1e-6)


@given(COUNTS, st.sampled_from(IMBALANCE))
def test_the_mean_weight_of_the_examples_is_1(counts: list[int], method: str) -> None:
    weights = compute_class_weights(np.array(counts), method)
    np.testing.assert_allclose((weights * counts).sum() / sum(counts), 1, rtol=1e-5)
    assert (weights > 0).all()


@given(st.lists(st.integers(1, 500), min_size=2, max_size=7, unique=True).map(sorted))
def test_rarer_classes_have_larger_weights_by_a_power_of_the_frequency(counts: list[int]) -> None:
    for method, power in (("effective", None), ("sqrt", -0.5), ("weighted", -1.0)):
        weights = compute_class_weights(np.array(counts), method)
        assert (np.diff(weights) < 0).all()
        if power is not None:
            wanted = np.array(counts, float) ** power
            np.testing.assert_allclose(weights / weights[0], wanted / wanted[0], rtol=1e-4)


def test_the_effective_number_saturates_for_thousands_of_examples() -> None:
    weights = compute_class_weights(np.array([10, 20, 10_000, 20_000]), "effective")
    assert weights[0] / weights[1] > 1.9
    assert weights[2] / weights[3] < 1.001


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_without_a_method_is_cross_entropy(smoothing: float) -> None:
    logits, targets = logits_and_targets()
    loss = compute_expression_loss(logits, targets, np.array([9, 2, 1]), "none", smoothing)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets.argmax(1), label_smoothing=smoothing))


@pytest.mark.parametrize("method", WEIGHTING)
def test_a_weighted_loss_is_the_weighted_mean_over_the_examples(method: str) -> None:
    logits, targets = logits_and_targets()
    counts = np.array([9, 2, 1])
    each = F.cross_entropy(logits, targets.argmax(1), reduction="none")
    wanted = (each * torch.from_numpy(compute_class_weights(counts, method))[targets.argmax(1)]).mean()
    torch.testing.assert_close(compute_expression_loss(logits, targets, counts, method), wanted)


def test_focal_loss_is_smaller_for_easy_examples() -> None:
    counts, targets = np.array([1, 1]), torch.tensor([[1.0, 0.0]])
    for p in (0.1, 0.5, 0.9):
        logits = torch.tensor([[p, 1 - p]]).log()
        loss = compute_expression_loss(logits, targets, counts, "focal")
        assert loss.item() == pytest.approx(-((1 - p) ** 2) * np.log(p), rel=1e-4)


def test_logit_adjustment_adds_the_log_of_the_class_share() -> None:
    logits, targets = logits_and_targets()
    counts = np.array([6, 3, 1])
    wanted = F.cross_entropy(logits + torch.tensor([0.6, 0.3, 0.1]).log(), targets.argmax(1))
    torch.testing.assert_close(compute_expression_loss(logits, targets, counts, "logit-adjustment"), wanted)


@given(COUNTS, st.sampled_from(IMBALANCE), st.floats(0, 0.5), st.integers(0, 99))
def test_losses_are_finite_and_not_negative(
    counts: list[int], method: str, smoothing: float, seed: int
) -> None:
    logits, targets = logits_and_targets(seed, classes=len(counts))
    loss = compute_expression_loss(10 * logits.requires_grad_(), targets, np.array(counts), method, smoothing)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert logits.grad.isfinite().all()


@given(
    st.lists(st.integers(0, 4), max_size=60),
    st.sampled_from([m for m in IMBALANCE if m != "balanced-sampling"]),
    st.integers(0, 99),
)
def test_each_example_occurs_once_in_an_epoch(labels: list[int], method: str, seed: int) -> None:
    order = draw_epoch_order(np.array(labels, np.int64), 5, method, np.random.default_rng(seed))
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(labels)))


@pytest.mark.parametrize(
    ("counts", "classes"), [([], 2), ([50], 1), ([950, 50], 2), ([900, 0, 90, 10], 4), ([333, 333, 334], 3)]
)
def test_balanced_sampling_draws_all_classes_equally_often(counts: list[int], classes: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    order = draw_epoch_order(labels, classes, "balanced-sampling", np.random.default_rng(0))
    assert order.dtype == np.int64
    assert len(order) == len(labels)
    present = [number for number, count in enumerate(counts) if count]
    drawn = np.bincount(labels[order], minlength=classes)
    assert all(abs(drawn[c] - len(labels) / len(present)) <= 4 * np.sqrt(len(labels)) / 2 for c in present)


@pytest.mark.parametrize("method", ["none", "balanced-sampling"])
def test_the_order_depends_on_the_seed_only(method: str) -> None:
    labels = np.arange(50) % 4
    first, again, other = (
        draw_epoch_order(labels, 4, method, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
