"""`fer-batch crossval`: figures on the screen and in files, and one line for what can't be done."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.evaluation.crossval import CLASSES, RECIPE
from fer_batch.evaluation.folds import read_folds
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import Card, save_checkpoint
from fer_batch.schema import EMOTIONS


def crossval(*words: object) -> int | str | None:
    try:
        return main(["crossval", *map(str, words)])
    except SystemExit as end:
        return end.code


def write_images(path: Path, subjects: list[str]) -> None:
    """A happy and a sad sequence of each subject."""
    random = np.random.default_rng(0)
    for subject in subjects:
        for number, label in enumerate(("happy", "sadness")):
            (path / label).mkdir(parents=True, exist_ok=True)
            for frame in range(3):
                image = Image.fromarray(random.integers(0, 256, (48, 48), np.uint8))
                image.save(path / label / f"{subject}_{number:03d}_{frame:08d}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: tiny CK+48 of two people of different folds, and a tiny checkpoint."""
    monkeypatch.chdir(tmp_path)
    folds = read_folds()
    write_images(tmp_path / "ck48", [folds[0][0], folds[4][0]])
    architecture: dict[str, Any] = {"classes": len(EMOTIONS), "filters": [4, 8], "depths": [1, 1], "fold": 2}
    torch.manual_seed(0)
    card = Card(classes=EMOTIONS, architecture=architecture)
    save_checkpoint(tmp_path / "tiny.safetensors", CnnBiLstm(**architecture), card)
    return tmp_path


def test_figures_come_to_the_screen_and_into_the_folder(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--data",
        "ck48=ck48",
        "--init",
        "tiny.safetensors",
        "--epochs",
        1,
        "--seed",
        3,
        "--out",
        "cv",
        "--parallel",
        1,
    ]
    assert crossval(*words) == 0
    said = capsys.readouterr()
    assert "data: 116 of the folds' subjects are not there\n" in said.err
    assert "fold 1 of 10: 2 sequences, CNN " in said.err
    assert "fold 5 of 10: 2 sequences, CNN " in said.err
    assert said.err.count("\n") == 3
    assert "CK+48, 4 sequences of 2 people, 2 folds pooled" in said.out
    assert "macro-F1" in said.out
    assert "the sequence adds " in said.out
    assert all(said.out.count(name) >= 3 for name in CLASSES)  # F1, a row and a column
    assert not any(len(line) > 150 for line in said.out.splitlines())
    result = json.loads((place / "cv" / "crossval.json").read_text())
    settings = result["settings"]
    assert (settings["epochs"], settings["seed"], settings["lr"]) == (1, 3, RECIPE["lr"])
    assert settings["init"].startswith("cnn-bilstm-")
    assert settings["classes"] == list(CLASSES)
    assert sorted(file.name for file in (place / "cv").iterdir()) == [
        "confusion.png", "crossval.json", "fold_01.json", "fold_05.json", "folds.csv", "predictions.csv",
        "settings.json",
    ]  # fmt: skip
    assert crossval(*words) == 0
    assert capsys.readouterr() == said  # the seconds are those of the first time
    assert crossval(*words, "--seed", 4) == 2
    assert capsys.readouterr().err.endswith("(seed was 3, is 4): name another --out\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--data"),
        (["--data", "ck48"], "'ck48' is not NAME=PATH"),
        (["--data", "ck48=nowhere"], "nowhere"),
        (["--data", "folder=ck48"], "give --data ck48=PATH, and no other"),
        (["--data", "ck48=ck48", "--data", "ck48=ck48"], "give --data ck48=PATH, and no other"),
        (["--data", "ck48=strangers"], "2 of the data's subjects are in no fold"),
        (["--data", "ck48=ck48", "--init", "no.safetensors"], "no.safetensors"),
        (["--data", "ck48=ck48", "--epochs", "0"], "--epochs is 0"),
        (["--data", "ck48=ck48", "--epochs", "many"], "--epochs"),
        (["--data", "ck48=ck48", "--seed", "-1"], "--seed is -1"),
        (["--data", "ck48=ck48", "--out", "tiny.json"], "tiny.json holds something else"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    write_images(place / "strangers", ["S001", "S002"])
    before = sorted(place.rglob("*"))
    assert crossval("--out", "cv", *words) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert said in streams.err
    assert streams.err.count("\n") == 1
    assert sorted(place.rglob("*")) == before
