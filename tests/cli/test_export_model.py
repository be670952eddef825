"""Test `fer-batch export-model`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.errors import CheckpointError
from fer_batch.model.recognize import Recognizer
from tests.onnx_models import CLASSES, write_checkpoint


def run(*words: object) -> int:
    return main([*map(str, words)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a training run `run`, a checkpoint `tiny.safetensors`, and two data sets."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "run").mkdir()
    write_checkpoint(folder / "run" / "model.safetensors", "cnn4")
    write_checkpoint(folder / "tiny.safetensors", "cnn4")
    random = np.random.default_rng(0)
    for name, classes in (("faces", CLASSES), ("others", ("bored", "calm"))):
        for label in classes:
            (folder / name / label).mkdir(parents=True)
            for number in range(30):
                image = Image.fromarray(random.integers(0, 256, (48, 48), np.uint8))
                image.save(folder / name / label / f"{number}.png")
    (folder / "videos").mkdir()
    (folder / "videos" / "run.json").write_text("{}")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def target(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return tmp_path


def test_exported_training_run_can_be_evaluated(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (target / "model.onnx").write_text("other content")
    assert run("export-model", "run", "-o", target / "model.onnx", "--data", "folder=faces") == 0
    streams = capfd.readouterr()
    card = Recognizer(target / "model.onnx", "cpu").card
    assert streams.out.startswith(f"{target / 'model.onnx'}: {card.model_id}, from cnn4-")
    assert "on random crops and 90 of the data\n" in streams.out
    assert streams.out.count("\n") == 2
    assert card.classes == CLASSES
    assert [path.name for path in target.iterdir()] == ["model.onnx"]
    words = ["--data", "folder=faces", "--checkpoint", target / "model.onnx"]
    assert run("evaluate", *words, "-o", target / "report") == 0
    assert json.loads((target / "report" / "metrics.json").read_text())["model_id"] == card.model_id


@pytest.mark.slow
def test_int8_reports_the_change_of_accuracy(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["tiny.safetensors", "-o", target / "small.ONNX", "--int8", "--data", "folder=faces"]
    assert run("export-model", *words) == 0
    streams = capfd.readouterr()
    assert "before int8" in streams.out
    assert "examples of the split select, float32 → int8:" in streams.out
    assert [word in streams.out for word in ("accuracy 0.", "macro-F1 0.", "the same prediction for ")] == [
        True
    ] * 3
    assert "setting ranges by" in streams.err
    assert Recognizer(target / "small.ONNX", "cpu").card.network == "cnn4"
    assert [path.name for path in target.iterdir()] == ["small.ONNX"]


@pytest.mark.slow
def test_exported_packaged_checkpoint_analyzes_the_sample(
    target: Path, sample: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("export-model", "default", "-o", target / "model.onnx") == 0
    assert "of the packaged sample video" in capfd.readouterr().out
    card = Recognizer(target / "model.onnx", "cpu").card
    assert card.window_length == 17
    words = [sample, "--fps", 1, "--checkpoint", target / "model.onnx", "--out", target / "out"]
    assert run("analyze", *words) == 0
    seen = pd.read_parquet(target / "out" / "tracks")
    assert len(seen) > 10
    assert set(seen["model_id"]) == {card.model_id}


def test_export_with_other_probabilities_is_not_written(
    target: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fer_batch.model.onnx.export.TOLERANCE", -1.0)
    assert run("export-model", "run", "-o", target / "model.onnx", "--data", "folder=faces") == 2
    assert "differ from PyTorch's" in capfd.readouterr().err
    assert not list(target.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "-o", "T/model.pt"], "ends in .onnx"),
        (["run", "-o", "T"], "ends in .onnx"),
        (["default", "-o", "T/rows.csv"], "ends in .onnx"),
        (["run", "-o", "T/nowhere/model.onnx"], "no folder"),
        (["run", "-o", "T/folder.onnx"], "folder.onnx is a folder"),
        (["run", "-o", "s3://bucket/model.onnx"], "s3://bucket/model.onnx"),
        (["run", "one.mp4", "-o", "T/model.onnx"], "one.mp4"),
        (["run", "-o", "T/model.onnx", "--int8"], "--int8 needs --data"),
        (["run", "-o", "T/model.onnx", "--data", "faces"], "NAME=PATH"),
        (["run", "-o", "T/model.onnx", "--data", "folder=nowhere"], "nowhere"),
        (["run", "-o", "T/model.onnx", "--data", "folder=others"], "bored"),
        (["run", "-o", "T/model.onnx", "--data", "photos=faces"], "photos"),
        (["videos", "-o", "T/model.onnx"], "videos/model.safetensors"),
        (["empty", "-o", "T/model.onnx"], "empty/model.safetensors"),
        (["gone.safetensors", "-o", "T/model.onnx"], "gone.safetensors"),
        (["gone.onnx", "-o", "T/model.onnx"], "is an exported network"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    words: list[str], message: str, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (target / "folder.onnx").mkdir()
    assert run("export-model", *(word.replace("T", str(target), 1) for word in words)) == 2
    heard = capfd.readouterr()
    assert message in heard.err
    assert heard.out == ""
    assert heard.err.count("\n") == 1
    assert [path.name for path in target.iterdir()] == ["folder.onnx"]


def test_training_rejects_an_exported_model(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (target / "model.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError):
        Recognizer(target / "model.onnx", "cpu")
    words = ["--data", "folder=faces", "--init", target / "model.onnx", "--out", target / "run"]
    assert run("train", *words) == 2
    heard = capfd.readouterr().err
    assert "model.onnx is an exported network, which can only predict" in heard
    assert heard.count("\n") == 1
    assert not (target / "run").exists()
