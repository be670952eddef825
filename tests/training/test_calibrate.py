"""The temperature: found again where it is known, and within its bounds where there is none."""

import numpy as np
import pytest

from fer_batch.training.calibrate import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature


def calibrated(count: int = 4000, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax labels are drawn from."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (count, width))
    return logits, (logits + random.gumbel(size=(count, width))).argmax(axis=1)


def test_without_examples_it_is_1() -> None:
    assert fit_temperature(np.zeros((0, 7)), np.zeros(0, np.int64)) == 1.0


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 1.7, 10.0])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_what_logits_were_multiplied_by_is_found_again(scale: float, kind: type) -> None:
    logits, labels = calibrated()
    assert fit_temperature((scale * logits).astype(kind), labels) == pytest.approx(scale, rel=0.08)


def test_it_has_the_least_loss() -> None:
    logits, labels = calibrated(500)
    found = fit_temperature(3 * logits, labels)

    def loss(temperature: float) -> float:
        scaled = 3 * logits / temperature
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(500), labels]))

    assert loss(found) < min(loss(found * 1.05), loss(found / 1.05), loss(1.0))


@pytest.mark.parametrize(("labels", "end"), [([0, 1, 2], MIN_TEMPERATURE), ([1, 2, 0], MAX_TEMPERATURE)])
def test_where_all_or_none_is_right_it_ends_at_a_bound(labels: list[int], end: float) -> None:
    assert fit_temperature(np.eye(3) / 2, np.array(labels)) == pytest.approx(end, rel=0.01)


def test_great_logits_do_not_overflow() -> None:
    logits, labels = calibrated(200)
    assert MIN_TEMPERATURE <= fit_temperature(1e4 * logits, labels) <= MAX_TEMPERATURE
