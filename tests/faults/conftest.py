"""Shared by the fault tests: small videos, the real command, and finding and killing its processes."""

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_video

MARK = "FER_BATCH_TEST_RUN"
"""In the environment of all that a test starts, so that it finds and kills its own processes alone."""
WORKER, CHILD = "ray::MapWorker", "pipeline.child_main import serve_calls"
"""Parts of the command lines of Ray's workers and of their guarded processes."""
CONTAINERS = ("mp4", "mkv", "mov", "avi", "ts")
OPTIONS = ["--fps", "10", "--min-face", "0.2", "--segment", "2", "--bundle", "2"]
"""A bundle for each clip of two seconds, so that there are many for little work."""
FILM_S = 6


@dataclass(frozen=True)
class MarkedProcesses:
    """The processes of one run or cluster, found by a mark in their environment."""

    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def start(self, command: list[str], fault: str | None = None, **options: object) -> subprocess.Popen[str]:
        """Start a Python process that is killed at the given fault point."""
        inherited = {name: value for name, value in os.environ.items() if name != "FER_BATCH_FAULT"}
        environment = inherited | self.environment | {MARK: self.mark}
        environment |= {"FER_BATCH_FAULT": fault} if fault else {}
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [sys.executable, *command], env=environment, start_new_session=True, text=True, **options
        )

    def run(self, command: list[str], fault: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run `fer-batch` to its end and capture its output."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.start(["-m", "fer_batch.cli.main", *command], fault, **pipes)
        out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def processes(self, title: str = "") -> list[int]:
        """List the running processes with `title` in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    command_line = (
                        (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
                    state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                    if title in command_line and state != "Z":
                        found.append(int(folder.name))
        return found

    def kill(self) -> None:
        """Kill all processes until none is left."""
        while left := self.processes():
            for pid in left:
                kill(pid)
            time.sleep(0.05)


def kill(pid: int) -> bool:
    """Send SIGKILL; return whether the process existed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], longest_s: float = 240) -> bool:
    """Wait until the condition holds; return False if the process ends before."""
    end = time.monotonic() + longest_s
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)
    return True


def list_bundle_stats(out: Path) -> dict[str, tuple[int, int]]:
    """Return the finished bundles with their inode and modification time."""
    stats = {}
    for path in (out / "results").glob("*.parquet"):
        if not path.name.startswith("."):
            stat = path.stat()
            stats[path.name] = (stat.st_ino, stat.st_mtime_ns)
    return stats


def write_clips(folder: Path, frames: list[np.ndarray], clips: int, film_s: int = FILM_S) -> Path:
    """Write different clips of two seconds in all containers, and one longer film."""
    folder.mkdir(exist_ok=True)
    starts = random.Random(5).sample(range(len(frames) - 50), clips)
    for number, start in enumerate(starts):
        container = CONTAINERS[number % len(CONTAINERS)]
        write_video(folder / f"{number:02d}.{container}", frames[start : start + 50])
    if film_s:
        write_video(folder / "film.mkv", frames[: 25 * film_s])
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> Path:
    """Sixteen clips, a film of three segments and a file without video: nineteen bundles."""
    folder = write_clips(tmp_path_factory.mktemp("clips") / "clips", sample_frames, 16)
    (folder / "none.mp4").write_bytes(b"no video at all")
    (folder / "notes.md").write_text("skipped")
    return folder


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
first, *others = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(first), "include_dashboard": False})
raylets = [cluster.head_node.all_processes["raylet"][0].process.pid]
for other in others:
    cpus, _, fault = other.partition("=")
    node = cluster.add_node(num_cpus=int(cpus), env_vars={"FER_BATCH_FAULT": fault} if fault else None)
    raylets.append(node.all_processes["raylet"][0].process.pid)
cluster.wait_for_nodes()
print(cluster.address, *raylets, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def start_cluster(*nodes: int | str) -> Iterator[tuple[MarkedProcesses, str, list[int]]]:
    """Start a Ray cluster in its own process; give its processes, address and raylets.

    A node is given by its number of CPUs. On a node "CPUS=FAULT", except the first, that fault occurs.
    """
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    noticed_soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
    cluster = MarkedProcesses(token | noticed_soon)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = cluster.start(["-c", CLUSTER, *map(str, nodes)], **pipes)
    try:
        assert process.stdout is not None
        address, *raylets = process.stdout.readline().split()
        yield cluster, address, [int(pid) for pid in raylets]
    finally:
        cluster.kill()
        process.wait()


@pytest.fixture(scope="session")
def cluster() -> Iterator[tuple[MarkedProcesses, str]]:
    """A cluster that survives the killed drivers, which halves the time of a start."""
    with start_cluster(2) as (processes, address, _):
        yield processes, address


@pytest.fixture(scope="session")
def undisturbed(
    clips: Path, cluster: tuple[MarkedProcesses, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a run without faults."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    processes, address = cluster
    ended = MarkedProcesses(processes.environment).run(analyze_command(clips, out, address))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.fixture
def copied(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run."""
    return Path(shutil.copytree(undisturbed, tmp_path / "copied"))


def analyze_command(videos: Path, out: Path, address: str | None = None) -> list[str]:
    """Return the arguments of `fer-batch analyze` that the fault tests share. It runs on Ray."""
    cluster = ["--address", address] if address else ["--ray"]
    return ["analyze", str(videos), "--out", str(out), *OPTIONS, *cluster]
