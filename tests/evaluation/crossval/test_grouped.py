"""Answers against each other: what a leak is worth, and what chance in the choice of people makes."""

import numpy as np
import pytest

from fer_batch.evaluation.crossval.grouped import Answers, grouped_intervals, means, spread, worth


def answers_of(right: str, groups: list[str] | None = None, runs: list[int] | None = None) -> Answers:
    """Of examples of two classes in turn, which of them ("1") are answered right."""
    count = len(right)
    labels = np.arange(count) % 2
    chosen = np.where([c == "1" for c in right], labels, 1 - labels)
    return Answers(
        probs=np.eye(2)[chosen],
        labels=labels,
        groups=np.array(groups if groups is not None else [f"S{i}" for i in range(count)], str),
        runs=np.array(runs if runs is not None else [0] * count, np.int64),
    )


@pytest.mark.parametrize(
    ("first", "second", "gap"), [("1111", "1111", 0.0), ("1111", "1100", 0.5), ("0011", "111111", -0.5)]
)
def test_what_the_first_has_right_above_the_second(first: str, second: str, gap: float) -> None:
    found = worth(answers_of(first), answers_of(second))
    assert found["accuracy"] == pytest.approx(gap)
    assert found["macro_f1"] == pytest.approx(gap)  # both classes alike
    assert found["accuracy_runs"] == {"mean": pytest.approx(gap), "sd": 0.0}
    for name in ("accuracy", "macro_f1"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    if first == second:
        assert found["accuracy_interval"] == [0.0, 0.0]  # the same people are drawn for both


def test_figures_are_means_over_runs_whatever_their_sizes() -> None:
    both = answers_of("1111" + "10", runs=[3, 3, 3, 3, 5, 5])
    first, second = answers_of("1111"), answers_of("10")
    for name, value in means(both).items():
        assert value == pytest.approx((means(first)[name] + means(second)[name]) / 2)
    gaps = worth(both, answers_of("1111" + "11", runs=[3, 3, 3, 3, 5, 5]))
    assert gaps["accuracy"] == pytest.approx(-0.25)
    assert gaps["accuracy_runs"] == {"mean": pytest.approx(-0.25), "sd": pytest.approx(0.5**1.5)}


def test_intervals_take_a_group_as_one_and_repeats_of_an_example_as_nothing_new() -> None:
    right = "10" * 60
    alone = grouped_intervals(answers_of(right))
    groups = [f"S{i // 20}" for i in range(120)]
    runs = [0] * 120 + [1] * 120
    again = grouped_intervals(answers_of(right * 2, [f"S{i}" for i in range(120)] * 2, runs))
    alike = grouped_intervals(answers_of("1" * 60 + "0" * 60, groups))
    width = {name: high - low for name, (low, high) in alone.items()}
    assert alone["accuracy"][0] < means(answers_of(right))["accuracy"] == 0.5 < alone["accuracy"][1]
    assert again == {name: pytest.approx(ends) for name, ends in alone.items()}
    assert alike["accuracy"][1] - alike["accuracy"][0] > 2 * width["accuracy"]


@pytest.mark.parametrize(
    ("values", "mean", "sd"), [([0.5], 0.5, 0.0), ([0.0, 1.0], 0.5, 0.5**0.5), ([2.0, 2.0], 2.0, 0.0)]
)
def test_a_spread(values: list[float], mean: float, sd: float) -> None:
    assert spread(values) == {"mean": pytest.approx(mean), "sd": pytest.approx(sd)}
