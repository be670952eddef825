"""The bootstrap: its units, its blocks, and its agreement with drawing examples one by one."""

import numpy as np
import pytest
from scipy import sparse

from fer_batch.evaluation.intervals import percentile_interval, resample_sums


@pytest.mark.parametrize("units", [1, 7, 50])
def test_sums_equal_those_of_drawn_units(units: int) -> None:
    values = np.random.default_rng(1).random((units, 3))
    drawn = np.random.default_rng(5).integers(units, size=(40, units))
    expected = values[drawn].sum(axis=1)
    np.testing.assert_allclose(resample_sums(values, resamples=40, seed=5), expected)
    np.testing.assert_allclose(resample_sums(sparse.csr_array(values), resamples=40, seed=5), expected)


def test_blocks_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((50, 2))
    whole = resample_sums(values, resamples=40)
    monkeypatch.setattr("fer_batch.evaluation.intervals.VALUES_PER_BLOCK", 350)
    np.testing.assert_allclose(resample_sums(values, resamples=40), whole)


def test_interval_holds_the_central_95_percent() -> None:
    assert percentile_interval(np.arange(1001)) == pytest.approx((25, 975))
    assert percentile_interval(np.ones(3)) == (1, 1)
