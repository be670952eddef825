"""The prediction for one face."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class Prediction:
    """The probabilities of all emotions for one face."""

    probabilities: dict[str, float]
    """By emotion, in the order of the model's classes; their sum is 1."""

    @property
    def emotion(self) -> str:
        """The most probable emotion."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """Probability of `emotion`."""
        return self.probabilities[self.emotion]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"emotion": self.emotion, "confidence": self.confidence, "probabilities": self.probabilities}

    def __repr__(self) -> str:
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        return f"Prediction({', '.join(f'{name} {probability:.2f}' for name, probability in ranked[:3])})"
