"""Test `fer-batch crossval`."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.evaluation.crossval.crossval import CK48_CLASSES as CLASSES
from fer_batch.evaluation.crossval.crossval import CK48_RECIPE as RECIPE
from fer_batch.evaluation.crossval.folds import read_frozen_folds as read_folds
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import save_checkpoint
from fer_batch.schema import EMOTIONS
from tests.cli.conftest import ReadError

DATA = ["--data", "ck48=ck48"]


def crossval(*words: object) -> int:
    return main(["crossval", *map(str, words)])


def write_images(path: Path, subjects: list[str]) -> None:
    """Write a happy and a sad sequence of each subject."""
    random = np.random.default_rng(0)
    for subject in subjects:
        for number, label in enumerate(("happy", "sadness")):
            (path / label).mkdir(parents=True, exist_ok=True)
            for frame in range(3):
                image = Image.fromarray(random.integers(0, 256, (48, 48), np.uint8))
                image.save(path / label / f"{subject}_{number:03d}_{frame:08d}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a folder with a tiny CK+48 of two people of different folds, and a tiny checkpoint."""
    monkeypatch.chdir(tmp_path)
    folds = read_folds()
    write_images(tmp_path / "ck48", [folds[0][0], folds[4][0]])
    architecture: dict[str, Any] = {"classes": len(EMOTIONS), "filters": [4, 8], "depths": [1, 1], "fold": 2}
    torch.manual_seed(0)
    card = Card(classes=EMOTIONS, architecture=architecture)
    save_checkpoint(tmp_path / "tiny.safetensors", CnnBiLstm(**architecture), card)
    return tmp_path


def test_results_are_printed_and_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "ck48=ck48", "--init", "tiny.safetensors", "--epochs", 1, "--seed", 3]
    words += ["--out", "cv", "--parallel", 1]
    assert crossval(*words) == 0
    streams = capsys.readouterr()
    assert "data: 116 subjects of the folds are missing\n" in streams.err
    assert "fold 1 of 10: 2 sequences, CNN " in streams.err
    assert "fold 5 of 10: 2 sequences, CNN " in streams.err
    assert streams.err.count("\n") == 3
    assert "CK+48, 4 sequences of 2 people, 2 folds pooled" in streams.out
    assert "macro-F1" in streams.out
    assert "sequence instead of last frame" in streams.out
    assert all(streams.out.count(name) >= 3 for name in CLASSES)  # F1, a row and a column
    assert not any(len(line) > 150 for line in streams.out.splitlines())
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
    assert capsys.readouterr() == streams  # the seconds are those of the first time
    assert crossval(*words, "--seed", 4) == 2
    assert capsys.readouterr().err.endswith("(seed was 3, is 4): give another --out\n")


RECIPE_FILE = """
network = "dcnn-bilstm"
classes = ["happy", "sad"]
filters = [4]
depths = [1]
dropouts = [0.0, 0.0, 0.0, 0.0]
window_length = 3
sequence_epochs = 0
"""


def test_leak_between_divisions_is_reported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "dcnn.toml").write_text(RECIPE_FILE)
    words = ["--data", "ck48=ck48", "--recipe", "dcnn.toml", "--epochs", 1, "--parallel", 1, "--by", "both"]
    assert crossval(*words, "--folds", 2, "--out", "cv") == 0
    streams = capsys.readouterr()
    assert [line.split(" sequences")[0] for line in streams.err.splitlines()] == [
        "at random, fold 1 of 2: 2", "at random, fold 2 of 2: 2",
        "by subject, fold 1 of 2: 2", "by subject, fold 2 of 2: 2",
    ]  # fmt: skip
    assert streams.out.startswith("CK+48, 4 sequences of 2 people, 2 folds pooled\n")
    assert "the model, at random" in streams.out
    assert "mean of folds, accuracy" in streams.out
    assert "leak: at random instead of by subject, the model" in streams.out
    (counts,) = (line for line in streams.out.splitlines() if "also in training" in line)
    assert [cell.strip() for cell in counts.split("│")[2:4]] == ["4", "0"]
    assert "confusion_random.png, confusion_subject.png are beside it\n" in streams.out
    assert json.loads((place / "cv" / "crossval.json").read_text())["settings"]["init"] is None
    assert crossval(*words, "--test-share", 0.5, "--repeats", 2, "--out", "share") == 0
    streams = capsys.readouterr()
    assert streams.err.startswith("at random, seed 0: 2 sequences, accuracy ")
    assert "0.5 of them tested, 2 times" in streams.out
    assert "mean of repeats, accuracy" in streams.out


@pytest.mark.slow
@pytest.mark.timeout(1200)  # on a busy machine Ray alone takes minutes to start
def test_killed_crossval_continues_with_the_remaining_folds(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "dcnn.toml").write_text(RECIPE_FILE)
    write_images(place / "ck48", [f"S{number}" for number in range(200, 210)])
    words = ["--data", "ck48=ck48", "--recipe", "dcnn.toml", "--epochs", "30", "--folds", "4"]
    words += ["--parallel", "2", "--out", "cv"]
    command = [sys.executable, "-m", "fer_batch.cli.main", "crossval", *words]
    with (place / "message").open("wb") as text:
        killed = subprocess.Popen(command, stderr=text)
    deadline = time.monotonic() + 600
    while not list((place / "cv").glob("fold_*.json")) and time.monotonic() < deadline:
        assert killed.poll() is None, (place / "message").read_text()
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    time.sleep(1)  # its processes end with it
    done = {file.name: file.stat().st_mtime_ns for file in (place / "cv").glob("fold_*.json")}
    assert 0 < len(done) < 4
    assert subprocess.run(command, capture_output=True, check=True, text=True).stderr.count(" of 4: ") == 4
    assert {name: (place / "cv" / name).stat().st_mtime_ns for name in done} == done
    assert crossval(*words[:-3], "1", "--out", "alone") == 0
    there, here = (json.loads((place / out / "crossval.json").read_text()) for out in ("cv", "alone"))
    for result in (there, here):
        for row in result["folds"]:
            del row["seconds"]
    assert there == here


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data"),
        (["--data", "ck48"], "a data set must be NAME=PATH"),
        (["--data", "ck48=nowhere"], "nowhere"),
        (["--data", "folder=ck48"], "give --data ck48=PATH, and no other"),
        ([*DATA, "--data", "ck48=ck48"], "give --data ck48=PATH, and no other"),
        (["--data", "ck48=strangers"], "2 of the data's subjects are in no fold"),
        ([*DATA, "--init", "no.safetensors"], "no.safetensors"),
        ([*DATA, "--epochs", "0"], "--epochs must be at least 1, got 0"),
        ([*DATA, "--epochs", "many"], "--epochs"),
        ([*DATA, "--seed", "-1"], "--seed must be at least 0, got -1"),
        ([*DATA, "--folds", "1"], "--folds must be at least 2, got 1"),
        ([*DATA, "--folds", "3"], "2 people or different images, fewer than --folds 3"),
        (
            [*DATA, "--folds", "2", "--test-share", "0.3"],
            "--folds and --test-share exclude each other",
        ),
        ([*DATA, "--test-share", "1.5"], "--test-share must be above 0 and below 1, got 1.5"),
        ([*DATA, "--test-share", "0.1"], "--test-share 0.1 of the 4 examples is none"),
        ([*DATA, "--repeats", "0"], "--repeats must be at least 1, got 0"),
        ([*DATA, "--parallel", "0"], "--parallel must be at least 1, got 0"),
        ([*DATA, "--by", "luck"], "--by"),
        ([*DATA, "--recipe", "theirs"], "--recipe must be one of default, cnn-bilstm-fer2013, cnn-"),
        ([*DATA, "--recipe", "no.toml"], "--recipe: cannot read no.toml as a .toml file"),
        (
            [*DATA, "--recipe", "cnn4-fer2013"],
            "no examples of the class angry, disgust, fear, n",
        ),
        ([*DATA, "--out", "tiny.json"], "tiny.json is a file; --out needs a folder"),
    ],
)
def test_invalid_arguments_are_reported_and_write_nothing(
    place: Path, read_error: ReadError, words: list[str], message: str
) -> None:
    write_images(place / "strangers", ["S001", "S002"])
    assert message in read_error("crossval", *words, *([] if "--out" in words else ["--out", "cv"]))
