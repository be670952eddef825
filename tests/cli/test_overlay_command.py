"""Test `fer-batch overlay`."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from tests.cli.conftest import ReadError
from tests.timeline.plots.test_overlay import grey, read_frames, write_run_of  # noqa: F401


def overlay(*words: object) -> int:
    return main(["overlay", *map(str, words)])


def test_overlay_writes_a_video(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_run_of(tmp_path / "run", str(sample))
    assert overlay(out, sample.name, "-o", tmp_path / "out.mp4", "--blur-faces") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.mp4'}: 250 frames\n"
    assert len(read_frames(tmp_path / "out.mp4")) == 250


def test_overlay_without_a_given_name_is_named_after_the_video(
    grey: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = write_run_of(tmp_path / "run", str(grey))
    monkeypatch.chdir(tmp_path)
    assert overlay(out, "grey.mp4", "--blur-faces") == 0
    assert capsys.readouterr().out == "grey-blurred.mp4: 25 frames\n"
    assert Path("grey-blurred.mp4").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.mp4", "-o", "x.mp4"], "has no video x.mp4"),
        (["grey.mp4", "-o", "x.webm"], "must end in .mp4 or .mkv"),
        ([], "VIDEO"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    grey: Path,  # noqa: F811
    tmp_path: Path,
    read_error: ReadError,
    words: list[str],
    message: str,
) -> None:
    out = write_run_of(tmp_path / "run", str(grey))
    assert message in read_error("overlay", out, *words)


def test_help_warns_about_faces_that_are_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert overlay("--help") == 0
    assert "does NOT hide faces that were NOT detected" in " ".join(capsys.readouterr().out.split())
