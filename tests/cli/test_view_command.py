"""Test `fer-batch view`."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fer_batch.cli.main import main
from tests.runs import write_run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_server_runs_until_a_signal(number: int, code: int, tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    before = sorted(path for path in out.rglob("*"))
    command = [sys.executable, "-m", "fer_batch.cli.main", "view", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        found = re.match(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found
        with urllib.request.urlopen(found[0]) as answer:
            assert b"<!doctype html>" in answer.read()
        server.send_signal(number)
        assert server.wait(20) == code
        assert (server.stdout.read(), server.stderr.read()) == ("", "")
    assert sorted(path for path in out.rglob("*")) == before


def test_occupied_port_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_run(tmp_path / "run", {})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["view", str(out), "--port", str(port)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert f"--port {port}" in streams.err
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize("port", ["-1", "65536", "http", "8000.5", ""])
def test_invalid_port_is_reported_in_one_line(
    port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(tmp_path), f"--port={port}"]) == 2
    text = capsys.readouterr().err
    assert "--port" in text
    assert text.count("\n") == 1


def test_folder_without_a_run_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert str(tmp_path / "out") in text
    assert text.count("\n") == 1
