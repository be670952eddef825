"""Commands that write a file without -o choose a name that is free, and print it."""

from pathlib import Path

import pytest

from fer_batch.cli.default_names import choose_free_name
from fer_batch.cli.main import main
from tests.cli.conftest import ReadError
from tests.runs import write_run

VIDEOS = {"/talks/monday.mp4": [["happy"] * 5], "/talks/a: b?.mkv": [["sad"]]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("names") / "results", VIDEOS)


def test_free_name_counts_existing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_free_name("a", ".png") == Path("a.png")
    Path("a.png").write_text("mine")
    Path("a-2.png").symlink_to("nowhere")
    assert choose_free_name("a", ".png") == Path("a-3.png")
    assert choose_free_name("a") == Path("a")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["plot"], "results-strip.png"),
        (["plot", "monday.mp4"], "monday-ribbons.png"),
        (["plot", "--kind", "shares"], "results-shares.png"),
        (["report"], "results-report.html"),
        (["report", "monday.mp4"], "monday-report.html"),
        (["report", "a: b?.mkv"], "a_ b_-report.html"),
        (["export", "--format", "csv"], "results.csv"),
        (["export", "monday.mp4", "--format", "srt"], "monday.srt"),
        (["export", "monday.mp4", "--format", "xlsx"], "monday.xlsx"),
        (["export", "--format", "eaf"], "results-eaf"),
    ],
    ids=" ".join,
)
def test_file_without_a_given_name_is_new_and_printed(
    words: list[str],
    name: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [words[0], str(finished), *words[1:]]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(name)
    (path,) = tmp_path.iterdir()
    assert path.name == name
    before = path.read_bytes() if path.is_file() else sorted(path.iterdir())
    assert main(command) == 0
    stem, dot, suffix = name.partition(".")
    second = f"{stem}-2{dot}{suffix}"
    assert capsys.readouterr().out.startswith(second)
    assert {path.name for path in tmp_path.iterdir()} == {name, second}
    assert before == (path.read_bytes() if path.is_file() else sorted(path.iterdir()))


def test_export_without_a_name_needs_a_format(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_error: ReadError
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--output or --format" in read_error("export", finished)
