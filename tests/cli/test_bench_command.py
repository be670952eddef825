"""`fer-batch bench`: a block a video, JSON beside it, and one line for what the user can mend."""

import json
from pathlib import Path

import numpy as np
import pytest

from fer_batch.cli.main import main
from tests.conftest import write_video


def run(*words: object) -> int | str | None:
    """The exit code of a command line."""
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return end.code


def test_a_block_a_video_and_json(
    tmp_path: Path, sample_frames: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [write_video(tmp_path / f"{name}.mp4", sample_frames[:25]) for name in ("a", "b [1]")]
    assert run("bench", *videos, "--runs", 1, "--fps", 2, "-o", tmp_path / "speed.json") == 0
    said = capsys.readouterr()
    assert said.err.startswith("2 videos, 1 run each")
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert [one["video"] for one in figures] == [str(video) for video in videos]
    assert [one["moments"] for one in figures] == [2, 2]
    for video in videos:
        assert f"{video}\n1.0 s, 640×360, 25 fps, h264; 2 sampled frames, " in said.out
    for row in ("decode", "detect", "window", "write", "total", "decoding alone", "total / decoding alone"):
        assert said.out.count(f"│ {row} ") == 2
    assert said.out.count("peak memory") == 2
    assert max(map(len, said.out.splitlines())) <= max(100, len(str(tmp_path)) + 20)


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    assert "\n  fer-batch bench talk.mp4" in capsys.readouterr().out.partition("Examples")[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "VIDEO"),
        (["nowhere.mp4"], "there is no file or folder nowhere.mp4"),
        (["SAMPLE", "--runs", "0"], "--runs must be at least 1, got 0"),
        (["SAMPLE", "--runs", "many"], "--runs"),
        (["SAMPLE", "--fps", "0"], "--fps must be"),
        (["SAMPLE", "-o", "no/such/folder.json"], "cannot write --output no/such/folder.json"),
        (["SAMPLE", "--checkpoint", "nothing.safetensors"], "nothing.safetensors"),
        (["EMPTY"], "Cannot measure EMPTY ("),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    sample: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    names = {"SAMPLE": str(sample), "EMPTY": str(empty)}
    assert run("bench", *(names.get(word, word) for word in words)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told.replace("EMPTY", str(empty)) in said.err.splitlines()[-1]
    assert len(said.err.replace("1 video, 5 runs each …\n", "").splitlines()) == 1
