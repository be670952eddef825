"""Test `fer-batch export`."""

from pathlib import Path

import pytest

from fer_batch.cli.export import CONTENTS
from fer_batch.cli.main import main
from fer_batch.timeline.export.export import SUFFIXES
from tests.cli.conftest import ReadError
from tests.runs import write_run

VIDEOS = {"/talks/one.mp4": [["happy", "sad"]], "/talks/two.mp4": None}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("export") / "run", VIDEOS)


def run(*words: object) -> int:
    return main(["export", *map(str, words)])


def test_every_format_has_a_noun_for_its_entries() -> None:
    assert [suffix.lower() for suffix in SUFFIXES.values()] == list(CONTENTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one.mp4", "-o", "one.vtt"], "one.vtt: 2 captions, 1 file\n"),
        (["one.mp4", "-o", "one.eaf"], "one.eaf: 2 annotations, 1 file\n"),
        (["one.mp4", "--output", "one.textgrid"], "one.textgrid: 2 annotations, 1 file\n"),
        (["one.mp4", "-o", "one.vtt", "--threshold", ".95"], "one.vtt: 0 captions, 1 file\n"),
        (["one.mp4", "-o", "one.vtt", "--min", "0.3"], "one.vtt: 0 captions, 1 file\n"),
        (["two.mp4", "-o", "two.vtt"], "two.vtt: 0 captions, 1 file\n  two.vtt: failed: no index\n"),
        (["-o", "rows.csv"], "rows.csv: 2 rows, 1 file\n"),
        (["-o", "rows.csv", "--min-face-px", "145"], "rows.csv: 0 rows, 1 file\n"),
        (["-o", "rows.jsonl", "--format", "jsonl"], "rows.jsonl: 2 rows, 1 file\n"),
        (["-o", "all.xlsx"], "all.xlsx: 2 videos, 1 file\n"),
        (["-o", ".", "--format", "vtt"], ".: 2 captions, 2 files\n  two.vtt: failed: no index\n"),
    ],
)
def test_summary_line_counts_the_entries(
    words: list[str],
    message: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(finished, *words) == 0
    assert capsys.readouterr() == (message, "")
    assert len(list(tmp_path.iterdir())) == (2 if "." in words else 1)


def test_run_without_videos_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_run(tmp_path / "run", {})
    assert run(out, "-o", tmp_path / "folder", "--format", "eaf") == 0
    assert "nothing to write" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-o", "all"],
        ["-o", "all.vtt"],
        ["nowhere.mp4", "-o", "a.csv"],
        ["-o", "a.csv", "--format", "xml"],
        ["-o", "a.csv", "--threshold", "high"],
        ["-o", "a.csv", "--threshold", "0.5"],
        ["-o", "s3://bucket/a.csv"],
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    words: list[str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_error: ReadError
) -> None:
    monkeypatch.chdir(tmp_path)
    read_error("export", finished, *words)
