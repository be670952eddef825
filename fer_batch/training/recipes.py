"""Settings of training as the text of a .toml file, which `train --recipe` takes."""

import dataclasses
import json
from typing import Any

from fer_batch.config import TrainConfig

NOT_SAID = ("data", "preset")
"""What comes from the command line alone."""


def recipe_of(config: TrainConfig) -> str:
    """All settings of `config` but its data, a line each; what is None or "" is left out."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return "".join(
        f"{name} = {toml(value)}\n"
        for name, value in values.items()
        if name not in NOT_SAID and value not in (None, "")
    )


def toml(value: Any) -> str:
    """A number, a text or a tuple of these as TOML writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(toml(part) for part in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
