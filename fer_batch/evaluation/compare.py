"""Results of several checkpoints and ways of averaging side by side, with their gain over the first."""

from dataclasses import dataclass
from typing import Any

from fer_batch.data.labels import normalize_label
from fer_batch.evaluation.evaluate import CheckpointResult, Evaluation
from fer_batch.evaluation.examples import Examples
from fer_batch.evaluation.metrics import Metrics, PairedDifference, compare_pairs

COMPARED_METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "nll")


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One result of an evaluation."""

    checkpoint: str
    averaging: str
    model_id: str
    metrics: Metrics
    f1: dict[str, float]
    """F1 of each class of the comparison."""
    gain: PairedDifference | None
    """The gain over the first row, with subjects resampled where they are known; None in the first row."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        metrics = self.metrics.to_dict()
        return {
            "checkpoint": self.checkpoint,
            "averaging": self.averaging,
            "model_id": self.model_id,
            **{name: metrics[name] for name in COMPARED_METRICS},
            "intervals": metrics["intervals"],
            "f1": self.f1,
            "gain": self.gain.to_dict() if self.gain else None,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All results of an evaluation."""

    examples: Examples
    classes: tuple[str, ...]
    """The classes that have examples."""
    rows: tuple[ComparisonRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "n": len(self.examples.labels),
            **self.examples.to_dict(),
            "classes": list(self.classes),
            "rows": [row.to_dict() for row in self.rows],
        }


def compare(evaluation: Evaluation) -> Comparison:
    """Compare each result of an evaluation with the first one."""
    first = evaluation.results[0]
    classes = tuple(name for name, scores in first.metrics.per_class.items() if scores.support)
    first_correct = first.probs.argmax(axis=1) == first.labels
    subjects = evaluation.examples.subjects

    def compare_row(result: CheckpointResult) -> ComparisonRow:
        f1 = {normalize_label(name): scores.f1 for name, scores in result.metrics.per_class.items()}
        own_correct = result.probs.argmax(axis=1) == result.labels
        return ComparisonRow(
            checkpoint=result.checkpoint,
            averaging=result.averaging,
            model_id=result.model_id,
            metrics=result.metrics,
            f1={name: f1[normalize_label(name)] for name in classes},
            gain=None if result is first else compare_pairs(first_correct, own_correct, subjects),
        )

    rows = tuple(map(compare_row, evaluation.results))
    return Comparison(examples=evaluation.examples, classes=classes, rows=rows)
