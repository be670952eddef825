"""Test `fer-batch tune`."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.train_config import TrainConfig
from fer_batch.training.tune.space import locate_base
from fer_batch.training.tune.study import DONE, FAILED, TrialRecord
from tests.cli.conftest import ReadError
from tests.training.examples import make_epoch

DATA = ["--data", "folder=faces"]


def tune(*words: str) -> int:
    return main(["tune", *words])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a folder with one face of each of two classes, and a folder that is not a study."""
    monkeypatch.chdir(tmp_path)
    for name in ("calm", "wild"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        Image.fromarray(np.full((48, 48), len(name), np.uint8)).save(tmp_path / "faces" / name / "1.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data"),
        (["--data", "faces"], "a data set must be NAME=PATH"),
        (["--data", "folder=gone"], "gone: there is no such file or folder"),
        (["--data", "clips=faces"], "--data clips=… does not work with tune"),
        (DATA, "the data has no images of the split 'train'"),
        ([*DATA, "--recipe", "vgg"], "--recipe must be one of default, cnn-bilstm-fer2013, cnn-bilstm-fer6"),
        ([*DATA, "--recipe", "gone.toml"], "--recipe: cannot read gone.toml as a .toml file"),
        ([*DATA, "--init", "gone.safetensors"], "gone.safetensors"),
        ([*DATA, "--trials", "0"], "--trials must be at least 1, got 0"),
        ([*DATA, "--trials", "many"], "many"),
        ([*DATA, "--metric", "loss"], "loss"),
        ([*DATA, "--parallel", "0"], "--parallel must be at least 1, got 0"),
        ([*DATA, "--gpus", "some"], "--gpus must be auto or a whole number from 0, got some"),
        ([*DATA, "--out", "s3://archive/study"], "Cannot write to s3://archive/study: give a folder on this"),
        ([*DATA, "--epochs", "0"], "--epochs must be a whole number from 1, got 0"),
        ([*DATA, "--workers", "2"], "--workers must be 1; --parallel runs several trials, got 2"),
        ([*DATA, "--lr", "0"], "--lr must be above 0, got 0"),
        ([*DATA, "--out", "other"], "other contains files other than a study"),
        ([*DATA, "--out", "faces/calm/1.png"], "1.png is a file; --out needs a folder"),
    ],
)
def test_invalid_arguments_are_reported_and_write_nothing(
    words: list[str], message: str, here: Path, read_error: ReadError
) -> None:
    assert message in read_error("tune", "--out", "study", *words)


@pytest.fixture
def study(here: Path) -> Path:
    """Write a study of `DATA` with three finished trials."""
    config = TrainConfig(data=(("folder", str(here / "faces")),), epochs=2)
    out = here / "study"
    (out / "trials").mkdir(parents=True)
    settings = {**config.to_dict(), "metric": "accuracy"}
    (out / "study.json").write_text(json.dumps({"settings": settings}))
    point = locate_base(config)
    tried = [
        (point, DONE, "", [0.3, 0.5]),
        (dataclasses.replace(point, lr=0.05, imbalance="focal"), DONE, "", [0.4, 0.625]),
        (dataclasses.replace(point, lr=0.3), FAILED, "it diverged [bold]", []),
        (dataclasses.replace(point, width=0.5), DONE, "", [0.2]),
    ]
    for number, (values, status, reason, scores) in enumerate(tried, 1):
        history = [make_epoch(epoch, score, seconds=3.0) for epoch, score in enumerate(scores, 1)]
        record = TrialRecord(number=number, values=values, status=status, reason=reason, history=history)
        record.write(out)
    return out


def test_finished_study_prints_a_table_and_writes_plots(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*DATA, "--epochs", "2", "--trials", "4", "--out", "study"]
    assert tune(*words) == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    rows = [line.split("│") for line in streams.out.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ["2", "1", "4", "3"]
    assert [row[-2].strip() for row in rows] == ["done", "done", "stopped early", "failed it diverged [bold]"]
    assert "0.6250" in streams.out
    assert "study/best.toml: trial 2" in streams.out
    for name in ("history.png", "parameters.png", "curves.png"):
        with Image.open(study / name) as picture:
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert not (study / "importance.png").exists()  # of three trials
    assert len(list(csv.DictReader((study / "trials.csv").read_text().splitlines()))) == 4
    assert 'imbalance = "focal"' in (study / "best.toml").read_text()
    assert tune(*words, "--lr", "0.2") == 2
    assert "(lr was 0.1, is 0.2); give another --out" in capsys.readouterr().err
