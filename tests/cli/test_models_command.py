"""Test `fer-batch models`."""

import tomllib

import pytest

from fer_batch.cli.main import main
from fer_batch.train_config import BACKBONES, NETWORKS
from fer_batch.training.recipes import list_recipes, read_recipe
from tests.cli.conftest import ReadError

RECIPES = [recipe.name for recipe in list_recipes()]


def test_recipes_are_listed_with_size_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*RECIPES, *NETWORKS, *BACKBONES))
    assert "4,232,199" in text
    assert "218 M" in text
    assert "optimizer nadam, lr 0.001, schedule plateau, epochs 100, batch size 32" in text
    assert "happy, surprise, angry, sad, fear" in text


@pytest.mark.parametrize("name", RECIPES)
def test_packaged_recipe_is_printed_unchanged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed.pop("about")
    assert printed == read_recipe(name).settings


def test_unknown_recipe_is_reported_in_one_line(read_error: ReadError) -> None:
    error = read_error("models", "cnn5")
    assert "NAME must be one of default, cnn-bilstm-fer2013, cnn-bilstm-fer6, cnn-lstm-fer2013" in error
