"""Recipes: packaged ones, files, and formatting."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fer_batch.errors import ConfigError
from fer_batch.train_config import TrainConfig
from fer_batch.training.recipes import format_recipe, format_toml, list_recipes, read_recipe

DATA = [["fer2013", "x"]]


@pytest.mark.parametrize("recipe", list_recipes(), ids=lambda recipe: recipe.name)
def test_packaged_recipes_are_valid_and_described(recipe: Any) -> None:
    config = TrainConfig.from_dict({"data": DATA, **recipe.settings})
    plain = config.to_dict()
    assert {name: plain[name] for name in recipe.settings} == recipe.settings
    assert not {"data", "init", "backbone_weights"} & recipe.settings.keys()
    assert recipe.title and recipe.reads and recipe.layers and recipe.published and recipe.data


def test_the_default_recipe_is_listed_first() -> None:
    names = [recipe.name for recipe in list_recipes()]
    assert names == [
        "default", "cnn-bilstm-fer2013", "cnn-bilstm-fer6", "cnn-lstm-fer2013", "cnn4-fer2013",
        "cnn4bn-fer2013", "dcnn-bilstm-ck48",
    ]  # fmt: skip


def test_recipes_are_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text("lr = 0.5\n[about]\ntitle = 'Ours'\nauthor = 'Us'\n")
    recipe = read_recipe(str(file))
    assert (recipe.settings, recipe.title, recipe.published) == ({"lr": 0.5}, "Ours", "")
    assert recipe.text == file.read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cnn5", None, "must be one of default, .*, or a .toml file; got cnn5"),
        ("../recipes/default", None, "must be one of default"),
        ("", None, "must be one of default"),
        (".", None, "must be one of default"),
        ("gone.toml", None, "cannot read gone.toml as a .toml file: No such file"),
        ("ours.toml", "lr = ", "cannot read ours.toml as a .toml file"),
        ("ours.toml", "about = 1", r"\[about\] of ours.toml must be a table"),
    ],
)
def test_unreadable_recipes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"^--recipe:? {message}"):
        read_recipe(name)


@pytest.mark.parametrize(
    "value", [(), (1, 2), ("a", 'b "c"'), 0, 3, 1e-07, 0.1, 1e38, "", "a\\b", 'say "hi"\n', "gemütlich"]
)
def test_formatted_values_are_read_as_the_same(value: Any) -> None:
    read = tomllib.loads(f"x = {format_toml(value)}")["x"]
    assert (tuple(read) if isinstance(read, list) else read) == value
    assert type(read) is (list if isinstance(value, tuple) else type(value))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["deep", "dotted", "large", "pipe", "device", "other bytes", "long number"])
def test_hostile_recipes_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "recipe.toml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "large":
        file.write_text("# " + "a" * 100_000)
    else:
        contents = {
            "deep": b"lr = " + b"[" * 50_000,
            "dotted": b"lr" + b".a" * 5000 + b" = 1",
            "other bytes": b"\xff",
            "long number": b"lr = 1" + b"0" * 5000,
        }
        file.write_bytes(contents[kind])
    with pytest.raises(ConfigError, match=r"^--recipe: cannot read .*\.toml file: ") as raised:
        read_recipe(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    ["lr = nan", "lr = inf", "seed = 1" + "0" * 50, "epochs = -1", "classes = [['a']]",
     "window_length = 1000000001", "window_rate_hz = 1e-9", "filters = [10000000]", "depths = [10000000]",
     "lr = 1979-05-27"],
)  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    settings = {"data": DATA, **read_recipe(str(file)).settings}
    with pytest.raises(ConfigError, match=" must "):
        TrainConfig.from_dict(settings)


@pytest.mark.parametrize(
    "settings", [{"init": '/a "b"/c.safetensors'}, *(recipe.settings for recipe in list_recipes())]
)
def test_a_formatted_recipe_has_all_settings(settings: dict[str, Any]) -> None:
    config = TrainConfig.from_dict({"data": DATA, **settings})
    recipe = tomllib.loads(format_recipe(config))
    assert "data" not in recipe
    assert TrainConfig.from_dict(recipe | {"data": DATA}) == config
