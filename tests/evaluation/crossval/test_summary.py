"""Pooled predictions: differences between divisions, and intervals over resampled people."""

import numpy as np
import pytest

from fer_batch.evaluation.crossval.summary import (
    PooledPredictions,
    Spread,
    compare_divisions,
    measure_intervals,
    measure_spread,
)


def make_predictions(
    correct: str, groups: list[str] | None = None, seeds: list[int] | None = None
) -> PooledPredictions:
    """Return predictions for examples of two classes in turn; "1" marks the correct ones."""
    count = len(correct)
    labels = np.arange(count) % 2
    chosen = np.where([c == "1" for c in correct], labels, 1 - labels)
    return PooledPredictions(
        probs=np.eye(2)[chosen],
        labels=labels,
        groups=np.array(groups if groups is not None else [f"S{i}" for i in range(count)], str),
        seeds=np.array(seeds if seeds is not None else [0] * count, np.int64),
    )


@pytest.mark.parametrize(
    ("first", "second", "gap"), [("1111", "1111", 0.0), ("1111", "1100", 0.5), ("0011", "111111", -0.5)]
)
def test_gap_is_the_score_of_the_first_above_the_second(first: str, second: str, gap: float) -> None:
    gaps = compare_divisions(make_predictions(first), make_predictions(second))
    assert gaps["accuracy"].value == pytest.approx(gap)
    assert gaps["macro_f1"].value == pytest.approx(gap)  # both classes are equal
    assert gaps["accuracy"].runs == Spread(pytest.approx(gap), 0.0)
    for name in ("accuracy", "macro_f1"):
        low, high = gaps[name].interval
        assert low <= gaps[name].value <= high
    if first == second:
        assert gaps["accuracy"].interval == (0.0, 0.0)  # the same people are drawn for both


def test_gaps_are_means_over_repetitions_of_any_size() -> None:
    both = make_predictions("1111" + "10", seeds=[3, 3, 3, 3, 5, 5])
    first, second = make_predictions("1111"), make_predictions("10")
    for name, values in both.scores.items():
        assert values == pytest.approx([first.scores[name][0], second.scores[name][0]])
    gaps = compare_divisions(both, make_predictions("1111" + "11", seeds=[3, 3, 3, 3, 5, 5]))
    assert gaps["accuracy"].value == pytest.approx(-0.25)
    assert gaps["accuracy"].runs == Spread(pytest.approx(-0.25), pytest.approx(0.5**1.5))


def test_intervals_resample_groups_and_gain_nothing_from_repetitions() -> None:
    correct = "10" * 60
    alone = measure_intervals(make_predictions(correct))
    groups = [f"S{i // 20}" for i in range(120)]
    runs = [0] * 120 + [1] * 120
    again = measure_intervals(make_predictions(correct * 2, [f"S{i}" for i in range(120)] * 2, runs))
    grouped = measure_intervals(make_predictions("1" * 60 + "0" * 60, groups))
    width = {name: high - low for name, (low, high) in alone.items()}
    assert alone["accuracy"][0] < 0.5 < alone["accuracy"][1]
    assert again == {name: pytest.approx(ends) for name, ends in alone.items()}
    assert grouped["accuracy"][1] - grouped["accuracy"][0] > 2 * width["accuracy"]


@pytest.mark.parametrize(
    ("values", "mean", "sd"), [([0.5], 0.5, 0.0), ([0.0, 1.0], 0.5, 0.5**0.5), ([2.0, 2.0], 2.0, 0.0)]
)
def test_spread_is_mean_and_standard_deviation(values: list[float], mean: float, sd: float) -> None:
    assert measure_spread(values) == Spread(pytest.approx(mean), pytest.approx(sd))
