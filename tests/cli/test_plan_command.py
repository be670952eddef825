"""Test `fer-batch plan`."""

import json
from pathlib import Path

import numpy as np
import pytest

from fer_batch.cli.main import main
from tests.cli.conftest import ReadError
from tests.conftest import write_video


def run(*words: object) -> int:
    """Return the exit code of a command line."""
    return main([str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path, sample_frames: list[np.ndarray]) -> Path:
    """Return a folder with a short video, a damaged file, and a manifest with the length of another hour."""
    write_video(tmp_path / "two.mp4", sample_frames[:50])
    (tmp_path / "none.mp4").write_bytes(b"no video at all")
    (tmp_path / "listed.mkv").touch()
    (tmp_path / "list.csv").write_text("path,duration_s\nlisted.mkv,3600\n")
    return tmp_path


def test_short_video_is_one_segment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", folder / "two.mp4", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["videos"], plan["segments"], plan["bundles"]) == (1, 1, 1)
    assert plan["hours"] == pytest.approx(2 / 3600)


def test_only_videos_of_unknown_length_are_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [folder / "list.csv", folder / "two.mp4", folder / "none.mp4"]
    assert run("plan", *files, "--nodes", 1, 4, "--cores", 2, "--price", 0.5, "--cpu-ms", 1000, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["statuses"] == {"ok": 2, "failed": 1}
    assert plan["hours"] == pytest.approx(3602 / 3600)
    assert plan["segments"] == 61
    assert 1.0 < plan["cpu_hours"] < 1.2
    one, four = plan["nodes"]
    assert (one["cores"], four["cores"]) == (2, 8)
    assert one["hours"] > 3 * four["hours"] > plan["cpu_hours"] / 8
    assert [row["cost"] for row in (one, four)] == pytest.approx([0.5 * one["hours"], 2 * four["hours"]])
    assert sorted(path.name for path in folder.iterdir()) == ["list.csv", "listed.mkv", "none.mp4", "two.mp4"]


def test_tables_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", folder / "two.mp4", folder / "none.mp4", "--price", 2) == 0
    text = capsys.readouterr().out
    for part in (
        "to analyze",
        "hours of video",
        "bundles",
        "cost, about",
        "failed: ",
        "none.mp4: not a video",
    ):
        assert part in text


def test_plan_tells_that_key_frames_have_no_tracks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", folder / "two.mp4", "--keyframes") == 0
    assert "faces cannot be followed between key frames" in capsys.readouterr().err
    assert run("plan", folder / "two.mp4") == 0
    assert "followed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes", 0], "--nodes must be a list of whole numbers, each at least 1, got (0,)"),
        (["--cores", -1], "--cores must be at least 1, got -1"),
        (["--price", 0], "--price must be above 0, got 0"),
        (["--cpu-ms", "nan"], "--cpu-ms must be above 0, got nan"),
        (["--fps", 0], "--fps"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(
    folder: Path, options: list[object], message: str, read_error: ReadError
) -> None:
    assert message in read_error("plan", folder / "two.mp4", *options)
