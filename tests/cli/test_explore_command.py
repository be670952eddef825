"""Test `fer-batch explore`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.cli.main import main
from tests.cli.conftest import ReadError


def explore(*words: object) -> int:
    return main(["explore", *map(str, words)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a folder with a data set in `faces`."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("train/happy/a", "train/happy/b", "train/happy/c", "train/sad/a", "test/sad/a"):
        path = tmp_path / "faces" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48), np.uint8)).save(path)
    return tmp_path


def test_results_are_printed_and_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "faces" / "train" / "sad" / "broken.png").write_bytes(b"not a picture")
    bad = place / "more" / os.fsdecode(b"[red]\xff") / "a.png"
    bad.parent.mkdir(parents=True)
    bad.write_bytes((place / "faces" / "test" / "sad" / "a.png").read_bytes())
    assert explore("--data", "folder=faces", "--data", "folder=more", "--no-samples", "-o", "look") == 0
    streams = capsys.readouterr()
    assert streams.err == "folder: 5 images (left out: 1 unreadable)\nfolder 2: 1 images\n"
    for text in ("happy", "75.0 %", "largest / smallest class", "3.0", "in several splits", "sharpness"):
        assert text in streams.out
    assert "[red]\\udcff" in streams.out
    assert "unreadable, left out" in streams.out
    assert "look/explore.html" in streams.out
    assert not any(len(line) > 130 for line in streams.out.splitlines())
    figures = json.loads((place / "look" / "explore.json").read_text())
    assert [part["n"]["all"] for part in figures["data"]] == [5, 1]
    assert figures["duplicates"]["across_data"]["sets"] == 1
    assert figures["pictures"] == {"samples": {}, "odd": {}}
    assert not list((place / "look").glob("samples*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data is missing"),
        (["--data", "faces"], "a data set must be NAME=PATH, as in fer2013=fer2013.parquet; got 'faces'"),
        (["--data", "fer=faces"], "unknown data set 'fer'"),
        (["--data", "clips=faces"], "expected images, got videos"),
        (["--data", "folder=nowhere"], "there is no such file or folder"),
        (["--data", "folder=faces", "--data", "ck48=nowhere"], "there is no such file or folder"),
        (["--data", "folder=empty"], "no files like"),
        (["--data", "fer2013=text.csv"], "expected a CSV"),
        (["--data", "folder=faces", "-o", "text.csv"], "text.csv is a file"),
        (["--data", "folder=faces", "-o", "text.csv/look"], "text.csv is a file"),
        (["--data", "folder=faces", "--classes", "a,b"], "--classes"),
    ],
)
def test_invalid_data_is_reported_and_writes_nothing(
    place: Path, read_error: ReadError, words: list[str], message: str
) -> None:
    (place / "text.csv").write_text("label,picture\n1,2\n")
    (place / "empty" / "happy").mkdir(parents=True)
    assert message in read_error("explore", *words, *([] if "-o" in words else ["-o", "look"]))
