"""A recipe is settings as TOML: what is written is what is read."""

import tomllib
from typing import Any

import pytest

from fer_batch.config import TrainConfig
from fer_batch.training.recipes import format_recipe, format_toml, list_recipes


@pytest.mark.parametrize(
    "value", [(), (1, 2), ("a", 'b "c"'), 0, 3, 1e-07, 0.1, 1e38, "", "a\\b", 'say "hi"\n', "gemütlich"]
)
def test_what_is_written_is_what_is_read(value: Any) -> None:
    read = tomllib.loads(f"x = {format_toml(value)}")["x"]
    assert (tuple(read) if isinstance(read, list) else read) == value
    assert type(read) is (list if isinstance(value, tuple) else type(value))


@pytest.mark.parametrize(
    "changes", [{}, *(recipe.settings for recipe in list_recipes()), {"init": '/a "b"/c.safetensors'}]
)
def test_a_recipe_is_complete(changes: dict[str, Any]) -> None:
    config = TrainConfig.from_dict({"data": [["fer2013", "x"]], **changes})
    read = tomllib.loads(format_recipe(config))
    assert "data" not in read
    assert TrainConfig.from_dict(read | {"data": [["fer2013", "x"]]}) == config
