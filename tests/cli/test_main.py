"""Test the help, the commands and the errors of `fer-batch`."""

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from fer_batch.cli.app import app, parse_command
from fer_batch.cli.main import main
from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import save_checkpoint
from fer_batch.schema import EMOTIONS
from tests.cli.conftest import ReadError

COMMANDS = [name for name in app.resolved_commands() if not name.startswith("-")]


def run(*words: object) -> int:
    """Return the exit code of a command line."""
    return main([str(word) for word in words])


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    without_command = capsys.readouterr()
    assert run("--help") == 0
    assert capsys.readouterr() == without_command


@pytest.mark.parametrize(
    "words",
    [
        "analyse", "--fps 5", "Query x SELECT", "analyze video.mp4", "completion", "completion cmd.exe",
        "forget", "forget out", "query", "query out", "query out SELECT --format xml", "report",
        "report out", "report out video", "verify",
    ],
)  # fmt: skip
def test_unknown_and_missing_arguments_are_reported_in_one_line(words: str, read_error: ReadError) -> None:
    read_error(*words.split())


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None, Path.touch])
@pytest.mark.parametrize("words", [["query", "OUT", "SELECT 1"], ["verify", "OUT"], ["view", "OUT"]])
def test_folder_without_a_run_is_reported_in_one_line(
    make: Callable[[Path], None], words: list[str], tmp_path: Path, read_error: ReadError
) -> None:
    make(tmp_path / "out")
    out = str(tmp_path / "out")
    assert out in read_error(*(out if word == "OUT" else word for word in words))


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert "fer-batch demo" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    streams = capsys.readouterr()
    assert streams.err == ""
    examples = streams.out.partition("Examples")[2]
    assert f"\n  fer-batch {command} " in examples
    assert not any(len(line) > 120 for line in streams.out.splitlines())
    assert not re.search(r"default: (\(\)|False|None)", streams.out)


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"fer-batch {version('fer-batch')}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_file(name: str, content: bytes, given: str = "") -> Callable[[Path], list[str]]:
    """Return a function that writes one file and returns the input to give, by default the file."""

    def make(folder: Path) -> list[str]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return [given or name]

    make.__name__ = f"{name} {given}"
    return make


def empty_folder(folder: Path) -> list[str]:
    (folder / "videos").mkdir()
    return ["videos"]


def named(*words: str) -> Callable[[Path], list[str]]:
    """Return a function that returns inputs and writes nothing."""
    return lambda folder: list(words)


def with_video(*options: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "video.mp4").write_bytes(b"")
        return ["video.mp4", *options]

    make.__name__ = " ".join(options)
    return make


def with_checkpoint(make: Callable[[Path], Path]) -> Callable[[Path], list[str]]:
    def case(folder: Path) -> list[str]:
        return with_video("--checkpoint", str(make(folder)))(folder)

    case.__name__ = make.__name__
    return case


def checkpoint_missing(folder: Path) -> Path:
    return folder / "model.safetensors"


def checkpoint_of_another_suffix(folder: Path) -> Path:
    path = folder / "model.pt"
    path.write_bytes(b"")
    return path


def checkpoint_in_an_empty_folder(folder: Path) -> Path:
    path = folder / "model"
    path.mkdir()
    return path


def good_checkpoint(folder: Path) -> Path:
    path = folder / "model.safetensors"
    architecture = {"classes": 7, "filters": [8, 8, 8, 8]}
    save_checkpoint(path, CnnBiLstm(**architecture), Card(classes=EMOTIONS, architecture=architecture))
    return path


def edit(path: Path, **changes: object) -> Path:
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))
    return path


def checkpoint_that_is_a_pickle(folder: Path) -> Path:
    path, data = good_checkpoint(folder), pickle.dumps({"weight": [0.0]})
    path.write_bytes(data)
    return edit(path, sha256=hashlib.sha256(data).hexdigest())


def checkpoint_of_another_card(folder: Path) -> Path:
    return edit(good_checkpoint(folder), sha256="0" * 64)


def checkpoint_wider_than_its_card(folder: Path) -> Path:
    return edit(good_checkpoint(folder), architecture={"classes": 7, "filters": [8, 8, 8, 16]})


def checkpoint_of_an_unknown_architecture(folder: Path) -> Path:
    return edit(good_checkpoint(folder), architecture={"layers": 50})


def checkpoint_with_a_card_of_text(folder: Path) -> Path:
    path = good_checkpoint(folder)
    path.with_suffix(".json").write_text("hello\nworld")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (named(), "no videos named"),
        (named("nowhere.mp4"), "nowhere.mp4"),
        (named("nowhere.csv"), "nowhere.csv"),
        (empty_folder, "no videos found in videos"),
        (with_file("videos/notes.md", b"hello", "videos"), "1 other file skipped"),
        (named("*.mp4"), "*.mp4"),
        (with_file("list.csv", b"name,speaker\na.mp4,Ada\n"), "list.csv has no column named path"),
        (with_file("list.csv", b""), "list.csv has no column"),
        (with_file("list.txt", b"# nothing yet\n\n"), "no videos found in list.txt"),
        (with_file("list.txt", b"\xff\xfe\x00a"), "list.txt can't be read"),
        (with_video("--fps", "-1"), "--fps must be above 0 and at most 1000, got -1"),
        (with_video("--fps", "0"), "--fps must be above 0"),
        (with_video("--fps", "nan"), "got nan"),
        (with_video("--fps", "inf"), "got inf"),
        (with_video("--fps", "five"), "five"),
        (with_video("--min-face", "0"), "--min-face must be"),
        (with_video("--min-face", "1.5"), "got 1.5"),
        (with_video("--min-score", "1"), "--min-score must be"),
        (with_video("--max-gap", "-0.1"), "--max-gap must be"),
        (with_video("--segment", "0.5"), "--segment must be"),
        (with_video("--bundle", "30"), "--bundle must be at least the length of a segment, 60 s, got 30"),
        (with_video("--colour", "blue"), "--colour"),
        (with_video("--fast", "--keyframes"), "--fast excludes --keyframes"),
        (with_video("--checkpoint"), "--checkpoint"),
        (with_checkpoint(checkpoint_missing), "model.safetensors"),
        (with_checkpoint(checkpoint_of_another_suffix), "model.pt"),
        (with_checkpoint(checkpoint_in_an_empty_folder), "model.safetensors"),
        (with_checkpoint(checkpoint_that_is_a_pickle), "model.safetensors"),
        (with_checkpoint(checkpoint_of_another_card), "model.safetensors"),
        (with_checkpoint(checkpoint_wider_than_its_card), "model.safetensors"),
        (with_checkpoint(checkpoint_of_an_unknown_architecture), "model"),
        (with_checkpoint(checkpoint_with_a_card_of_text), "model.json"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_invalid_input_is_reported_and_writes_nothing(
    make: Callable[[Path], list[str]], message: str, place: Path, read_error: ReadError
) -> None:
    assert message in read_error("analyze", *make(place), "--out", "out")


@pytest.mark.parametrize(
    "words",
    [
        "analyze ADDRESS --out results",
        "analyze talks --out ADDRESS",
        "analyze talks --out=ADDRESS --unknown",
        "plan ADDRESS",
        "query ADDRESS SELECT",
        "plot results ADDRESS -o ADDRESS",
        "train --data fer2013=ADDRESS --out run",
        "train --data=fer2013=ADDRESS --init ADDRESS",
        "evaluate --checkpoint ADDRESS",
        "submit analyze ADDRESS --out /mnt/results --address http://localhost:1",
        "submit follow job --address ADDRESS",
    ],
)
@pytest.mark.parametrize(
    "address", ["https://host/a?S3cr3t", "https:/user:S3cr3t@host/a", "s3://b/a#x=S3cr3t"]
)
def test_secret_in_an_argument_is_refused_and_not_shown(
    words: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("ADDRESS", address) for word in words.split()]) == 2
    output = capsys.readouterr()
    assert "contains a password or a query" in output.err
    assert "S3cr3t" not in output.err + output.out


@pytest.mark.parametrize(("flag", "value"), [("--fast", "nonref"), ("--keyframes", "keyframes")])
def test_flags_set_the_field_fast(flag: str, value: str) -> None:
    for words in (["analyze", flag, "a.mp4", "--out", "out"], ["plan", "a.mp4", flag], ["bench", flag, "a"]):
        assert parse_command(words)[1].arguments["config"].fast == value


@pytest.mark.parametrize("command", ["analyze", "demo"])
@pytest.mark.parametrize("kind", ["folder", "file", "run of another program"])
def test_folder_with_other_content_is_not_changed(
    command: str, kind: str, place: Path, read_error: ReadError
) -> None:
    words = with_video()(place) if command == "analyze" else []
    thesis = place / "out"
    if kind != "file":
        thesis.mkdir()
        thesis /= "thesis.tex" if kind == "folder" else "run.json"
    thesis.write_text('{"years": "of work"}')
    assert str(place / "out") in read_error(command, *words, "--out", "out")
    assert thesis.read_text() == '{"years": "of work"}'


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_finalize_without_a_run_writes_nothing(
    content: str | None, place: Path, read_error: ReadError
) -> None:
    if content is not None:
        (place / "out").mkdir()
        (place / "out" / "run.json").write_text(content)
    assert "out" in read_error("finalize", "out")


def test_pickled_checkpoint_is_never_loaded(place: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, place / "model.safetensors")
    (place / "model.json").write_text("{}")
    assert run("analyze", *with_video("--checkpoint", "model.safetensors")(place), "--out", "out") == 2
    assert not (place / "out").exists()
