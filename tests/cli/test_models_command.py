"""`fer-batch models`: the presets with what they cost, and each as a recipe."""

import tomllib

import pytest

from fer_batch.cli.main import main
from fer_batch.config import BACKBONES, NETWORKS, TrainConfig
from fer_batch.training.presets import PRESETS, preset


def test_every_preset_is_listed_with_its_size_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*PRESETS, *NETWORKS, *BACKBONES))
    assert "4,232,199" in said
    assert "218 M" in said
    assert "optimizer nadam, lr 0.001, schedule plateau, epochs 100, batch size 32" in said
    assert "happy, surprise, angry, sad, fear" in said


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_printed_as_the_recipe_that_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", name]) == 0
    given = tomllib.loads(capsys.readouterr().out)
    data = [["fer2013", "x"]]
    printed = TrainConfig.from_dict({**given, "data": data}).to_dict()
    assert printed == TrainConfig.from_dict({**preset(name), "preset": "", "data": data}).to_dict()


def test_another_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "cnn5"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert "NAME is cnn5; allowed is cnn4-fer2013" in streams.err
