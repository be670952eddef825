"""Several answers to the same examples side by side, and what each gains over the first."""

from collections.abc import Sequence
from typing import Any

from fer_batch.data.labels import normalize_label
from fer_batch.evaluation.evaluate import Answers
from fer_batch.evaluation.examples import Examples
from fer_batch.evaluation.metrics import paired_difference

COLUMNS = ("accuracy", "macro_f1", "balanced_accuracy", "ece", "nll")
"""Figures of a row, beside those of each class."""


def compare(examples: Examples, answers: Sequence[Answers]) -> dict[str, Any]:
    """`n`, `split`, `data` and `left_out` (see `Examples`), the `classes` that have examples, and `rows`.

    A row has `checkpoint`, `averaging`, `model_id`, the figures of `COLUMNS`, their `intervals`, the `f1` of
    each of the classes, and `gain`: `paired_difference` of the first row's answers and its own, subjects
    resampled where they are known, None in the first row.
    """
    first = answers[0]
    right = first.probs.argmax(axis=1) == first.labels
    classes = [name for name, values in first.figures["per_class"].items() if values["support"]]
    subjects = examples.subjects
    rows = []
    for one in answers:
        scores = {normalize_label(name): values["f1"] for name, values in one.figures["per_class"].items()}
        rows.append(
            {
                "checkpoint": one.checkpoint,
                "averaging": one.averaging,
                "model_id": one.figures["model_id"],
                **{name: one.figures[name] for name in COLUMNS},
                "intervals": one.figures["intervals"],
                "f1": {name: scores[normalize_label(name)] for name in classes},
                "gain": None
                if one is first
                else paired_difference(right, one.probs.argmax(axis=1) == one.labels, subjects),
            }
        )
    return {
        "n": len(examples.labels),
        "split": examples.split,
        "data": examples.data,
        "left_out": examples.left_out,
        "classes": classes,
        "rows": rows,
    }
