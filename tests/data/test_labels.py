"""Names of classes."""

import pytest

from fer_batch.data.labels import CLASS_SYNONYMS, normalize_label
from fer_batch.schema import EMOTIONS


@pytest.mark.parametrize(
    ("label", "normalized"),
    [
        ("", ""),
        (None, "none"),
        (" Happiness\t", "happy"),
        ("FEARFUL", "fear"),
        ("Scared", "fear"),
        ("angry", "angry"),
        ("Bored", "bored"),
        ("joy", "happy"),
    ],
)
def test_labels_are_normalized(label: object, normalized: str) -> None:
    assert normalize_label(label) == normalized


def test_synonyms_stand_for_names_that_are_no_synonyms() -> None:
    assert set(CLASS_SYNONYMS.values()) <= {*EMOTIONS, "contempt"}
    assert not CLASS_SYNONYMS.keys() & set(CLASS_SYNONYMS.values())
