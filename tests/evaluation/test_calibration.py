"""Calibration: bins, the ECE of small examples, and the ECE of a perfectly calibrated model."""

import numpy as np
import pytest

from fer_batch.evaluation.calibration import BINS, assign_bins, measure_ece, measure_reliability, simulate_ece


@pytest.mark.parametrize(
    ("confidence", "number"),
    [(0.0, 0), (1e-9, 0), (0.06, 0), (0.07, 1), (0.2, 2), (0.2000001, 3), (0.5, 7), (0.999, 14), (1.0, 14)],
)
def test_bins_are_open_below_and_closed_above(confidence: float, number: int) -> None:
    assert assign_bins(np.array([confidence])).tolist() == [number]


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
        # in one bin, over- and underconfidence cancel out
        ([0.94, 0.98], [True, True], 0.04),
        ([0.5, 0.5], [True, False], 0.0),
    ],
)
def test_ece_is_the_mean_gap_of_the_bins(confidence: list[float], correct: list[bool], error: float) -> None:
    assert measure_ece(np.array(confidence), np.array(correct, bool)) == pytest.approx(error, abs=1e-12)


def test_reliability_counts_every_prediction_once() -> None:
    confidence, correct = np.array([0.4, 0.9, 0.92, 0.4, 1.0]), np.array([True, True, False, False, True])
    table = measure_reliability(confidence, correct)
    assert table.count.tolist() == [0] * 5 + [2] + [0] * 7 + [2, 1]
    assert table.accuracy[[5, 13, 14]].tolist() == [0.5, 0.5, 1.0]
    np.testing.assert_allclose(table.confidence[[5, 13, 14]], [0.4, 0.91, 1.0])
    empty = measure_reliability(np.zeros(0), np.zeros(0, bool))
    assert empty.to_dict() == {"count": [0] * BINS, "confidence": [0] * BINS, "accuracy": [0] * BINS}


@pytest.mark.parametrize(
    ("confidence", "expected", "within"),
    [
        ([], 0.0, 0.0),
        ([1.0] * 9, 0.0, 0.0),
        ([0.5], 0.5, 0.0),
        ([0.5, 0.5], 0.25, 0.03),  # half of the time one of two is correct: no gap; else 0.5
        ([0.25], 0.375, 0.05),  # 0.25 × 0.75 + 0.75 × 0.25
    ],
)
def test_chance_alone_causes_an_ece(confidence: list[float], expected: float, within: float) -> None:
    assert simulate_ece(np.array(confidence)) == pytest.approx(expected, abs=within)


def test_ece_by_chance_falls_with_the_number_of_predictions() -> None:
    random = np.random.default_rng(0)
    errors = [simulate_ece(random.uniform(0.2, 1, n)) for n in (30, 300, 3000)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0
    assert simulate_ece(np.full(50, 0.7), seed=1) == simulate_ece(np.full(50, 0.7), seed=1)


@pytest.mark.parametrize("seed", range(3))
def test_ece_of_a_calibrated_model_is_that_of_chance(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.uniform(0.2, 1, 4000)
    error = measure_ece(confidence, random.random(4000) < confidence)
    assert error > 0.008
    assert error - simulate_ece(confidence) == pytest.approx(0, abs=0.008)
    overconfident = measure_ece(confidence, random.random(4000) < confidence - 0.1)
    assert overconfident - simulate_ece(confidence) > 0.06
