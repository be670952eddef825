"""Test the arguments, recipes and errors of `fer-batch train`."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from fer_batch.cli.main import main
from fer_batch.cli.train import DEFAULT_CHECKPOINT
from fer_batch.fields import Topic, field_types, split_type
from fer_batch.train_config import TrainConfig
from fer_batch.training.recipes import list_recipes, read_recipe
from tests.cli.conftest import ReadError

DATA = ["--data", "fer2013=x.csv"]
DEFAULTS = TrainConfig(data=(("fer2013", "x"),))
OPTIONS = {
    name
    for name, hint in field_types(TrainConfig).items()
    if any(isinstance(item, Topic) for item in get_args(hint))
}
LISTS_AND_FILES = {"classes", "leave_out", "init", "backbone_weights", "ship_head", "teacher"}
RECIPE_ONLY = {"filters", "depths", "fold", "dropouts", "window_length", "window_rate_hz"}
"""Settings of the architecture, which only a recipe has."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data is missing"),
        (["--data"], "--data needs a value"),
        (["--data", ""], "a data set must be NAME=PATH"),
        (
            ["--data", "fer2013.parquet"],
            "a data set must be NAME=PATH, as in fer2013=fer2013.parquet; got 'fer",
        ),
        (["--data", "=fer2013.parquet"], "a data set must be NAME=PATH"),
        (["--data", "fer2013="], "a data set must be NAME=PATH"),
        ([*DATA, "--data", "ck48"], "got 'ck48'"),
        (["--data", "imagenet=."], "fer2013, ck48, muxspace, rafdb, affectnet, folder, clips"),
        (["--data", "fer2013=gone.csv"], "gone.csv: there is no such file or folder"),
        ([*DATA, "--classes", "happy"], "--classes must be two or more different names, got happy"),
        ([*DATA, "--classes", "happy", "sad", "happy"], "--classes must be two or more different names"),
        ([*DATA, "--init", "gone.safetensors"], "gone.safetensors"),
        ([*DATA, "--init", "gone"], "gone does not exist"),
        ([*DATA, "--gpus", "-1"], "--gpus must be auto or a whole number from 0, got -1"),
        (
            [*DATA, "--gpus", "3", "--workers", "2"],
            "--gpus 3 are more than the workers: give",
        ),
        ([*DATA, "--min-workers", "2"], "--min-workers must be at most the number of workers, 1, got 2"),
        ([*DATA, "--recipe", "resnet"], "--recipe must be one of default, cnn-bilstm-fer2013, cnn-"),
        ([*DATA, "--network", "cnn5"], 'invalid value "cnn5" for --network'),
        ([*DATA, "--network", "cnn4", "--backbone", "resnet18"], "--backbone must keep its default"),
        ([*DATA, "--backbone", "alexnet"], "alexnet"),
        ([*DATA, "--backbone-weights", "x.safetensors"], "--backbone-weights must be given with a backbone"),
        (
            [*DATA, "--backbone", "resnet18", "--backbone-weights", "x.pth"],
            "--backbone-weights must be a .safetensors file, got ",
        ),
        ([*DATA, "--backbone", "resnet18", "--backbone-weights", "x.safetensors"], "No such file"),
        ([*DATA, "--colour", "blue"], "unknown option: --colour"),
        ([*DATA, "--epoch", "3"], "Did you mean --epochs?"),
        ([*DATA, "--epochs", "0", "--sequence-epochs", "0"], "--epochs must be at least 1, got 0"),
        ([*DATA, "--epochs", "-1"], "--epochs must be at least 0, got -1"),
        ([*DATA, "--epochs", "many"], "--epochs: must be a whole number, got many"),
        ([*DATA, "--epochs", "1.5"], "got 1.5"),
        ([*DATA, "--optimizer", "lion"], "lion"),
        ([*DATA, "--lr", "0"], "--lr must be above 0, got 0"),
        ([*DATA, "--lr", "nan"], "--lr must be above 0, got nan"),
        ([*DATA, "--ema-decay", "1"], "--ema-decay must be at least 0 and below 1, got 1"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line_and_write_nothing(
    words: list[str], message: str, here: Path, read_error: ReadError
) -> None:
    assert message in read_error("train", *words, "--out", "run")


def test_data_with_other_columns_is_rejected(here: Path, read_error: ReadError) -> None:
    (here / "faces.csv").write_text("label,picture\n1,2\n")
    assert str(here / "faces.csv") in read_error("train", "--data", "fer2013=faces.csv", "--out", "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--recipe: cannot read ours.toml as a .toml file"),
        ("epochs = ", "--recipe: cannot read ours.toml as a .toml file"),
        ("\xff", "--recipe: cannot read ours.toml as a .toml file"),
        ("colour = 'blue'", "unknown setting colour; the settings are data, classes"),
        ("[stills]\nepochs = 3", "unknown setting stills"),
        ("epochs = '3'", "epochs must be a whole number, got 3"),
        ("lr = 0", "lr must be above 0, got 0"),
        ("filters = 8", "filters must be a list of whole numbers, each at least 1 and at most 4096, got 8"),
        ("filters = [8]", "filters must have as many numbers as depths"),
        ("fold = 5", "fold must divide 48 pixels"),
        ("optimizer = 'lion'", "optimizer must be one of sgd, adam, adamw, nadam, got lion"),
        ("classes = 'happy'", "classes must be a list of names, got happy"),
    ],
)
def test_invalid_recipe_is_reported_in_one_line_and_writes_nothing(
    content: str | None, message: str, here: Path, read_error: ReadError
) -> None:
    if content is not None:
        (here / "ours.toml").write_bytes(content.encode("latin-1"))
    error = read_error("train", *DATA, "--recipe", "ours.toml", "--out", "run")
    assert message in error
    assert "ours.toml" in error


def test_folder_is_not_a_recipe(here: Path, read_error: ReadError) -> None:
    assert "--recipe must be one of default" in read_error("train", *DATA, "--recipe", ".", "--out", "run")


def read_changes(folder: Path, *words: str, read_error: ReadError) -> str:
    """Return how the settings of some arguments differ from a run of all defaults in `folder`."""
    (folder / "run").mkdir(exist_ok=True)
    config = TrainConfig(data=(("fer2013", str(Path("x.csv").absolute())),))
    (folder / "run" / "train.json").write_text(json.dumps(config.to_dict()))
    return read_error("train", *DATA, *words, "--out", "run").partition("(")[2].rpartition(")")[0]


def choose_other(name: str) -> str:
    """Return a valid value of an option other than its default."""
    default: Any = getattr(DEFAULTS, name)
    if isinstance(default, str):
        return next(value for value in get_args(split_type(field_types(TrainConfig)[name])[0])[::-1] if value)
    return str(default + 1) if isinstance(default, int) else str(default / 2 if default else 0.5)


@pytest.mark.parametrize(
    "name",
    sorted(
        OPTIONS - {"classes", "leave_out", "init", "backbone_weights", "ship_head", "teacher", "scale_lr"}
    ),
)
def test_each_option_sets_its_setting_and_no_other(name: str, here: Path, read_error: ReadError) -> None:
    default, value = getattr(DEFAULTS, name), choose_other(name)
    changes = read_changes(here, "--" + name.replace("_", "-"), value, read_error=read_error).split("; ")
    assert f"{name} was {'empty' if default == '' else default}, is {value}" in changes
    blocks = ["depths", "filters"] if name == "network" else []
    assert [change.partition(" was ")[0] for change in changes] == [*blocks, name]


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--classes", "b", "a"], "classes was [], is ['b', 'a']"),
        (["--leave-out", "contempt", "disgust"], "leave_out was [], is ['contempt', 'disgust']"),
        (["--no-scale-lr"], "scale_lr was True, is False"),
        (["--init", "default"], f"init was None, is {DEFAULT_CHECKPOINT}"),
        (["--recipe", "ours.toml"], "filters was [32, 64, 128, 256], is [8, 8, 8, 8]; lr was 0.1, is 0.5"),
        (
            ["--recipe", "ours.toml", "--lr", "0.2"],
            "filters was [32, 64, 128, 256], is [8, 8, 8, 8]; lr was 0.1, is 0.2",
        ),
    ],
    ids=["classes", "leave out", "flag", "packaged checkpoint", "recipe", "option over a recipe"],
)
def test_options_and_recipes_set_settings(
    words: list[str], changes: str, here: Path, read_error: ReadError
) -> None:
    (here / "ours.toml").write_text("lr = 0.5\nfilters = [8, 8, 8, 8]\n")
    assert read_changes(here, *words, read_error=read_error) == changes


def test_checkpoint_path_becomes_absolute(here: Path, read_error: ReadError) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(DEFAULT_CHECKPOINT.with_suffix(suffix), here / f"ours{suffix}")
    changes = read_changes(here, "--init", "ours.safetensors", read_error=read_error)
    assert changes == f"init was None, is {here / 'ours.safetensors'}"


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
def test_packaged_recipe_sets_its_settings_and_options_take_precedence(
    name: str, here: Path, read_error: ReadError
) -> None:
    config = TrainConfig.from_dict({"data": [["fer2013", "x"]], **read_recipe(name).settings})
    differing = {
        field.name
        for field in dataclasses.fields(config)
        if getattr(DEFAULTS, field.name) != getattr(config, field.name)
    }
    changes = read_changes(here, "--recipe", name, read_error=read_error)
    assert {change.split()[0] for change in changes.split("; ")} == differing
    changes = read_changes(here, "--recipe", name, "--batch-size", "16", read_error=read_error)
    assert "batch_size was 128, is 16" in changes


def test_every_setting_is_an_option_or_for_recipes_only() -> None:
    assert OPTIONS | RECIPE_ONLY | {"data"} == {field.name for field in dataclasses.fields(TrainConfig)}


def test_help_lists_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.partition("Options:")[2].split()).replace(", --no-", " --no-")
    for name in ("data", "out", "recipe", "address", "verbose", *OPTIONS):
        _, option, rest = text.partition(f" --{name.replace('_', '-')} ")
        assert option
        default = getattr(DEFAULTS, name, None)
        if isinstance(default, int | str) and default != "" and not isinstance(default, bool):
            assert f"[default: {default}]" in rest.partition(" --")[0]
