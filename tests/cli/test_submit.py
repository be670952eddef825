"""Test `fer-batch submit` up to the connection to a cluster."""

import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from fer_batch.cli import submit
from fer_batch.cli.main import main
from tests.cli.conftest import ReadError

OUT = ["--out", "/mnt/out"]
NOWHERE = ["--address", "http://127.0.0.1:1"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change into a folder with a few files, without the address of a cluster in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "talk.mp4", "m.safetensors", "faces", "r.toml"):
        (tmp_path / name).touch()
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # the test then ends without a new value
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["analyze", "/a", *OUT], ["analyze", "/a", *OUT]),
        (["analyze", "/a", *OUT, "--fps", "1"], ["analyze", "/a", *OUT, "--fps", "1"]),
        (["analyze", "/a b", "--submission-id", "x", "/c", *OUT], ["analyze", "/a b", "/c", *OUT]),
        (["analyze", "/a", "--fast", "--no-flip", *OUT], ["analyze", "/a", "--fast", "--no-flip", *OUT]),
        (["analyze", "--", "/a", *OUT, "--fps", "1"], ["analyze", "/a", *OUT, "--fps", "1"]),
        (["--working-dir", ".", "--", "verify", "/out", "--json"], ["verify", "/out", "--json"]),
        (
            ["analyze", "/a", "--insecure", "--working-dir", ".", *OUT],
            ["analyze", "--insecure", "/a", *OUT],
        ),
        (["verify", "/out", "--insecure"], ["verify", "--insecure", "/out"]),
        (["forget", "/out", "a.mp4", "--insecure"], ["forget", "/out", "a.mp4"]),
        (["people", "/out", "a.mp4", "--insecure"], ["people", "--insecure", "/out", "a.mp4"]),
    ],
)
def test_job_gets_the_words_of_its_command(
    words: list[str], sent: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs: list[str] = []

    def submit_job(entrypoint: str, **more: object) -> str:
        jobs.append(entrypoint)
        return "job"

    client = SimpleNamespace(list_jobs=list, submit_job=submit_job)
    monkeypatch.setattr(submit, "_connect", lambda *arguments: nullcontext(client))
    assert main(["submit", *NOWHERE, "--no-wait", *words]) == 0
    assert [shlex.split(job)[5:] for job in jobs] == [sent]
    assert capfd.readouterr().out == "job\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND is missing"),
        (["query", "/out", "SELECT 1"], "query"),
        (["analyze", "/a"], "--out"),
        (["analyze", "/a", *OUT, "--colour"], "--colour"),
        (["analyze", "/a", *OUT, "--fps", "many"], "--fps"),
        (["analyze", "/a", *OUT, "--fps", "0"], "fps must be"),
        (["analyze", "/a", *OUT, "--timeout", "0"], "timeout"),
        (["analyze", "/a", *OUT, "--submission-id", ""], "''"),
        (["analyze", "/a", *OUT, "--submission-id", "../x"], "'../x'"),
        (["analyze", "/a", *OUT, "--submission-id", "x" * 101], "1 to 100"),
        (["analyze", "/a", *OUT, "--working-dir", "nowhere"], "--working-dir"),
        (["analyze", "a.mp4", *OUT], "a.mp4 is relative"),
        (["analyze", "/a", "s3://b/c", "*.mp4", *OUT], "*.mp4 is relative"),
        (["analyze", "/a", *OUT, "--checkpoint", "m.safetensors"], "m.safetensors is relative"),
        (["analyze", "/a", "--out", "out"], "out is relative"),
        (["analyze", "a.mp4", "--out", "out", "--working-dir", "."], "out is relative"),
        (["demo"], "fer-batch-demo is relative"),
        (["finalize", "out"], "out is relative"),
        (["verify", "out"], "out is relative"),
        (["forget", "out", "talk.mp4"], "out is relative"),
        (["train", "--data", "ck48=faces", *OUT], "faces is relative"),
        (["train", "--data", "ck48=/faces", *OUT, "--recipe", "r.toml"], "r.toml is relative"),
        (["follow"], "SUBMISSION_ID is missing"),
    ],
)
def test_invalid_command_is_not_submitted(words: list[str], message: str, read_error: ReadError) -> None:
    assert message in read_error("submit", *words, *(NOWHERE if words else []))


@pytest.mark.parametrize(
    "words",
    [
        ["analyze", "/a", *OUT],
        ["analyze", "s3://bucket/videos", *OUT],
        ["analyze", "a.mp4", "list.csv", *OUT, "--working-dir", "."],
        ["demo", *OUT],
        ["verify", "/mnt/out"],
        ["forget", "/mnt/out", "talk.mp4"],
        ["people", "/mnt/out", "talk.mp4"],
        ["train", "--data", "ck48=/faces", *OUT, "--recipe", "default", "--init", "default"],
        ["evaluate", "--data", "ck48=/faces/", "-o", "/mnt/report"],
        ["follow", "job-1.2"],
        ["stop", "job_1"],
    ],
)
def test_unreachable_dashboard_is_reported_at_once(words: list[str], read_error: ReadError) -> None:
    began = time.monotonic()
    assert "Cannot reach the dashboard at http://127.0.0.1:1" in read_error("submit", *words, *NOWHERE)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_address_comes_from_the_environment(
    name: str, monkeypatch: pytest.MonkeyPatch, read_error: ReadError
) -> None:
    assert "--address is missing" in read_error("submit", "stop", "x")
    monkeypatch.setenv(name, "http://127.0.0.1:2")
    assert "Cannot reach the dashboard at http://127.0.0.1:2" in read_error("submit", "stop", "x")
    assert "Cannot reach the dashboard at http://127.0.0.1:1" in read_error("submit", "stop", "x", *NOWHERE)


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://head:10001"])
def test_address_of_another_protocol_is_rejected(address: str, read_error: ReadError) -> None:
    assert "--address must be http://HOST:PORT" in read_error("submit", "stop", "x", "--address", address)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, *text: object) -> None:
        pass


@contextmanager
def web_server() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_server_without_a_dashboard_is_rejected(read_error: ReadError) -> None:
    with web_server() as port:
        text = read_error("submit", "stop", "x", "--address", f"http://127.0.0.1:{port}/")
    assert f"Cannot reach the dashboard at http://127.0.0.1:{port}" in text


def test_silent_server_times_out(read_error: ReadError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "CONNECT_TIMEOUT_S", 1)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = read_error("submit", "stop", "x", "--address", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "timed out" in text
    assert time.monotonic() - began < 60


def test_missing_extra_is_reported(monkeypatch: pytest.MonkeyPatch, read_error: ReadError) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # as where it is not installed
    assert "pip install 'fer-batch[cluster]'" in read_error("submit", "stop", "x", *NOWHERE)


def test_help_explains_paths(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "are those of the nodes and must be absolute" in text


def test_every_job_script_has_a_command_that_can_be_submitted() -> None:
    jobs = {path.stem for path in (Path(__file__).parents[2] / "jobs").glob("*.py")}
    assert "analyze" in jobs
    assert jobs <= set(get_args(submit.JobCommand))
