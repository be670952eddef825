"""`fer-batch models`: the recipes and what their models cost."""

import tomllib

import pytest

from fer_batch.cli.main import main
from fer_batch.config import BACKBONES, NETWORKS
from fer_batch.training.recipes import list_recipes, read_recipe

RECIPES = [recipe.name for recipe in list_recipes()]


def test_every_recipe_is_listed_with_its_size_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*RECIPES, *NETWORKS, *BACKBONES))
    assert "4,232,199" in said
    assert "218 M" in said
    assert "optimizer nadam, lr 0.001, schedule plateau, epochs 100, batch size 32" in said
    assert "happy, surprise, angry, sad, fear" in said


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_printed_as_it_is_packaged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed.pop("about")
    assert printed == read_recipe(name).settings


def test_another_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "cnn5"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert "NAME must be one of default, cnn-bilstm-fer6, cnn-lstm-fer2013, cnn4-fer2013" in streams.err
