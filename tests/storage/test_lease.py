"""One run at a time writes to a folder, and an ended run never blocks the next."""

import contextlib
import ctypes
import itertools
import json
import multiprocessing
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fer_batch.errors import OutputError
from fer_batch.storage import lease
from fer_batch.storage.folder import open_folder
from fer_batch.storage.lease import hold_lease
from tests.s3 import Store

HOLD = """
import sys, time
from fer_batch.storage import lease
from fer_batch.storage.folder import open_folder
from fer_batch.storage.lease import hold_lease
lease.HEARTBEAT_S, lease.LEASE_TIMEOUT_S = 0.2, 4.0
with hold_lease(open_folder(sys.argv[1]), "analyze"):
    print("held", flush=True)
    time.sleep(60)
"""


@dataclass
class Holder:
    """Another process that holds a lease."""

    process: subprocess.Popen[str]
    children: list[int]
    """Process ids that the script printed after "held"."""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def start_holder(out: str | Path, script: str = HOLD) -> Iterator[Holder]:
    """Start another process that holds the lease of `out`; its children are killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    holder = Holder(process, [])
    try:
        assert process.stdout is not None
        word, *children = process.stdout.readline().split()
        assert word == "held"
        holder.children += map(int, children)
        yield holder
    finally:
        holder.kill()
        for child in holder.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def read_lease(out: Path) -> dict[str, Any]:
    return json.loads((out / ".lease").read_text())


def test_lease_leaves_no_files(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with hold_lease(out, "analyze"):
        values = {"host": socket.gethostname(), "pid": os.getpid(), "command": "analyze"}
        assert read_lease(out).items() >= values.items()
    assert not list(tmp_path.iterdir())


def test_existing_or_used_folder_is_kept(tmp_path: Path) -> None:
    with hold_lease(tmp_path / "new" / "out", "analyze"):
        (tmp_path / "new" / "out" / "run.json").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyError), hold_lease(tmp_path / "empty", "analyze"):
        raise KeyError
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert kept == ["empty", "new", "new/out", "new/out/run.json"]


def test_second_run_gets_the_holder_in_its_error(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        with pytest.raises(OutputError) as refused, hold_lease(tmp_path, "finalize"):
            pass
        content = read_lease(tmp_path)
    message, pid = str(refused.value), holder.process.pid
    assert (content["command"], content["pid"]) == ("analyze", pid)
    for part in (str(tmp_path), "analyze", str(pid), socket.gethostname(), content["since"], "wait"):
        assert part in message
    assert "\n" not in message


def test_second_lease_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with hold_lease(tmp_path, "analyze"):
        for _ in range(2):
            with pytest.raises(OutputError, match=f"process {os.getpid()}"), hold_lease(tmp_path, "forget"):
                pass
    with hold_lease(tmp_path, "forget"):
        assert read_lease(tmp_path)["command"] == "forget"


def test_lease_of_killed_run_is_free_at_once(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        holder.kill()
        assert (tmp_path / ".lease").exists()
        with hold_lease(tmp_path, "analyze"):
            assert read_lease(tmp_path)["pid"] == os.getpid()


HOLD_AND_FORK = """
import os, subprocess, sys, time
from pathlib import Path
from fer_batch.storage.lease import hold_lease
with hold_lease(Path(sys.argv[1]), "analyze"):
    ended = Path(sys.argv[1]) / "ended"
    running, write_end = os.pipe()
    if (forked := os.fork()) == 0:
        os.write(write_end, b"1")  # it runs, so it has closed the inherited lease
        while not ended.exists():
            time.sleep(0.05)
        sys.exit()  # through the lease's own end
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    spawned = subprocess.Popen(command, close_fds=False, stdout=subprocess.DEVNULL)
    os.read(running, 1)
    print("held", forked, spawned.pid, flush=True)
    time.sleep(60)
"""


def test_surviving_children_do_not_hold_the_lease(tmp_path: Path) -> None:
    with start_holder(tmp_path, HOLD_AND_FORK) as holder:
        holder.kill()
        with hold_lease(tmp_path, "analyze"):
            for child in holder.children:
                os.kill(child, 0)
            (tmp_path / "ended").touch()
            assert holder.process.stdout is not None
            assert holder.process.stdout.read() == ""  # when the forked child has ended
            assert read_lease(tmp_path)["pid"] == os.getpid()


HOLD_WITH_RAY = """
import os, sys, time
from pathlib import Path
import ray
from fer_batch.storage.lease import hold_lease
from fer_batch.runtime import ray_session

@ray.remote
class Worker:
    def pid(self):
        return os.getpid()

with hold_lease(Path(sys.argv[1]), "analyze"), ray_session(num_cpus=1):
    worker = Worker.remote()
    print("held", ray.get(worker.pid.remote()), flush=True)
    time.sleep(60)
"""


def has_open(pid: int, path: Path) -> bool:
    return any(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.slow
def test_surviving_ray_workers_do_not_hold_the_lease(tmp_path: Path) -> None:
    with start_holder(tmp_path, HOLD_WITH_RAY) as holder:
        (worker,) = holder.children
        os.kill(worker, signal.SIGSTOP)  # so that it outlives its Ray
        assert has_open(holder.process.pid, tmp_path / ".lease")
        assert not has_open(worker, tmp_path / ".lease")
        holder.kill()
        with hold_lease(tmp_path, "analyze"):
            os.kill(worker, 0)


def contend(out: str, start: float, number: int) -> tuple[int, float, float] | None:
    """Take the lease at a given time if it is free; return the holder and the interval."""
    time.sleep(max(start - time.monotonic(), 0))
    try:
        with hold_lease(Path(out), f"number {number}"):
            began = time.monotonic()
            assert read_lease(Path(out))["pid"] == os.getpid()
            time.sleep(0.05)
            assert read_lease(Path(out))["pid"] == os.getpid()
            return os.getpid(), began, time.monotonic()
    except OutputError as error:
        assert "is in use" in str(error)
        return None


def test_one_of_simultaneous_runs_wins(tmp_path: Path) -> None:
    """The winner creates the folder, which is removed when it ends."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(time.sleep, [0.1] * 4)
        for round_ in range(10):
            start = time.monotonic() + 0.1
            out = str(tmp_path / f"{round_}")
            jobs = [pool.apply_async(contend, (out, start, number)) for number in range(4)]
            held = sorted((interval for job in jobs if (interval := job.get(60))), key=lambda h: h[1])
            assert held
            assert all(a[2] <= b[1] for a, b in itertools.pairwise(held)), held
    # An empty folder may stay if a run starts in it while the run that created it ends.
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


def _without_flock(number: int) -> None:
    """Let the kernel answer every flock of this process with an error."""
    calls = {"x86_64": 73, "aarch64": 32}
    program = b"".join(
        struct.pack("HBBI", *step)
        for step in (
            (0x20, 0, 0, 0),  # the system call's number
            (0x15, 0, 1, calls[platform.machine()]),
            (0x06, 0, 0, 0x00050000 | number),  # SECCOMP_RET_ERRNO
            (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )
    buffer = ctypes.create_string_buffer(program)
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters):
        print("no seccomp", flush=True)
        os._exit(0)


NO_LOCKS = """
import sys
from pathlib import Path
from tests.storage.test_lease import _without_flock
from fer_batch.errors import OutputError
from fer_batch.storage.lease import hold_lease
_without_flock(int(sys.argv[2]))
try:
    with hold_lease(Path(sys.argv[1]), "analyze"):
        print("held")
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("number", ["37", "95"], ids=["ENOLCK", "EOPNOTSUPP"])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="number of flock not known here")
def test_file_system_without_locks_is_reported_in_one_line(number: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", NO_LOCKS, str(tmp_path / "out"), number]
    message = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if message.startswith("no seccomp"):
        pytest.skip("no seccomp here to take flock away")
    assert f"{tmp_path / 'out'} has no locks" in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["/proc", "/proc/fer-batch/out", "/dev/null/out"])
def test_unwritable_folder_is_reported_in_one_line(out: str) -> None:
    with pytest.raises(OutputError, match=out) as refused, hold_lease(Path(out), "analyze"):
        pass
    assert "\n" not in str(refused.value)


IN_STORE = "s3://archive/out"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the heartbeat, and the timeout of a lease to four seconds."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(lease, "LEASE_TIMEOUT_S", 4.0)


def list_store_leases() -> list[str]:
    return open_folder(IN_STORE).find_names(".lease*")


def test_store_lease_is_exclusive_and_leaves_no_files(store: Store, quick: None) -> None:
    out = open_folder(IN_STORE)
    with hold_lease(out, "analyze"):
        assert list_store_leases() == [".lease.000001"]
        with (
            pytest.raises(OutputError, match=rf"is in use.*process {os.getpid()} on"),
            hold_lease(out, "analyze"),
        ):
            pass
    assert list_store_leases() == []
    with hold_lease(out, "analyze"):
        pass


def test_store_lease_of_killed_local_run_is_free_at_once(store: Store) -> None:
    with start_holder(IN_STORE) as holder:
        holder.kill()
        began = time.monotonic()
        with hold_lease(open_folder(IN_STORE), "analyze"):
            assert time.monotonic() - began < lease.LEASE_TIMEOUT_S / 2
            assert list_store_leases() == [".lease.000002"]
    assert list_store_leases() == []


@pytest.mark.usefixtures("quick")
def test_store_lease_without_heartbeat_is_taken_over(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.put(
        "out/.lease.000007", json.dumps({"host": "h", "pid": 1, "command": "analyze", "since": "s"}).encode()
    )
    began = time.monotonic()
    with hold_lease(open_folder(IN_STORE), "analyze"):
        assert time.monotonic() - began > lease.LEASE_TIMEOUT_S
        assert list_store_leases() == [".lease.000008"]
    assert "waiting 4 s for its next heartbeat" in caplog.text


def test_run_that_lost_its_store_lease_ends(store: Store) -> None:
    with start_holder(IN_STORE) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        store.put("out/.lease.000002", b"{}")
        holder.process.send_signal(signal.SIGCONT)
        assert holder.process.wait(20) == 2


@pytest.mark.usefixtures("quick")
def test_one_of_simultaneous_runs_wins_in_a_store(store: Store) -> None:
    barrier, won = threading.Barrier(6), []

    def take() -> None:
        barrier.wait()
        with contextlib.suppress(OutputError), hold_lease(open_folder(IN_STORE), "analyze"):
            won.append(1)
            time.sleep(2)

    runs = [threading.Thread(target=take) for _ in range(6)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert won == [1]


@pytest.mark.slow
def test_unreachable_store_is_reported_in_one_line(store: Store) -> None:
    store.fail = "down"
    with pytest.raises(OutputError, match="Cannot read"), hold_lease(open_folder(IN_STORE), "analyze"):
        pass
