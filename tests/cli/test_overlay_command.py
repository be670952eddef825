"""`fer-batch overlay`: a video with its faces, and one line for what can't be drawn on."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from tests.timeline.plots.test_overlay import frames, grey, known, run_of  # noqa: F401


def overlay(*words: object) -> int | str | None:
    try:
        return main(["overlay", *map(str, words)])
    except SystemExit as end:
        return end.code


def test_a_video_is_written_and_what_became_of_its_sound_told(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_of(tmp_path / "run", str(sample), **known(sample))
    assert overlay(out, sample.name, "-o", tmp_path / "out.mp4", "--blur-faces") == 0
    assert capsys.readouterr().out == "250 frames\n"
    assert len(frames(tmp_path / "out.mp4")) == 250


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.mp4", "-o", "x.mp4"], "has no video x.mp4"),
        (["grey.mp4", "-o", "x.webm"], "must end in .mp4 or .mkv"),
        (["grey.mp4"], "--output is missing"),
        ([], "VIDEO"),
    ],
)
def test_what_can_not_be_drawn_on_is_one_line(
    grey: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    out = run_of(tmp_path / "run", str(grey), **known(grey))
    assert overlay(out, *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_help_says_whose_faces_are_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert overlay("--help") == 0
    assert "does NOT hide faces that were NOT detected" in " ".join(capsys.readouterr().out.split())
