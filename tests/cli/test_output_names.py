"""Names for output that cannot be printed are refused before any work."""

from pathlib import Path

import pytest

from fer_batch.errors import OutputError
from fer_batch.storage.folder import open_folder
from tests.cli.conftest import ReadError

COMMANDS = [
    "analyze SAMPLE --out NAME",
    "train --data folder=DATA --out NAME",
    "tune --data folder=DATA --out NAME",
    "evaluate --data folder=DATA -o NAME",
    "explore --data folder=DATA -o NAME",
    "explain SAMPLE -o NAME",
    "query RUN SELECT -o NAME.csv",
    "plot RUN -o NAME.png",
    "report RUN talk.mp4 -o NAME.html",
    "overlay RUN talk.mp4 -o NAME.mp4",
    "export RUN -o NAME.csv",
    "ask shares RUN -o NAME.csv",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_unprintable_output_is_refused_in_one_line(
    command: str, tmp_path: Path, sample: Path, read_error: ReadError
) -> None:
    (tmp_path / "data" / "happy").mkdir(parents=True)
    places = {"NAME": str(tmp_path / "a\x1b\tb"), "SAMPLE": str(sample), "DATA": str(tmp_path / "data")}
    words = []
    for word in command.split():
        for name, value in places.items():
            word = word.replace(name, value)
        words.append(word)
    message = read_error(*words)
    assert "contains the control character \\x1b" in message
    assert message.rstrip("\n").isprintable()


@pytest.mark.parametrize("mark", ["\t", "\n", "\r", "\x1b", "\x00", "\x7f", "\x9b", "\u202e", "\udcff"])
@pytest.mark.parametrize("folder", ["{}", "a{}b/run"])
def test_unprintable_run_folder_is_refused(mark: str, folder: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="control character"):
        open_folder(tmp_path / folder.format(mark)).check_usable()


def test_relative_folder_in_an_unprintable_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a\nb").mkdir()
    monkeypatch.chdir(tmp_path / "a\nb")
    with pytest.raises(OutputError, match="control character"):
        open_folder("run").check_usable()
