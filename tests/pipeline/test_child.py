"""A worker process survives crashes, hangs and memory exhaustion of its calls."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_batch.config import Limits
from fer_batch.pipeline.child import (
    BrokenNodeError,
    BrokenWorkerError,
    CallFailedError,
    StoppedError,
    WorkerProcess,
)
from fer_batch.pipeline.child_main import MAX_FILE_BYTES
from tests.pipeline.faulty import GPU_VARIABLES

FAULTY = "tests.pipeline.faulty:FaultyObject"
LIMITS = Limits(timeout_s=1.0, memory_gb=0.5)
PATIENT = Limits(timeout_s=60.0, memory_gb=0.5)


@pytest.fixture
def child() -> Iterator[WorkerProcess]:
    child = WorkerProcess(FAULTY, ("me",), LIMITS)
    yield child
    child.close()


def greet(child: WorkerProcess) -> int:
    """Check that the child works, and return its process id."""
    child.limits = PATIENT  # the first call of a process imports pandas
    (row,) = child.call("greet", 7).to_pylist()
    child.limits = LIMITS
    assert (row["name"], row["number"]) == ("me", 7)
    return int(row["pid"])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_process_serves_all_calls(child: WorkerProcess) -> None:
    assert len({greet(child) for _ in range(3)} - {os.getpid()}) == 1


def test_child_that_starts_during_a_stop_ends(child: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may stop the child after the check and before the process is known."""
    start_process, started = child._start_process, []

    def start_and_stop() -> Any:
        child.stop()
        started.append(start_process())
        return started[0]

    monkeypatch.setattr(child, "_start_process", start_and_stop)
    with pytest.raises(StoppedError):
        child.call("greet", 7)
    assert started[0][0].poll() is not None


@pytest.mark.parametrize(
    ("method", "arguments", "reason", "restarts"),
    [
        ("crash", (), "the worker process crashed (SIGSEGV) 2 times", True),
        ("exit", (), "the worker process ended (exit code 3) 2 times", True),
        ("fail", (), "ValueError: this\nfile is strange", False),
        ("stop", (), "no progress for 1 s (--timeout)", True),
        ("block", (60,), "no progress for 1 s (--timeout)", True),
        ("allocate", (2.0,), "it needs more than 0.5 GB of memory (--memory)", True),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_failed_call_has_a_reason_and_the_next_call_succeeds(
    child: WorkerProcess, method: str, arguments: tuple[Any, ...], reason: str, restarts: bool
) -> None:
    before = greet(child)
    with pytest.raises(CallFailedError) as failure:
        child.call(method, *arguments)
    assert str(failure.value) == reason
    assert (greet(child) != before) == restarts
    assert is_running(before) != restarts


def test_child_has_limits_and_no_token_of_ray(child: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_REDIS_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    child.limits = PATIENT
    (row,) = child.call("read_limits").to_pylist()
    assert row["core_bytes"] == [0, 0]
    assert row["file_bytes"] == [MAX_FILE_BYTES] * 2
    assert row["no_new_privileges"]
    assert not [name for name in row["names"] if name.startswith("RAY_")]
    assert "AWS_SECRET_ACCESS_KEY" in row["names"]


@pytest.mark.parametrize("gpu", [False, True])
def test_child_sees_gpus_only_if_it_has_a_share(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GPU_VARIABLES:
        monkeypatch.setenv(name, "0")
    child = WorkerProcess(FAULTY, ("me",), PATIENT, gpu)
    (row,) = child.call("read_limits").to_pylist()
    child.close()
    assert row["gpus"] == ["0" if gpu else ""] * len(GPU_VARIABLES)


def test_call_that_crashed_once_is_retried(child: WorkerProcess, tmp_path: Path) -> None:
    before = greet(child)
    child.limits = PATIENT
    (row,) = child.call("crash_once", str(tmp_path / "marker")).to_pylist()
    assert row["pid"] != before


@pytest.mark.slow
def test_work_without_progress_extends_the_timeout(child: WorkerProcess) -> None:
    greet(child)
    (row,) = child.call("work_in_a_thread", 2.5).to_pylist()
    assert row["number"] == 5
    assert child.progress == 7.0
    with pytest.raises(CallFailedError, match="longer than 2 s"):
        child.call("work_in_a_thread", 60.0, max_s=2)


@pytest.mark.slow
def test_heartbeats_extend_the_timeout_up_to_the_time_limit(child: WorkerProcess) -> None:
    greet(child)
    assert child.call("work_slowly", 2.5).num_rows == 1
    with pytest.raises(CallFailedError, match="it took longer than 2 s") as failure:
        child.call("work_slowly", 60.0, max_s=2)
    assert failure.value.timed_out


def test_call_may_use_memory_below_the_limit() -> None:
    child = WorkerProcess(FAULTY, ("me",), PATIENT)
    assert child.call("allocate", 0.3).to_pylist() == [{"sum": 300_000_000}]
    child.close()


def test_idle_process_that_was_killed_is_replaced(child: WorkerProcess) -> None:
    before = greet(child)
    os.kill(before, signal.SIGKILL)
    assert greet(child) != before


def test_process_that_was_killed_at_its_start_is_replaced(child: WorkerProcess) -> None:
    killed = []

    def kill_new_process() -> None:
        while child.process is None:
            time.sleep(0.001)
        killed.append(child.process.pid)
        os.kill(child.process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_new_process)
    thread.start()
    assert greet(child) not in killed
    thread.join()


@pytest.mark.parametrize("target", ["tests.pipeline.faulty:NoSuchName", "fer_batch.nothing"])
def test_target_that_cannot_be_created_is_a_broken_node(target: str) -> None:
    with pytest.raises(BrokenNodeError, match="when it started"):
        WorkerProcess(target, (), LIMITS).call("greet", 1)


def test_device_error_is_tried_in_another_process_and_is_the_workers(
    child: WorkerProcess, tmp_path: Path
) -> None:
    before = greet(child)
    child.limits = PATIENT
    (row,) = child.call("use_broken_gpu", str(tmp_path / "marker")).to_pylist()
    assert row["pid"] != before
    with pytest.raises(BrokenWorkerError, match=r"^RuntimeError: CUDA error: unspecified launch failure$"):
        child.call("use_broken_gpu")
    assert not is_running(row["pid"])
    assert greet(child) != row["pid"]


def test_device_error_at_the_start_is_tried_again_and_is_the_nodes(tmp_path: Path) -> None:
    target = "tests.pipeline.faulty:ObjectOnBrokenGpu"
    child = WorkerProcess(target, (str(tmp_path / "marker"),), PATIENT)
    child.start()
    assert child.call("greet", 1).num_rows == 1
    child.close()
    with pytest.raises(BrokenNodeError, match="CUDA error: unspecified launch failure"):
        WorkerProcess(target, ("",), PATIENT).call("greet", 1)


@pytest.mark.parametrize("method", ["greet", "block"])
def test_child_ends_when_its_parent_is_killed(method: str) -> None:
    """An idle child, and one in native code."""
    script = (
        "import sys\n"
        "from fer_batch.config import Limits\n"
        "from fer_batch.pipeline.child import WorkerProcess\n"
        f"child = WorkerProcess({FAULTY!r}, ('me',), Limits())\n"
        "print(child.call('greet', 1)['pid'][0], flush=True)\n"
        f"child.call({method!r}, 60)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(pid)
