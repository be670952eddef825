"""Real head nodes with and without a token: which clients they accept, and how jobs run on them."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fer_batch.runtime import TOKEN_VARIABLES
from tests.conftest import SAMPLE
from tests.test_runtime import descendants

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

BIN = Path(sys.executable).parent
JOB = Path(__file__).parents[2] / "jobs" / "analyze.py"
SECRET = "a" * 64
QUICK = ["--fps", "1", "--min-face", "0.3"]
SLOW = ["--fps", "25", "--segment", "2", "--bundle", "2"]


def environment(**more: str) -> dict[str, str]:
    """Return an environment whose only token and address are those in `more`."""
    ours = (*TOKEN_VARIABLES, "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # for `python` in the jobs
    return kept | {"HOME": "/nowhere", "PATH": path, "RAY_worker_niceness": "0"} | more


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


@dataclass
class Head:
    """A cluster of one node."""

    address: str
    url: str
    metrics: str
    token: dict[str, str]

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Start `fer-batch submit` with these arguments on this cluster."""
        command = [sys.executable, "-m", "fer_batch.cli.main", "submit", *words, "--address", self.url]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=environment(**(self.token | more)), text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def run(self, *words: str, **more: str) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr."""
        process = self.start(*words, **more)
        out, err = process.communicate(timeout=180)
        assert "Traceback" not in err
        return process.returncode, out, err

    def jobs(self) -> dict[str, Any]:
        """Return the dashboard's records of all jobs by submission id."""
        secret = {"Authorization": f"Bearer {SECRET}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/api/jobs/", headers=secret)
        ) as answer:
            return {job["submission_id"]: job for job in json.load(answer) if job["submission_id"]}

    def scrape(self) -> list[str]:
        """Return the lines that Prometheus reads."""
        with urllib.request.urlopen(self.metrics) as answer:
            return [line.decode() for line in answer]


@contextlib.contextmanager
def head_node(host: str, **token: str) -> Iterator[Head]:
    """Run `ray start --head` on free ports."""
    port, client, dashboard, agent, metrics = free_ports(5)
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "2", "--disable-usage-stats"]
    command += ["--node-ip-address", host, "--port", str(port), "--ray-client-server-port", str(client)]
    command += ["--include-dashboard", "true", "--dashboard-host", host, "--dashboard-port", str(dashboard)]
    command += ["--dashboard-agent-listen-port", str(agent), "--metrics-export-port", str(metrics)]
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # paths of sockets have at most 107 bytes
        log = Path(folder) / "log"
        with log.open("wb") as output:
            started = subprocess.Popen(
                [*command, "--temp-dir", folder], env=environment(**token), stdout=output, stderr=output
            )
        try:
            wait(lambda: b"Ray runtime started" in log.read_bytes(), 120)
            url, scraped = f"http://{host}:{dashboard}", f"http://127.0.0.1:{metrics}/metrics"
            yield Head(f"{host}:{port}", url, scraped, token)
        finally:
            for pid in (*descendants(started.pid), started.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait(10)


def wait(condition: Callable[[], bool], longest_s: float) -> None:
    end = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with head_node("127.0.0.1", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=SECRET) as head:
        yield head


def own_address() -> str:
    """Return an address of this host that is not on the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this host has only the loopback interface")
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def open_head() -> Iterator[Head]:
    with head_node(own_address(), RAY_AUTH_MODE="disabled") as head:
        yield head


def start_analyze(out: Path, *options: str, job: bool = False, **variables: str) -> subprocess.Popen[str]:
    """Start `fer-batch analyze`, or the job script, without the Jobs API."""
    program = [str(JOB)] if job else ["-m", "fer_batch.cli.main", "analyze"]
    command = [sys.executable, *program, str(SAMPLE), "--out", str(out), *QUICK, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(**variables), text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def wait_for_end(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end, and return the exit code and stderr."""
    _, errors = run.communicate(timeout=180)
    assert "Traceback" not in errors
    return run.returncode, errors


def test_cluster_with_a_token_accepts_only_its_token(head: Head, tmp_path: Path) -> None:
    there = ["--address", head.address]
    runs = {
        "requires a token: provide": start_analyze(tmp_path / "none", *there),
        "refuses th": start_analyze(tmp_path / "another", *there, RAY_AUTH_TOKEN="b" * 64),
    }
    for reason, run in runs.items():
        code, errors = wait_for_end(run)
        assert code == 2
        assert reason in errors
    assert not list(tmp_path.iterdir())
    (tmp_path / "token").write_text(SECRET)
    accepted = [
        start_analyze(tmp_path / "one", *there, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token")),
        # In a Ray job, Ray sets the address, and the nodes have the token.
        start_analyze(tmp_path / "two", job=True, RAY_ADDRESS=head.address, **head.token),
    ]
    for run in accepted:
        code, errors = wait_for_end(run)
        assert code == 0, errors


def test_cluster_without_a_token_is_refused_unless_insecure(open_head: Head, tmp_path: Path) -> None:
    there = ["--address", open_head.address]
    token = {"RAY_ADDRESS": open_head.address, "RAY_AUTH_TOKEN": SECRET}
    runs = [
        start_analyze(tmp_path / "none", *there, **token),
        start_analyze(tmp_path / "another", job=True, **token),
    ]
    for run in runs:
        code, errors = wait_for_end(run)
        assert code == 2
        assert "requires no token" in errors
        assert "--insecure" in errors
    assert not list(tmp_path.iterdir())
    code, errors = wait_for_end(start_analyze(tmp_path / "one", "--insecure", *there))
    assert code == 0, errors


def results(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (out / "results").iterdir()}


def gauges(head: Head, out: Path) -> dict[str, float]:
    """Return the metrics of a run."""
    return {
        line.partition("{")[0]: float(line.rpartition(" ")[2])
        for line in head.scrape()
        if line.startswith("ray_fer_batch_") and f'out="{out}"' in line
    }


def test_job_runs_once_and_reports_metrics(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["analyze", str(SAMPLE), "--out", str(out), *QUICK, "--submission-id", "once"]
    code, log, errors = head.run(*command)
    assert code == 0, log + errors
    assert re.search(r"videos\s+(│\s+)?1\b", log)
    assert f"fer-batch submit follow once --address {head.url}" in errors
    faces = pq.read_table(out / "tracks").num_rows
    assert faces > 10
    wait(lambda: gauges(head, out).get("ray_fer_batch_faces") == faces, 30)
    assert gauges(head, out) == {
        "ray_fer_batch_videos": 1,
        "ray_fer_batch_videos_done": 1,
        "ray_fer_batch_video_seconds": pytest.approx(10, abs=0.1),
        "ray_fer_batch_video_seconds_done": pytest.approx(10, abs=0.1),
        "ray_fer_batch_faces": faces,
    }
    from tests.cluster.test_monitoring import dashboard_metrics

    shown = {name for name in dashboard_metrics() if not re.match("ray_node_(gpu|gram)", name)}
    assert shown <= {line.partition("{")[0] for line in head.scrape()}
    jobs, before = head.jobs(), results(out)
    code, again, errors = head.run(*command)
    assert (code, again) == (0, log)
    assert "job once was submitted before" in errors
    assert head.run(*command, "--no-wait")[:2] == (0, "once\n")
    code, _, errors = head.run(*command, "--fps", "2")
    assert code == 2
    assert "The job once is another command" in errors
    assert head.jobs() == jobs
    assert results(out) == before


def test_failed_job_returns_its_exit_code_and_is_started_again(head: Head, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("colour = 1\n")
    command = ["train", "--data", "ck48=/nowhere", "--recipe", "recipe.toml", "--out", str(tmp_path / "out")]
    command += ["--submission-id", "failing", "--working-dir", str(tmp_path)]
    code, log, errors = head.run(*command)
    assert code == 2
    assert "colour" in log.splitlines()[-1]  # the recipe was sent
    assert errors.splitlines()[-1] == "job failing failed: exit code 2"
    assert head.run(*command, "--no-wait")[:2] == (0, "failing.2\n")
    assert head.run("follow", "failing")[0] == 2
    assert head.jobs()["failing.2"]["status"] == "FAILED"


def test_refused_command_is_not_sent(head: Head, tmp_path: Path) -> None:
    jobs = head.jobs()
    command = ["analyze", "/nowhere.mp4", "--out", str(tmp_path / "out")]
    for more, token, reason in [
        (["--colour"], {}, "--colour"),
        ([], {"RAY_AUTH_TOKEN": ""}, "requires a token: provide"),
        ([], {"RAY_AUTH_TOKEN": "b" * 64}, "Invalid authentication token"),
        ([], {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "/nowhere/token"),
    ]:
        began = time.monotonic()
        code, out, errors = head.run(*command, *more, **token)
        assert (code, out) == (2, "")
        assert reason in errors
        assert errors.count("\n") == 1
        assert time.monotonic() - began < 60
    (tmp_path / "token").write_text(SECRET)
    in_file = {"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    code, _, errors = head.run("follow", "missing", **in_file)
    assert code == 2
    assert "has no job missing" in errors  # so the token was accepted
    assert head.jobs() == jobs


def test_job_survives_its_followers_and_can_be_stopped(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["analyze", str(SAMPLE), "--out", str(out), *SLOW, "--submission-id", "long"]
    first = head.start(*command)
    wait(lambda: "long" in head.jobs(), 120)
    second, third = head.start("follow", "long"), head.start(*command)
    assert second.stdout is not None
    read = ""
    while "0 of 1 video done" not in read:
        read = second.stdout.readline()
        assert read, "the log ended"
    for left, number in ((second, signal.SIGINT), (third, signal.SIGTERM)):
        left.send_signal(number)
        _, errors = left.communicate(timeout=60)
        assert left.returncode == 128 + number
        assert "fer-batch submit follow long" in errors.splitlines()[-1]
    assert head.jobs()["long"]["status"] == "RUNNING"
    assert head.run("stop", "long") == (0, "", "job long has ended: stopped\n")
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 143
    assert errors.splitlines()[-1] == "job long stopped: Job was intentionally stopped."
    assert head.run("follow", "long")[0] == 143
    assert head.run("stop", "long") == (0, "", "job long has ended: stopped\n")
    assert not (out / "_SUCCESS.json").exists()


def test_dashboard_without_a_token_is_refused_unless_insecure(open_head: Head) -> None:
    code, _, errors = open_head.run("stop", "missing", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=SECRET)
    assert code == 2
    assert "requires no token" in errors
    assert "--insecure" in errors
    assert "has no job missing" in open_head.run("stop", "missing", "--insecure")[2]
