"""Figures of classification, against values by hand and against each other."""

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from fer_batch.errors import InputError
from fer_batch.evaluation.metrics import (
    bootstrap_intervals,
    confusion,
    losses,
    measure,
    of_confusions,
    paired_difference,
    per_class,
    row_normalised,
    top1,
)

CLASSES = ("a", "b", "c")
NONE = np.zeros((0, 3)), np.zeros(0, np.int64)


def answers(predicted: list[int], width: int = 3, confidence: float = 0.8) -> np.ndarray:
    """Probabilities that answer so, the rest shared by the other classes."""
    probs = np.full((len(predicted), width), (1 - confidence) / (width - 1))
    probs[np.arange(len(predicted)), predicted] = confidence
    return probs


def drawn(count: int, width: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is perfectly calibrated, and labels drawn from them."""
    random = np.random.default_rng(seed)
    probs = random.dirichlet(np.full(width, 0.3), count)
    labels = (random.random((count, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return probs, np.minimum(labels, width - 1)


def test_without_examples_there_is_nothing_to_say() -> None:
    with pytest.raises(InputError, match="no labelled examples"):
        measure(*NONE, CLASSES)
    assert confusion(*NONE).tolist() == [[0] * 3] * 3
    assert {k: v.tolist() for k, v in per_class(*NONE).items()} == {
        "precision": [0] * 3, "recall": [0] * 3, "f1": [0] * 3,
    }  # fmt: skip
    assert losses(*NONE).shape == (0,)
    assert bootstrap_intervals(*NONE) == {}
    assert [part.shape for part in top1(NONE[0])] == [(0,), (0,)]


@pytest.mark.parametrize(
    ("labels", "predicted", "counts", "expected"),
    [
        ([0], [0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]], {"accuracy": 1, "balanced_accuracy": 1, "macro_f1": 1}),
        ([0], [1], [[0, 1, 0], [0, 0, 0], [0, 0, 0]], {"accuracy": 0, "balanced_accuracy": 0, "macro_f1": 0}),
        # a: 3 of 4 right; b: 1 of 2; c: 0 of 1. F1: 6/8, 2/4, 0
        (
            [0, 0, 0, 0, 1, 1, 2],
            [0, 0, 0, 1, 1, 2, 0],
            [[3, 1, 0], [0, 1, 1], [1, 0, 0]],
            {"accuracy": 4 / 7, "balanced_accuracy": 1.25 / 3, "macro_f1": 1.25 / 3},
        ),
        # c has no examples and counts in no mean, though it is answered once
        (
            [0, 0, 1, 1],
            [0, 2, 1, 1],
            [[1, 0, 1], [0, 2, 0], [0, 0, 0]],
            {"accuracy": 0.75, "balanced_accuracy": 0.75, "macro_f1": (2 / 3 + 1) / 2},
        ),
    ],
)
def test_figures_are_those_by_hand(
    labels: list[int], predicted: list[int], counts: list[list[int]], expected: dict[str, float]
) -> None:
    probs = answers(predicted)
    figures = measure(probs, np.array(labels), CLASSES)
    assert figures["confusion"] == counts
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert figures["n"] == len(labels)
    assert [figures["per_class"][name]["support"] for name in CLASSES] == [sum(row) for row in counts]
    resampled = {k: float(v[0]) for k, v in of_confusions(np.array([counts])).items()}
    assert resampled == pytest.approx(expected)


def test_the_scores_of_a_class_are_those_by_hand() -> None:
    labels, predicted = [0, 0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 2, 0]
    scores = measure(answers(predicted), np.array(labels), CLASSES)["per_class"]
    assert scores["a"] == pytest.approx({"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4})
    assert scores["b"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2})
    assert scores["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}


@pytest.mark.parametrize(
    ("probability", "loss"), [(1.0, 0.0), (0.5, math.log(2)), (0.25, math.log(4)), (0.0, 36.04)]
)
def test_the_loss_of_an_example_is_finite(probability: float, loss: float) -> None:
    probs = np.array([[probability, 1 - probability]], np.float32)
    assert losses(probs, np.array([0]))[0] == pytest.approx(loss, abs=0.01)


def test_rows_are_normalised_also_where_one_is_empty() -> None:
    assert row_normalised(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0, 0]]


def test_figures_agree_with_the_library() -> None:
    probs, labels = drawn(500)
    figures = measure(probs, labels, [f"class {i}" for i in range(7)])
    predicted = probs.argmax(axis=1)
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert figures["nll"] == pytest.approx(log_loss(labels, probs, labels=range(7)))
    resampled = {k: float(v[0]) for k, v in of_confusions(confusion(probs, labels)[None]).items()}
    assert resampled == pytest.approx({name: figures[name] for name in resampled})


def test_figures_survive_json_and_are_the_same_again() -> None:
    probs, labels = drawn(60)
    figures = measure(probs.astype(np.float32), labels, list("abcdefg"))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert measure(probs.astype(np.float32), labels, list("abcdefg")) == figures


def test_a_calibrated_model_is_found_to_be_one() -> None:
    probs, labels = drawn(4000)
    figures = measure(probs, labels, list("abcdefg"))
    assert figures["ece_debiased"] == pytest.approx(0, abs=0.008)
    assert figures["ece_debiased"] == figures["ece"] - figures["ece_expected"]
    table = figures["reliability"]
    assert sum(table["count"]) == 4000
    sharper = probs**2 / (probs**2).sum(axis=1, keepdims=True)
    assert measure(sharper, labels, list("abcdefg"))["ece_debiased"] > 0.05


def test_intervals_hold_the_figure_and_have_the_width_of_chance() -> None:
    probs, labels = drawn(1000)
    figures = measure(probs, labels, list("abcdefg"))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "nll"):
        low, high = figures["intervals"][name]
        assert low < figures[name] < high
    low, high = figures["intervals"]["accuracy"]
    accuracy = figures["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1000), rel=0.1)
    low, high = figures["intervals"]["nll"]
    assert high - low == pytest.approx(2 * 1.96 * losses(probs, labels).std() / math.sqrt(1000), rel=0.1)
    assert figures["intervals"].keys() == {"accuracy", "balanced_accuracy", "macro_f1", "ece", "nll"}


@pytest.mark.parametrize(("predicted", "interval"), [([0] * 5, [1, 1]), ([1] * 5, [0, 0])])
def test_where_all_is_alike_an_interval_is_a_point(predicted: list[int], interval: list[Any]) -> None:
    assert bootstrap_intervals(answers(predicted), np.zeros(5, np.int64))["accuracy"] == interval


def test_intervals_are_by_seed() -> None:
    probs, labels = drawn(50)
    intervals = [bootstrap_intervals(probs, labels, resamples=100, seed=seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]


def test_resampling_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels = drawn(50)
    whole = bootstrap_intervals(probs, labels, resamples=40)
    monkeypatch.setattr("fer_batch.evaluation.metrics.DRAWN_AT_ONCE", 350)
    parts = bootstrap_intervals(probs, labels, resamples=40)
    assert {k: pytest.approx(v) for k, v in whole.items()} == parts


def test_intervals_of_public_tests_size_take_seconds() -> None:
    probs, labels = drawn(3589)
    began = time.process_time()
    bootstrap_intervals(probs, labels)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("", "", (0.0, 0, 0, 1.0)),
        ("1010", "1010", (0.0, 0, 0, 1.0)),
        ("1100", "1111", (0.5, 0, 2, 0.5)),
        ("1111", "0111", (-0.25, 1, 0, 1.0)),
        ("0000001", "1111110", (5 / 7, 1, 6, 0.125)),
    ],
)
def test_pairs_of_answers(first: str, second: str, expected: tuple[float, int, int, float]) -> None:
    one, two = (np.array([c == "1" for c in text], bool) for text in (first, second))
    gap = paired_difference(one, two, np.array([f"S{i}" for i in range(len(first))], str))
    found = (gap["accuracy"], gap["only_first"], gap["only_second"], gap["p"])
    assert found == pytest.approx(expected)
    assert gap["interval"][0] <= gap["accuracy"] <= gap["interval"][1]


def test_the_interval_of_a_difference_takes_a_subject_as_one() -> None:
    one, two = np.zeros(100, bool), np.arange(100) < 50
    apart, alike = (
        paired_difference(one, two, subjects)["interval"]
        for subjects in (np.arange(100).astype(str), (np.arange(100) // 25).astype(str))
    )
    assert alike[1] - alike[0] > 2 * (apart[1] - apart[0])


def test_a_difference_of_many_examples_is_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    one, two = random.random((2, 60)) < 0.5
    whole = paired_difference(one, two, np.arange(60).astype(str))
    monkeypatch.setattr("fer_batch.evaluation.metrics.DRAWN_AT_ONCE", 250)
    assert paired_difference(one, two, np.arange(60).astype(str)) == whole
