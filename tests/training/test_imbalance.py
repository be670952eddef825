"""Class weights: rare classes count for more, and the loss keeps its scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.config import CLASS_WEIGHTS
from fer_batch.errors import ConfigError
from fer_batch.training.imbalance import class_weights


@pytest.mark.parametrize(
    ("labels", "classes", "method", "weights"),
    [
        ([], 3, "none", [1, 1, 1]),
        ([], 3, "sqrt", [1, 1, 1]),
        ([], 3, "balanced", [1, 1, 1]),
        ([0, 0, 1], 2, "none", [1, 1]),
        ([0, 0, 0, 0, 1], 2, "balanced", [0.625, 2.5]),
        ([0, 0, 0, 0, 1], 2, "sqrt", [5 / 6, 10 / 6]),
        ([0, 1, 2], 3, "sqrt", [1, 1, 1]),
        ([2, 2], 3, "balanced", [1, 1, 1]),
        ([0, 0, 0, 0, 2], 3, "balanced", [0.625, 1, 2.5]),
    ],
)
def test_known_weights(labels: list[int], classes: int, method: str, weights: list[float]) -> None:
    made = class_weights(np.array(labels, np.int64), classes, method)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, weights, rtol=1e-6)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.sampled_from(CLASS_WEIGHTS))
def test_the_mean_over_the_examples_is_1(labels: list[int], method: str) -> None:
    weights = class_weights(np.array(labels), 7, method)
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-5)
    assert (weights > 0).all()


@given(st.lists(st.integers(1, 500), min_size=2, max_size=7))
def test_the_rarer_a_class_the_more_it_counts(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    for method, power in (("sqrt", -0.5), ("balanced", -1.0)):
        weights = class_weights(labels, len(counts), method)
        wanted = np.array(counts, float) ** power
        np.testing.assert_allclose(weights / weights[0], wanted / wanted[0], rtol=1e-4)


@pytest.mark.parametrize("method", ["", "Balanced", "focal"])
def test_an_unknown_method_is_refused_with_those_allowed(method: str) -> None:
    with pytest.raises(ConfigError, match=f"'{method}'; allowed are none, sqrt, balanced"):
        class_weights(np.array([0]), 2, method)
