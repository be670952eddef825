"""Recipes: training settings in TOML files. The packaged ones are `model/recipes/NAME.toml`.

A recipe has settings by the names of `TrainConfig`'s fields, and optionally a table `[about]` that describes
the model. Five packaged recipes are published recognizers. If a publication gives a uniform range (a rotation
of up to 15°, a zoom or a shift of up to a share of the side), the recipe has its standard deviation. L2
regularization of weight λ is a weight decay of 2 λ.
"""

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from fer_batch.errors import ConfigError
from fer_batch.storage.user_files import check_depth, read_bounded
from fer_batch.train_config import TrainConfig

PACKAGED = files("fer_batch.model") / "recipes"
Settings = dict[str, Any]
"""Values of `TrainConfig`'s fields by name, as JSON and TOML have them."""
DEFAULT = "default"
"""Name of the recipe of the packaged checkpoint."""
MAX_RECIPE_BYTES = 100_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings, and a description of the model that they train."""

    name: str
    settings: Settings
    """Values of `TrainConfig`'s fields; all other fields keep their defaults."""
    text: str
    """Content of the TOML file."""
    title: str = ""
    reads: str = ""
    """Input of the model, in words."""
    layers: str = ""
    """Layers of the network, in words."""
    published: str = ""
    """Published results, in words."""
    data: str = ""
    """Name of the data set that the recipe is for."""


def list_recipes() -> list[Recipe]:
    """Read the packaged recipes: the default one, then the published recognizers by name."""
    names = sorted(
        file.name.removesuffix(".toml") for file in PACKAGED.iterdir() if file.name.endswith(".toml")
    )
    return [read_recipe(name) for name in sorted(names, key=lambda name: name != DEFAULT)]


def read_recipe(name: str, option: str = "--recipe") -> Recipe:
    """Read a packaged recipe by name, or a recipe from a `.toml` file.

    Raises ConfigError, which begins with `option`, if there is no such recipe, or the file cannot be read.
    """
    packaged = PACKAGED / f"{name}.toml"
    is_packaged = Path(name).name == name and packaged.is_file()
    if not is_packaged and not name.endswith(".toml") and not Path(name).is_file():
        known = ", ".join(recipe.name for recipe in list_recipes())
        raise ConfigError(f"{option} must be one of {known}, or a .toml file; got {name}")
    try:
        text = packaged.read_text() if is_packaged else _read_file(Path(name))
        settings = tomllib.loads(text)
        check_depth(settings)
    except (OSError, RecursionError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{option}: cannot read {name} as a .toml file: {reason}") from error
    about = settings.pop("about", {})
    described = {field.name for field in dataclasses.fields(Recipe)} - {"name", "settings", "text"}
    if not isinstance(about, dict):
        raise ConfigError(f"{option}: [about] of {name} must be a table")
    texts = {key: str(value) for key, value in about.items() if key in described}
    return Recipe(name=name, settings=settings, text=text, **texts)


def _read_file(path: Path) -> str:
    return read_bounded(path, MAX_RECIPE_BYTES).decode()


def format_recipe(config: TrainConfig) -> str:
    """Format all settings of `config` but its data as a recipe; settings of None or "" are left out."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return "".join(
        f"{name} = {format_toml(value)}\n"
        for name, value in values.items()
        if name != "data" and value not in (None, "")
    )


def format_toml(value: Any) -> str:
    """Format a number, a text or a tuple of these as TOML."""
    if isinstance(value, tuple):
        return f"[{', '.join(format_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
