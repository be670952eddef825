"""Test `fer-batch view`."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fer_batch.run.people import read_people
from tests.cli.conftest import ReadError
from tests.runs import video_id, write_run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_server_runs_until_a_signal(number: int, code: int, tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    before = sorted(path for path in out.rglob("*"))
    command = [sys.executable, "-m", "fer_batch.cli.main", "view", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        found = re.match(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", server.stdout.readline())
        assert found
        with urllib.request.urlopen(found[0]) as answer:
            assert b"<!doctype html>" in answer.read()
        server.send_signal(number)
        assert server.wait(20) == code
        assert (server.stdout.read(), server.stderr.read()) == ("", "")
    assert sorted(path for path in out.rglob("*")) == before


def test_edit_lets_pages_name_faces(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    command = [sys.executable, "-m", "fer_batch.cli.main", "view", str(out), "--edit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        request = urllib.request.Request(
            f"{address}api/videos/{video_id('/a.mp4')}/name",
            b'{"track_id": 0, "name": "Ann", "shown": null}',
            {"Content-Type": "application/json", "Origin": "/".join(address.split("/")[:3])},
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 204
        server.terminate()
    assert read_people(out).column("person").to_pylist() == ["Ann"]


def test_occupied_port_is_reported_in_one_line(tmp_path: Path, read_error: ReadError) -> None:
    out = write_run(tmp_path / "run", {})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}" in read_error("view", out, "--port", port)


@pytest.mark.parametrize("port", ["-1", "65536", "http", "8000.5", ""])
def test_invalid_port_is_reported_in_one_line(port: str, tmp_path: Path, read_error: ReadError) -> None:
    assert "--port" in read_error("view", tmp_path, f"--port={port}")
