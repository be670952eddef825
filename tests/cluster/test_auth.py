"""Clusters with and without a token, and who may run on them."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_batch.runtime import TOKEN
from tests.conftest import SAMPLE
from tests.test_runtime import descendants

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

RAY = Path(sys.executable).parent / "ray"
JOB = Path(__file__).parents[2] / "jobs" / "analyze.py"
OPTIONS = ["--fps", "1", "--min-face", "0.3"]


def own_address() -> str:
    """An address of this host that is not the loopback interface's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this host has the loopback interface alone")
        return str(probe.getsockname()[0])


def environment(**more: str) -> dict[str, str]:
    """Without a token from anywhere but `more`, nor the home that may hold one."""
    kept = {k: v for k, v in os.environ.items() if k not in (*TOKEN, "RAY_ADDRESS")}
    return kept | {"HOME": "/nowhere", "RAY_worker_niceness": "0"} | more


@pytest.fixture
def folder() -> Iterator[Path]:
    """For Ray's files: the names of its sockets may be no longer than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        yield Path(name)


@contextlib.contextmanager
def cluster(folder: Path, **token: str) -> Iterator[str]:
    """A head node of its own on ports of its own; its address."""
    host, port = own_address(), random.randint(30000, 32000)
    command = [str(RAY), "start", "--head", "--block", "--num-cpus", "2", "--include-dashboard", "false"]
    command += ["--node-ip-address", host, "--port", str(port), "--ray-client-server-port", str(port + 2100)]
    command += ["--temp-dir", str(folder), "--dashboard-agent-listen-port", str(port + 4200)]
    command += ["--disable-usage-stats"]
    said = folder / "said"
    with said.open("wb") as output:
        started = subprocess.Popen(command, env=environment(**token), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in said.read_bytes():
            assert started.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield f"{host}:{port}"
    finally:
        for pid in (*descendants(started.pid), started.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.wait(10)


def analyze(
    out: Path, *options: str, job: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    program = [str(JOB)] if job else ["-m", "fer_batch.cli.main", "analyze"]
    command = [sys.executable, *program, str(SAMPLE), "--out", str(out), *OPTIONS, *options]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=280, env=environment(**variables)
    )


def test_a_cluster_with_a_token_lets_in_who_has_it(folder: Path, tmp_path: Path) -> None:
    with cluster(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64) as address:
        refused = analyze(tmp_path / "none", "--address", address)
        assert refused.returncode == 2
        assert "asks for a token: give it in RAY_AUTH_TOKEN" in refused.stderr
        assert "Traceback" not in refused.stderr
        refused = analyze(tmp_path / "none", "--address", address, RAY_AUTH_TOKEN="b" * 64)
        assert refused.returncode == 2
        assert "refuses this token" in refused.stderr
        assert not (tmp_path / "none").exists()
        (tmp_path / "token").write_text("a" * 64)
        let_in = analyze(tmp_path / "one", "--address", address, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
        assert let_in.returncode == 0, let_in.stderr
        # As in a Ray job, where Ray sets the address and the nodes have the token.
        in_job = analyze(
            tmp_path / "two", job=True, RAY_ADDRESS=address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64
        )
        assert in_job.returncode == 0, in_job.stderr


def test_a_cluster_without_a_token_is_refused_unless_insecure(folder: Path, tmp_path: Path) -> None:
    with cluster(folder, RAY_AUTH_MODE="disabled") as address:
        for job, options in ((False, ["--address", address]), (True, [])):
            refused = analyze(
                tmp_path / "none", *options, job=job, RAY_ADDRESS=address, RAY_AUTH_TOKEN="a" * 64
            )
            assert refused.returncode == 2
            assert "asks for no token" in refused.stderr
            assert "--insecure" in refused.stderr
            assert "Traceback" not in refused.stderr
        assert not (tmp_path / "none").exists()
        agreed = analyze(tmp_path / "one", "--insecure", "--address", address)
        assert agreed.returncode == 0, agreed.stderr
