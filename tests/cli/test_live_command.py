"""Test `fer-batch live`."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import ReadError
from tests.live.conftest import encode


def test_server_answers_an_image_and_runs_until_a_signal(
    sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "fer_batch.cli.main", "live"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=tmp_path, **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        found = re.match(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", server.stdout.readline())
        assert found
        with urllib.request.urlopen(f"{found[0]}api/image", encode(sample_frames[0])) as answer:
            assert len(json.load(answer)["faces"]) == 2
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 130
        assert (server.stdout.read(), server.stderr.read()) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_occupied_port_is_reported_in_one_line(read_error: ReadError) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}" in read_error("live", "--port", port)


def test_missing_file_and_model_are_reported_in_one_line(tmp_path: Path, read_error: ReadError) -> None:
    assert "missing.mp4 is not a file" in read_error("live", tmp_path / "missing.mp4")
    assert "does not exist" in read_error("live", "--checkpoint", tmp_path / "missing.safetensors")


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_invalid_port_is_reported_in_one_line(port: str, read_error: ReadError) -> None:
    assert "--port" in read_error("live", f"--port={port}")
