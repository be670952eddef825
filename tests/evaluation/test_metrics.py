"""Metrics of classification, against values by hand, scikit-learn, and each other."""

import json
import math
import time

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from fer_batch.errors import InputError
from fer_batch.evaluation.metrics import (
    ClassScores,
    bootstrap_intervals,
    compare_pairs,
    measure,
    negative_log_likelihoods,
    normalize_rows,
)

CLASSES = ("a", "b", "c")
EMPTY = np.zeros((0, 3)), np.zeros(0, np.int64)
ACCURACY_INTERVAL = (0.478, 0.564)
NLL_INTERVAL = (1.0932482418561502, 1.2481928179987118)


def predict(predicted: list[int], width: int = 3, confidence: float = 0.8) -> np.ndarray:
    """Return probabilities with these predictions; the other classes share the rest."""
    probs = np.full((len(predicted), width), (1 - confidence) / (width - 1))
    probs[np.arange(len(predicted)), predicted] = confidence
    return probs


def draw(count: int, width: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of a perfectly calibrated model, and labels drawn from them."""
    random = np.random.default_rng(seed)
    probs = random.dirichlet(np.full(width, 0.3), count)
    labels = (random.random((count, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return probs, np.minimum(labels, width - 1)


def test_no_examples_have_no_metrics() -> None:
    with pytest.raises(InputError, match="no labelled examples"):
        measure(*EMPTY, CLASSES)


@pytest.mark.parametrize(
    ("labels", "predicted", "counts", "expected"),
    [
        ([0], [0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]], (1, 1, 1)),
        ([0], [1], [[0, 1, 0], [0, 0, 0], [0, 0, 0]], (0, 0, 0)),
        # a: 3 of 4 correct; b: 1 of 2; c: 0 of 1. F1: 6/8, 2/4, 0
        (
            [0, 0, 0, 0, 1, 1, 2],
            [0, 0, 0, 1, 1, 2, 0],
            [[3, 1, 0], [0, 1, 1], [1, 0, 0]],
            (4 / 7, 1.25 / 3, 1.25 / 3),
        ),
        # c has no examples and counts in no mean, though it is predicted once
        ([0, 0, 1, 1], [0, 2, 1, 1], [[1, 0, 1], [0, 2, 0], [0, 0, 0]], (0.75, 0.75, (2 / 3 + 1) / 2)),
    ],
)
def test_metrics_match_values_by_hand(
    labels: list[int], predicted: list[int], counts: list[list[int]], expected: tuple[float, float, float]
) -> None:
    metrics = measure(predict(predicted), np.array(labels), CLASSES)
    assert metrics.confusion.tolist() == counts
    assert (metrics.accuracy, metrics.balanced_accuracy, metrics.macro_f1) == pytest.approx(expected)
    assert metrics.n == len(labels)
    assert [metrics.per_class[name].support for name in CLASSES] == [sum(row) for row in counts]
    if len(labels) == 7:
        assert metrics.per_class == {
            "a": ClassScores(precision=0.75, recall=0.75, f1=0.75, support=4),
            "b": ClassScores(precision=0.5, recall=0.5, f1=0.5, support=2),
            "c": ClassScores(precision=0, recall=0, f1=0, support=1),
        }


@pytest.mark.parametrize(
    ("probability", "loss"), [(1.0, 0.0), (0.5, math.log(2)), (0.25, math.log(4)), (0.0, 36.04)]
)
def test_loss_of_an_example_is_finite(probability: float, loss: float) -> None:
    probs = np.array([[probability, 1 - probability]], np.float32)
    assert negative_log_likelihoods(probs, np.array([0]))[0] == pytest.approx(loss, abs=0.01)


def test_rows_are_normalized_also_if_one_is_empty() -> None:
    assert normalize_rows(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0, 0]]


def test_metrics_agree_with_scikit_learn() -> None:
    probs, labels = draw(500)
    metrics = measure(probs, labels, [f"class {i}" for i in range(7)])
    predicted = probs.argmax(axis=1)
    assert metrics.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert metrics.nll == pytest.approx(log_loss(labels, probs, labels=range(7)))


def test_metrics_are_plain_values_in_json_and_repeatable() -> None:
    probs, labels = draw(60)
    first, second = (measure(probs.astype(np.float32), labels, list("abcdefg")).to_dict() for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second


def test_intervals_contain_the_metric_and_have_the_width_of_chance() -> None:
    probs, labels = draw(1000)
    metrics = measure(probs, labels, list("abcdefg"))
    assert metrics.ece_debiased == metrics.ece - metrics.ece_expected
    assert metrics.reliability.count.sum() == 1000
    assert metrics.intervals.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "ece", "nll"}
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll"):
        low, high = metrics.intervals[name]
        assert low < getattr(metrics, name) < high
    variance = metrics.accuracy * (1 - metrics.accuracy)
    deviations = {"accuracy": math.sqrt(variance), "nll": negative_log_likelihoods(probs, labels).std()}
    for name, deviation in deviations.items():
        low, high = metrics.intervals[name]
        assert high - low == pytest.approx(2 * 1.96 * deviation / math.sqrt(1000), rel=0.1)


@pytest.mark.parametrize(("predicted", "interval"), [([0] * 5, (1, 1)), ([1] * 5, (0, 0))])
def test_interval_of_equal_examples_is_a_point(predicted: list[int], interval: tuple[float, float]) -> None:
    assert bootstrap_intervals(predict(predicted), np.zeros(5, np.int64))["accuracy"] == interval


def test_documented_intervals_do_not_change() -> None:
    """The seeds of the model card must give the same numbers in later versions."""
    probs, labels = draw(500)
    intervals = bootstrap_intervals(probs, labels)
    assert intervals != bootstrap_intervals(probs, labels, seed=1)
    assert intervals["accuracy"] == pytest.approx(ACCURACY_INTERVAL, abs=1e-12)
    assert intervals["nll"] == pytest.approx(NLL_INTERVAL, abs=1e-12)


def test_intervals_of_a_large_split_take_seconds() -> None:
    probs, labels = draw(3589)
    started = time.process_time()
    bootstrap_intervals(probs, labels)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("1010", "1010", (0.0, 0, 0, 1.0)),
        ("1100", "1111", (0.5, 0, 2, 0.5)),
        ("1111", "0111", (-0.25, 1, 0, 1.0)),
        ("0000001", "1111110", (5 / 7, 1, 6, 0.125)),
    ],
)
def test_pairs_are_compared(first: str, second: str, expected: tuple[float, int, int, float]) -> None:
    one, two = (np.array([c == "1" for c in text], bool) for text in (first, second))
    gap = compare_pairs(one, two, np.array([f"S{i}" for i in range(len(first))], str))
    assert (gap.accuracy, gap.only_first, gap.only_second, gap.p) == pytest.approx(expected)
    assert gap.interval[0] <= gap.accuracy <= gap.interval[1]


def test_interval_of_a_difference_resamples_subjects_as_a_whole() -> None:
    one, two = np.zeros(100, bool), np.arange(100) < 50
    separate, grouped = (
        compare_pairs(one, two, subjects).interval
        for subjects in (np.arange(100).astype(str), (np.arange(100) // 25).astype(str))
    )
    assert grouped[1] - grouped[0] > 2 * (separate[1] - separate[0])
