"""SIGTERM and Ctrl-C at any time end a run at once and leave no process behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.test_analyze import assert_same_run
from tests.test_runtime import descendants

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

STOPPED = "fer-batch: stopped; run the same command again to continue"
PROMPT_S = 2.0
ENVIRONMENT = os.environ | {"RAY_worker_niceness": "0"}
"""Ray's workers have niceness 15 by default and starve on a busy machine."""


def command(videos: Path, out: Path) -> list[str]:
    options = ["--ray", "--min-face", "0.2", "--fps", "2", "--segment", "4", "--bundle", "8"]
    return [sys.executable, "-m", "fer_batch.cli.main", "analyze", str(videos), "--out", str(out), *options]


def start(videos: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(videos, out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    )


def stop(run: subprocess.Popen[str], number: int, times: int = 1) -> tuple[int, float, str, set[str]]:
    """Send a signal; return exit code, seconds until the end, stderr, and the processes that are left."""
    below = set(descendants(run.pid))
    began = time.monotonic()
    for _ in range(times):
        run.send_signal(number)
    stderr = run.communicate(timeout=30)[1]
    took_s = time.monotonic() - began
    while (left := {pid for pid in below if is_running(pid)}) and time.monotonic() - began < took_s + 1:
        time.sleep(0.01)
    return run.returncode, took_s, stderr, {read_command_line(pid) for pid in left}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_phase(run: subprocess.Popen[str], moment: str, out: Path) -> None:
    """Wait for a phase of a run; fail if it does not come."""
    conditions = {
        "Ray's start": lambda: any("gcs_server" in read_command_line(pid) for pid in descendants(run.pid)),
        "planning": (out / "plan").is_dir,
        "analyzing": lambda: any((out / "results").glob("*.parquet")),
        "finalize": lambda: any(out.glob("*/_delta_log")),
    }
    deadline = time.monotonic() + 300
    while not conditions[moment]():
        assert run.poll() is None, f"the run ended before {moment}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read_command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture(scope="module")
def videos(long_video, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "a.mp4").write_bytes(long_video(1).read_bytes())
    (folder / "b.mp4").write_bytes(long_video(1).read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run without signals, and its duration."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    began = time.monotonic()
    subprocess.run(command(videos, out), check=True, capture_output=True, env=ENVIRONMENT)
    return out, time.monotonic() - began


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c_ends_run_at_once(times: int, videos: Path, tmp_path: Path) -> None:
    run = start(videos, tmp_path / "out")
    wait_for_phase(run, "analyzing", tmp_path / "out")
    returned, took_s, stderr, left = stop(run, signal.SIGINT, times)
    assert returned == 130
    assert took_s < PROMPT_S
    assert stderr.strip().split("\n")[-1] == STOPPED
    assert not left


def test_sigterm_in_each_phase(videos: Path, undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    """Except for the random one, each start continues the one before."""
    clean, whole_s = undisturbed
    random_s = random.Random(5).uniform(0.1, 0.6 * whole_s)
    times_s = []
    for moment in (random_s, "Ray's start", "planning", "analyzing", "finalize"):
        out = tmp_path / ("random" if moment == random_s else "out")
        run = start(videos, out)
        if isinstance(moment, str):
            wait_for_phase(run, moment, out)
        else:
            time.sleep(moment)
        returned, took_s, stderr, left = stop(run, signal.SIGTERM)
        assert not left, moment
        if returned == -signal.SIGTERM:  # Python had not installed its handlers yet
            continue
        assert returned == 143, (moment, stderr)
        assert stderr.strip().split("\n")[-1] == STOPPED, moment
        assert "Traceback" not in stderr
        assert took_s < PROMPT_S, moment
        times_s.append(took_s)
    print(f"seconds from SIGTERM to the end: {', '.join(f'{t:.2f}' for t in times_s)}")
    ended = subprocess.run(command(videos, out), check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    assert_same_run(out, clean)
    assert not list(out.rglob("*.tmp"))
