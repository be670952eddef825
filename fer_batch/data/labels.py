"""Names of classes and splits as data sets write them, and the names that the project uses."""

from collections.abc import Iterable, Sequence

from fer_batch.errors import InputError
from fer_batch.schema import CLASS_SYNONYMS

SPLIT_SYNONYMS = {
    "training": "train",
    "train": "train",
    "publictest": "select",
    "validation": "select",
    "valid": "select",
    "val": "select",
    "privatetest": "test",
    "test": "test",
}
"""Names of splits in data sets, in lower case, and the split that each one stands for."""


def normalize_label(label: object) -> str:
    """Return the project's name of a class.

    The name is in lower case. Nouns and synonyms of the seven emotions become the project's word
    ("Happiness": "happy"); all other names are kept.
    """
    name = str(label).strip().lower()
    return CLASS_SYNONYMS.get(name, name)


def check_classes(source: str, labels: Iterable[str], allowed: Sequence[str]) -> None:
    """Raise InputError unless all normalized `labels` are among the `allowed` class names.

    `source` names the data set and begins the message.
    """
    if unexpected := sorted(set(labels) - {normalize_label(name) for name in allowed}):
        raise InputError(
            f"{source}: unexpected classes: {', '.join(unexpected)}; allowed are {', '.join(allowed)}. "
            "Rename them, or leave them out (`train` takes --leave-out and --classes)"
        )
