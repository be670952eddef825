"""The temperature of known and of extreme logits."""

import numpy as np
import pytest

from fer_batch.training.calibrate import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature


def draw_calibrated(count: int = 4000, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and labels from their softmax."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (count, width))
    return logits, (logits + random.gumbel(size=(count, width))).argmax(axis=1)


def test_the_temperature_without_examples_is_1() -> None:
    assert fit_temperature(np.zeros((0, 7)), np.zeros(0, np.int64)) == 1.0


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 1.7, 10.0])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_temperature_is_the_factor_of_the_logits(scale: float, kind: type) -> None:
    logits, labels = draw_calibrated()
    assert fit_temperature((scale * logits).astype(kind), labels) == pytest.approx(scale, rel=0.08)


def test_the_temperature_minimizes_the_loss() -> None:
    logits, labels = draw_calibrated(500)
    fitted = fit_temperature(3 * logits, labels)

    def loss(temperature: float) -> float:
        scaled = 3 * logits / temperature
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(500), labels]))

    assert loss(fitted) < min(loss(fitted * 1.05), loss(fitted / 1.05), loss(1.0))


@pytest.mark.parametrize(
    ("scale", "labels", "limit"),
    [(0.5, [0, 1, 2], MIN_TEMPERATURE), (0.5, [1, 2, 0], MAX_TEMPERATURE), (1e4, [1, 2, 0], MAX_TEMPERATURE)],
)
def test_the_temperature_has_limits_also_for_large_logits(
    scale: float, labels: list[int], limit: float
) -> None:
    assert fit_temperature(np.eye(3) * scale, np.array(labels)) == pytest.approx(limit, rel=0.01)
