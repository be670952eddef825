"""Results as values for JSON: a base class for dataclasses, and the conversion of their values."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import pandas as pd


class Record:
    """Base class of a dataclass that is written as JSON.

    The JSON object has the fields, except those with `repr=False`, and the properties in `json_properties`.
    """

    json_properties: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = [field.name for field in dataclasses.fields(self) if field.repr]  # type: ignore[arg-type]
        return {name: to_plain(getattr(self, name)) for name in (*names, *self.json_properties)}


def to_plain(value: Any) -> Any:
    """Convert nested dataclasses, arrays and tables to values for JSON.

    A table with a numbered index becomes a list of rows, any other table an object of rows.
    """
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, pd.DataFrame):
        return value.to_dict("records" if isinstance(value.index, pd.RangeIndex) else "index")
    if isinstance(value, pd.Series):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    elif hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value
