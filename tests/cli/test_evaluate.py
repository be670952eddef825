"""Test `fer-batch evaluate`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.cli.main import main
from fer_batch.model.card import read_card
from fer_batch.schema import EMOTIONS
from tests.cli.conftest import ReadError
from tests.evaluation.faces import tiny

KEYS = {
    "accuracy", "balanced_accuracy", "macro_f1", "ece", "ece_expected", "ece_debiased", "nll", "per_class",
    "n", "intervals", "classes", "confusion", "model_id", "data", "split", "temperature", "flip", "averaging",
    "left_out", "without_answer",
}  # fmt: skip


FACES = ["--data", "fer2013=faces.csv"]


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_csv(path: Path, *usages: str) -> None:
    random = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for number, usage in enumerate(usages):
        pixels = " ".join(map(str, random.integers(0, 256, 48 * 48)))
        lines.append(f"{number % 7},{pixels},{usage}")
    path.write_text("\n".join(lines) + "\n")


def write_folder(path: Path, *labels: str) -> None:
    random = np.random.default_rng(1)
    for number, label in enumerate(labels):
        (path / label).mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (48, 48), np.uint8)
        Image.fromarray(image).save(path / label / f"{number}.png")


def test_results_are_printed_and_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(place / "faces.csv", *["PublicTest"] * 8, *["Training"] * 3)
    assert evaluate("--data", "fer2013=faces.csv", "--split", "publictest", "-o", "report") == 0
    streams = capsys.readouterr()
    assert streams.err == "fer2013: 8 faces or clips of the split select\n"
    assert "macro-F1" in streams.out
    assert "95 % interval" in streams.out
    assert all(streams.out.count(name) >= 3 for name in EMOTIONS)  # by class, a row and a column
    assert "report/metrics.json" in streams.out
    assert not any(len(line) > 110 for line in streams.out.splitlines())
    out = place / "report"
    figures = json.loads((out / "metrics.json").read_text())
    assert figures.keys() >= KEYS
    assert (figures["n"], figures["split"], figures["flip"]) == (8, "select", True)
    assert figures["classes"] == list(EMOTIONS)
    assert figures["model_id"] == read_card()[1].model_id
    assert sum(map(sum, figures["confusion"])) == 8
    assert {n: v["support"] for n, v in figures["per_class"].items()} == {
        n: 2 if n == "angry" else 1 for n in EMOTIONS
    }
    assert sorted(p.name for p in out.iterdir()) == [
        "confusion.csv", "confusion.png", "confusion_normalized.csv", "metrics.json", "mistakes.csv",
        "mistakes.png", "per_class.csv", "per_class.png", "reliability.png", "samples_right.png",
        "samples_wrong.png",
    ]  # fmt: skip
    for name in ("confusion.png", "reliability.png", "mistakes.png"):
        with Image.open(out / name) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_several_data_sets_and_an_unreadable_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(place / "faces.csv", *["Training"] * 5)
    write_folder(place / "own", "happy", "happy", "Sadness")
    (place / "own" / "happy" / "broken.png").write_bytes(b"not a picture")
    words = ["--data", "fer2013=faces.csv", "--data", "folder=own", "--no-flip", "--no-samples"]
    assert evaluate(*words, "-o", "report") == 0
    streams = capsys.readouterr()
    assert "fer2013: 5 faces or clips of the split train" in streams.err
    assert "folder: 3 faces or clips of the split train (left out: 1 unreadable)" in streams.err
    assert "show its memory" in streams.err
    assert ", without flip on fer2013, folder, train, n = 8" in streams.out
    figures = json.loads((place / "report" / "metrics.json").read_text())
    assert (figures["n"], figures["split"], figures["flip"]) == (8, "train", False)
    assert [part["n"] for part in figures["data"]] == [5, 3]
    assert figures["data"][1]["left_out"] == {"unreadable": 1}
    assert figures["averaging"] == "none"
    assert not [*(place / "report").glob("samples*"), *(place / "report").glob("mistakes.png")]


def test_checkpoints_and_averaging_are_compared_in_one_table(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(place / "own", *["happy", "bored", "sad", "sad"] * 3)
    tiny(place / "run" / "model.safetensors", "sad", "happy")
    row = {
        "epoch": 1,
        "phase": "stills",
        "loss": 1.0,
        "accuracy": 0.5,
        "macro_f1": 0.4,
        "n": 8,
        "seconds": 1.0,
    }
    (place / "run" / "history.json").write_text(json.dumps([row]))
    words = ["--data", "folder=own", "--checkpoint", "default", "--checkpoint", "run", "--ensemble"]
    words += ["--averaging", "flip", "none", "--common-classes", "--no-samples", "-o", "report"]
    assert evaluate(*words) == 0
    streams = capsys.readouterr()
    assert (
        "common classes: happy, sad; examples left out: 3 bored; classes that are not predicted: angry"
        in streams.out
    )
    table = [line.split("│")[1:] for line in streams.out.splitlines() if line.startswith("│")]
    names = ("default", "run", "ensemble")
    assert [[cell.strip() for cell in line[:2]] for line in table] == [
        [name, way] for name in names for way in ("flip", "none")
    ]
    assert ["to" in line[4] for line in table] == [False] + [True] * 5
    assert not any(len(line) > 110 for line in streams.out.splitlines()[1:])
    out = place / "report"
    assert sorted(p.name for p in out.iterdir()) == [
        "comparison.csv", "comparison.json", "comparison.png", "default", "ensemble", "run",
    ]  # fmt: skip
    with Image.open(out / "comparison.png") as image:
        assert image.width > 2000
    figures = {name: json.loads((out / name / "metrics.json").read_text()) for name in names}
    assert {name: one["classes"] for name, one in figures.items()} == {
        "default": ["happy", "sad"], "run": ["sad", "happy"], "ensemble": ["happy", "sad"],
    }  # fmt: skip
    compared = json.loads((out / "comparison.json").read_text())
    assert [row["accuracy"] for row in compared["rows"][::2]] == [one["accuracy"] for one in figures.values()]
    assert compared["left_out"] == {"bored": 3}
    assert json.loads((out / "run" / "history.json").read_text()) == [row]
    assert {p.name for p in (out / "run").iterdir()} - {p.name for p in (out / "default").iterdir()} == {
        "history.csv", "history.json", "learning_curves.png",
    }  # fmt: skip


def test_several_averagings_keep_the_report_of_the_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(place / "own", "happy", "sad", "sad")
    tiny(place / "one.safetensors", "sad", "happy")
    words = ["--checkpoint", "one.safetensors", "--averaging", "ten-crop", "none", "--no-samples"]
    assert evaluate("--data", "folder=own", *words, "-o", "report") == 0
    text = capsys.readouterr().out
    assert ", ten-crop on folder, train, n = 3" in text
    assert "compared on train, n = 3" in text
    assert json.loads((place / "report" / "metrics.json").read_text())["averaging"] == "ten-crop"
    assert (place / "report" / "comparison.csv").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data"),
        (["--data", "faces.csv"], "a data set must be NAME=PATH"),
        (["--data", "fer2013=nowhere.csv"], "nowhere.csv"),
        (["--data", "fer=faces.csv"], "fer"),
        (["--data", "fer2013=empty.csv"], "empty.csv"),
        (["--data", "fer2013=text.csv"], "text.csv"),
        (["--data", "folder=bored"], "not all checkpoints have: bored;"),
        (["--data", "folder=bored", "--common-classes"], "--common-classes needs two or more"),
        ([*FACES, "--ensemble"], "--ensemble needs two or more checkpoints"),
        ([*FACES, "--averaging", "five"], "five"),
        ([*FACES, "--averaging", "none", "--flip"], "exclude each other"),
        (
            [*FACES, "--checkpoint", "default", "--checkpoint", "none"],
            "none does not exist",
        ),
        (["--data", "folder=nothing"], "nothing"),
        ([*FACES, "--split", "dev"], "--split must be one of Training, "),
        ([*FACES, "--split", "PrivateTest"], "no examples in the split test"),
        ([*FACES, "--checkpoint", "faces.csv"], "faces.csv is not a checkpoint"),
        ([*FACES, "--checkpoint", "no.safetensors"], "no.safetensors"),
        ([*FACES, "-o", "faces.csv"], "faces.csv is a file"),
        ([*FACES, "-o", "faces.csv/report"], "faces.csv is a file"),
        ([*FACES, "--flop"], "--flop"),
    ],
)
def test_invalid_arguments_are_reported_and_write_nothing(
    place: Path, read_error: ReadError, words: list[str], message: str
) -> None:
    write_csv(place / "faces.csv", "Training", "Training", "PublicTest")
    write_csv(place / "empty.csv")
    (place / "text.csv").write_text("label,picture\n1,2\n")
    (place / "nothing").mkdir()
    write_folder(place / "bored", "happy", "bored")
    assert message in read_error("evaluate", *words, *([] if "-o" in words else ["-o", "report"]))
