"""Calibration: bins as defined, ECE by hand, and what chance alone makes of a perfect model."""

import numpy as np
import pytest

from fer_batch.evaluation.calibration import BINS, bin_of, ece, expected_ece, reliability


@pytest.mark.parametrize(
    ("confidence", "place"),
    [(0.0, 0), (1e-9, 0), (0.06, 0), (0.07, 1), (0.2, 2), (0.2000001, 3), (0.5, 7), (0.999, 14), (1.0, 14)],
)
def test_a_bin_is_open_below_and_closed_above(confidence: float, place: int) -> None:
    assert bin_of(np.array([confidence])).tolist() == [place]


@pytest.mark.parametrize(
    ("confidence", "correct", "error"),
    [
        ([], [], 0.0),
        ([1.0], [True], 0.0),
        ([1.0], [False], 1.0),
        ([0.75, 0.75, 0.75, 0.75], [True, True, True, False], 0.0),
        ([0.75, 0.75, 0.75, 0.75], [True, True, False, False], 0.25),
        # two bins: a gap of 0.4 for one of four, of 0.1 for three of four
        ([0.4, 0.9, 0.9, 0.9], [False, True, True, True], 0.25 * 0.4 + 0.75 * 0.1),
        # in one bin over and under cancel out
        ([0.94, 0.98], [True, True], 0.04),
        ([0.5, 0.5], [True, False], 0.0),
    ],
)
def test_ece_is_the_mean_gap_of_the_bins(confidence: list[float], correct: list[bool], error: float) -> None:
    assert ece(np.array(confidence), np.array(correct, bool)) == pytest.approx(error, abs=1e-12)


def test_the_table_counts_every_prediction_once() -> None:
    table = reliability(np.array([0.4, 0.9, 0.92, 0.4, 1.0]), np.array([True, True, False, False, True]))
    assert table.count.tolist() == [0] * 5 + [2] + [0] * 7 + [2, 1]
    assert table.accuracy[[5, 13, 14]].tolist() == [0.5, 0.5, 1.0]
    np.testing.assert_allclose(table.confidence[[5, 13, 14]], [0.4, 0.91, 1.0])
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    assert empty.count.tolist() == [0] * BINS
    assert not empty.accuracy.any()
    assert not empty.confidence.any()


@pytest.mark.parametrize(
    ("confidence", "expected", "within"),
    [
        ([], 0.0, 0.0),
        ([1.0] * 9, 0.0, 0.0),
        ([0.5], 0.5, 0.0),
        ([0.5, 0.5], 0.25, 0.03),  # half of the time one of two is right: no gap; else 0.5
        ([0.25], 0.375, 0.05),  # 0.25 × 0.75 + 0.75 × 0.25
    ],
)
def test_chance_alone_makes_an_ece(confidence: list[float], expected: float, within: float) -> None:
    assert expected_ece(np.array(confidence)) == pytest.approx(expected, abs=within)


def test_chance_fades_with_the_number_of_predictions() -> None:
    random = np.random.default_rng(0)
    errors = [expected_ece(random.uniform(0.2, 1, n)) for n in (30, 300, 3000)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0
    assert expected_ece(np.full(50, 0.7), seed=1) == expected_ece(np.full(50, 0.7), seed=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_perfectly_calibrated_model_has_no_ece_but_that_of_chance(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.uniform(0.2, 1, 4000)
    error = ece(confidence, random.random(4000) < confidence)
    assert error > 0.008
    assert error - expected_ece(confidence) == pytest.approx(0, abs=0.008)
    overconfident = ece(confidence, random.random(4000) < confidence - 0.1)
    assert overconfident - expected_ece(confidence) > 0.06
