"""`fer-batch train`: what can't be trained is one line and exit code 2, and a recipe is what it says."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fer_batch.cli.main import main
from fer_batch.cli.train import PACKAGED, TEXTS
from fer_batch.config import TrainConfig
from fer_batch.training.recipes import list_recipes, read_recipe

DATA = ["--data", "fer2013=x.csv"]
WITHOUT_FLAG = {"filters", "depths", "fold", "dropouts", "window_length", "window_rate_hz"}
"""What only a recipe says: the architecture."""


def train(*words: str) -> int | str | None:
    try:
        return main(["train", *words])
    except SystemExit as end:
        return end.code


def spoken_help(capsys: pytest.CaptureFixture[str]) -> str:
    assert train("--help") == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that exits with 2 and says nothing else."""
    assert train(*words) == 2
    streams = capfd.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    return streams.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--data"),
        (["--epochs", "1"], "--data"),
        (["--data"], "--data"),
        (["--data", ""], "'' is not NAME=PATH"),
        (["--data", "fer2013.parquet"], "'fer2013.parquet' is not NAME=PATH"),
        (["--data", "=fer2013.parquet"], "is not NAME=PATH"),
        (["--data", "fer2013="], "is not NAME=PATH"),
        ([*DATA, "--data", "ck48"], "'ck48' is not NAME=PATH"),
        (["--data", "imagenet=x"], "'imagenet'; allowed are fer2013, ck48, folder"),
        ([*DATA], "there is no such file"),
        ([*DATA, "--classes", "happy"], "'happy' is not two or more names"),
        ([*DATA, "--classes", "happy,"], "'happy,' is not two or more names"),
        ([*DATA, "--classes", ""], "'' is not two or more names"),
        ([*DATA, "--classes", "happy,sad,happy"], "--classes is happy,sad,happy"),
        ([*DATA, "--init", "gone.safetensors"], "gone.safetensors"),
        ([*DATA, "--init", "gone"], "gone does not exist"),
        ([*DATA, "--recipe", "resnet"], "--recipe must be one of default, cnn-bilstm-fer6, cnn-lstm-fer2013"),
        ([*DATA, "--network", "cnn5"], "cnn5"),
        ([*DATA, "--network", "cnn4", "--backbone", "resnet18"], "--backbone is resnet18"),
        ([*DATA, "--backbone", "alexnet"], "alexnet"),
        ([*DATA, "--backbone-weights", "x.safetensors"], "weights of a --backbone"),
        (
            [*DATA, "--backbone", "resnet18", "--backbone-weights", "x.pth"],
            "--backbone-weights must be a .safetensors file, got x.pth",
        ),
        ([*DATA, "--backbone", "resnet18", "--backbone-weights", "x.safetensors"], "No such file"),
        ([*DATA, "--backbone-size", "-1"], "--backbone-size is -1"),
        ([*DATA, "--colour", "blue"], "--colour"),
        ([*DATA, "--epochs", "0", "--sequence-epochs", "0"], "--epochs is 0"),
        ([*DATA, "--epochs", "-1"], "--epochs is -1"),
        ([*DATA, "--epochs", "many"], "many"),
        ([*DATA, "--epochs", "1.5"], "1.5"),
        ([*DATA, "--sequence-epochs", "-1"], "--sequence-epochs is -1"),
        ([*DATA, "--early-stopping", "-1"], "--early-stopping is -1"),
        ([*DATA, "--batch-size", "1"], "--batch-size is 1"),
        ([*DATA, "--optimizer", "lion"], "lion"),
        ([*DATA, "--lr", "0"], "--lr is 0"),
        ([*DATA, "--lr", "nan"], "--lr is nan"),
        ([*DATA, "--lr", "inf"], "--lr is inf"),
        ([*DATA, "--sequence-lr", "-1"], "--sequence-lr is -1"),
        ([*DATA, "--weight-decay", "-1"], "--weight-decay is -1"),
        ([*DATA, "--schedule", "linear"], "linear"),
        ([*DATA, "--plateau-factor", "1"], "--plateau-factor is 1"),
        ([*DATA, "--plateau-patience", "-1"], "--plateau-patience is -1"),
        ([*DATA, "--min-lr", "-1"], "--min-lr is -1"),
        ([*DATA, "--grad-clip", "0"], "--grad-clip is 0"),
        ([*DATA, "--dropout", "1"], "--dropout is 1"),
        ([*DATA, "--label-smoothing", "1"], "--label-smoothing is 1"),
        ([*DATA, "--ema-decay", "1"], "--ema-decay is 1"),
        ([*DATA, "--imbalance", "smote"], "smote"),
        ([*DATA, "--votes", "-1"], "--votes is -1"),
        ([*DATA, "--flip", "2"], "--flip is 2"),
        ([*DATA, "--rotation-deg", "-1"], "--rotation-deg is -1"),
        ([*DATA, "--zoom", "-1"], "--zoom is -1"),
        ([*DATA, "--shift", "-1"], "--shift is -1"),
        ([*DATA, "--lighting", "-1"], "--lighting is -1"),
        ([*DATA, "--erasing", "2"], "--erasing is 2"),
        ([*DATA, "--mixup", "-1"], "--mixup is -1"),
        ([*DATA, "--seed", "-1"], "--seed is -1"),
        ([*DATA, "--workers", "0"], "--workers is 0"),
        ([*DATA, "--threads", "0"], "--threads is 0"),
    ],
)
def test_words_that_cannot_be_trained_by_are_one_line_and_nothing_is_written(
    words: list[str], said: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capfd, *words, "--out", "run")
    assert not list(here.iterdir())


def test_data_of_other_columns_is_one_line_and_nothing_is_written(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "faces.csv").write_text("label,picture\n1,2\n")
    assert str(here / "faces.csv") in refused(capfd, "--data", "fer2013=faces.csv", "--out", "run")
    assert [p.name for p in here.iterdir()] == ["faces.csv"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "--recipe: cannot read ours.toml as a .toml file"),
        ("epochs = ", "--recipe: cannot read ours.toml as a .toml file"),
        ("\xff", "--recipe: cannot read ours.toml as a .toml file"),
        ("colour = 'blue'", "colour; allowed is data, classes"),
        ("batch-size = 4", "batch-size; allowed is data, classes"),
        ("[stills]\nepochs = 3", "stills; allowed is data, classes"),
        ("epochs = '3'", "--epochs is '3'; allowed is a whole number"),
        ("lr = 'high'", "--lr is 'high'; allowed is a number"),
        ("lr = 0", "--lr is 0; allowed is a number above 0"),
        ("filters = 8", "--filters is 8; allowed is a list of whole numbers"),
        ("filters = [8]", "filters, depths is [8], [1, 2, 3, 3]"),
        ("fold = 5", "fold is 5"),
        ("optimizer = 'lion'", "--optimizer is lion; allowed is sgd, adam, adamw, nadam"),
        ("classes = 'happy'", "--classes is 'happy'; allowed is a list of names"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_one_line_and_nothing_is_written(
    content: str | None, said: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = here / "ours.toml"
    if content is not None:
        recipe.write_bytes(content.encode("latin-1"))
    assert said in refused(capfd, *DATA, "--recipe", "ours.toml", "--out", "run")
    assert [p.name for p in here.iterdir()] == ([] if content is None else ["ours.toml"])


def test_a_folder_is_no_recipe(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "--recipe must be one of default" in refused(capfd, *DATA, "--recipe", ".", "--out", "run")


def test_the_recipe_of_the_packaged_checkpoint_can_be_followed() -> None:
    recipe = read_recipe("default").settings
    assert "data" not in recipe
    assert "init" not in recipe
    config = TrainConfig.from_dict(recipe | {"data": [["fer2013", "fer2013.parquet"]]})
    assert {name: config.to_dict()[name] for name in recipe} == recipe


def unlike(folder: Path, *words: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What the words ask for that a run of all defaults, already in `folder`, does not have."""
    path = str(Path("x.csv").absolute())
    (folder / "run").mkdir(exist_ok=True)
    record = TrainConfig(data=(("fer2013", path),)).to_dict()
    (folder / "run" / "train.json").write_text(json.dumps(record))
    return refused(capfd, *DATA, *words, "--out", "run").partition("(")[2].rpartition(")")[0]


def other(name: str, default: Any) -> str:
    """Another value of an option than its default."""
    if isinstance(default, str):
        return {
            "optimizer": "adam",
            "schedule": "cosine",
            "imbalance": "focal",
            "network": "cnn4",
            "backbone": "resnet18",
        }[name]
    return str(default + 1) if isinstance(default, int) else str(default / 2 if default else 0.5)


@pytest.mark.parametrize("name", [name for texts in TEXTS.values() for name in texts])
def test_each_flag_sets_its_option_and_no_other(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    default = getattr(TrainConfig(data=(("fer2013", "x"),)), name)
    given = other(name, default)
    changed = unlike(here, "--" + name.replace("_", "-"), given, capfd=capfd).split("; ")
    assert f"{name} was {'empty' if default == '' else default}, is {given}" in changed
    its_blocks = ["depths", "filters"] if name == "network" else []
    assert [part.partition(" was ")[0] for part in changed] == [*its_blocks, name]


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--classes", "b, a"], "classes was [], is ['b', 'a']"),
        (["--leave-out", "contempt, disgust"], "leave_out was [], is ['contempt', 'disgust']"),
        (["--init", "default"], f"init was None, is {PACKAGED / 'default.safetensors'}"),
        (["--recipe", "ours.toml"], "filters was [32, 64, 128, 256], is [8, 8, 8, 8]; lr was 0.1, is 0.5"),
        (
            ["--recipe", "ours.toml", "--lr", "0.2"],
            "filters was [32, 64, 128, 256], is [8, 8, 8, 8]; lr was 0.1, is 0.2",
        ),
    ],
    ids=["classes", "left out", "the packaged checkpoint", "a recipe", "a flag before the recipe"],
)
def test_what_else_is_said_is_done(
    words: list[str], changed: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "ours.toml").write_text("lr = 0.5\nfilters = [8, 8, 8, 8]\n")
    assert unlike(here, *words, capfd=capfd) == changed


def test_a_checkpoint_is_the_same_from_anywhere(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in (".safetensors", ".json"):
        shutil.copy(PACKAGED / f"default{suffix}", here / f"ours{suffix}")
    assert unlike(here, "--init", "ours.safetensors", capfd=capfd) == (
        f"init was None, is {here / 'ours.safetensors'}"
    )


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()[1:]])
def test_a_recipe_sets_its_options_and_flags_take_precedence(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    defaults = TrainConfig(data=(("fer2013", "x"),))
    settings = TrainConfig.from_dict({"data": [["fer2013", "x"]], **read_recipe(name).settings})
    differing = {
        field.name
        for field in dataclasses.fields(defaults)
        if getattr(defaults, field.name) != getattr(settings, field.name)
    }
    changed = unlike(here, "--recipe", name, capfd=capfd)
    assert {word.split()[0] for word in changed.split("; ")} == differing
    changed = unlike(here, "--recipe", name, "--batch-size", "16", capfd=capfd)
    assert "batch_size was 128, is 16" in changed


def test_the_packaged_recipe_is_called_default(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed = unlike(here, "--recipe", "default", capfd=capfd)
    recipe = read_recipe("default").settings
    defaults = TrainConfig(data=(("fer2013", "x"),)).to_dict()
    assert [word.split()[0] for word in changed.split("; ")] == sorted(
        name for name, value in recipe.items() if defaults[name] != value
    )


def test_every_option_has_a_flag_and_its_default_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = spoken_help(capsys)
    defaults = TrainConfig(data=(("fer2013", "x"),))
    flags = {name for texts in TEXTS.values() for name in texts}
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    others = {"data", "classes", "leave_out", "init", "backbone_weights"}
    assert flags == fields - others - WITHOUT_FLAG
    for name in flags:
        words = said.partition(f" --{name.replace('_', '-')} ")[2].partition(" --")[0]
        default = getattr(defaults, name)
        assert f"(default {'none' if default == '' else default})" in words


@pytest.mark.parametrize(
    "flag",
    [
        "--data", "--out", "--classes", "--leave-out", "--init", "--backbone-weights", "--recipe",
        "--address", "--verbose",
    ],
)  # fmt: skip
def test_the_help_names_the_other_flags(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f" {flag} " in spoken_help(capsys)
