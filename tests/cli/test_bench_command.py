"""Test `fer-batch bench`."""

import json
from pathlib import Path

import numpy as np
import pytest

from fer_batch.cli.main import main
from tests.conftest import write_video


def run(*words: object) -> int:
    """Return the exit code of a command line."""
    return main([str(word) for word in words])


def test_benchmark_prints_a_table_per_video_and_writes_json(
    tmp_path: Path, sample_frames: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [write_video(tmp_path / f"{name}.mp4", sample_frames[:25]) for name in ("a", "b [1]")]
    assert run("bench", *videos, "--runs", 1, "--fps", 2, "-o", tmp_path / "speed.json") == 0
    streams = capsys.readouterr()
    assert streams.err.startswith("2 videos, 1 run each")
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert [one["video"] for one in figures] == [str(video) for video in videos]
    assert [one["moments"] for one in figures] == [2, 2]
    for video in videos:
        assert f"{video}\n1.0 s, 640×360, 25 fps, h264; 2 sampled frames, " in streams.out
    for row in ("decode", "detect", "window", "write", "total", "decoding alone", "total / decoding alone"):
        assert streams.out.count(f"│ {row} ") == (4 if row == "total" else 2)
    assert streams.out.count("peak memory") == 2
    assert max(map(len, streams.out.splitlines())) <= max(100, len(str(tmp_path)) + 20)


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_invalid_arguments_are_reported_in_one_line(
    sample: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    names = {"SAMPLE": str(sample), "EMPTY": str(empty)}
    assert run("bench", *(names.get(word, word) for word in words)) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert message.replace("EMPTY", str(empty)) in streams.err.splitlines()[-1]
    assert len(streams.err.replace("1 video, 5 runs each …\n", "").splitlines()) == 1
