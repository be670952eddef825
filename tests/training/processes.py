"""Processes of tests that kill a training: starting, finding and killing them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], Any], running: Callable[[], bool] = lambda: True) -> None:
    """Wait until a condition holds; fail after 400 s, or if `running` becomes false."""
    deadline = time.monotonic() + 400
    while not condition() and running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def run_and_kill(command: list[str], log: Path, condition: Callable[[], bool]) -> None:
    """Run `fer-batch` with a Ray of its own, and kill all of its processes once a condition holds."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fer_batch.cli.main", *command],
            start_new_session=True,
            stdout=file,
            stderr=file,
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        )
    try:
        wait_for(lambda: condition() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
    finally:
        _kill_session(process)
    assert not list(_list_session(process.pid))


def find_workers(run: str) -> list[int]:
    """Find the workers of a training run by its name, which Ray Train gives to their working directory."""
    return [process for process in find_children("RayTrainWorker") if _read_folder(process).name == run]


def find_children(command: str) -> list[int]:
    """Find the processes below this one whose command line contains `command`."""
    parents, commands = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_text(errors="replace")
        except OSError:
            continue
    children = []
    for process, parent in parents.items():
        while parent in parents and parent != os.getpid():
            parent = parents[parent]
        if parent == os.getpid() and command in commands.get(process, ""):
            children.append(process)
    return children


def _kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill the process group of `leader`, and the processes that it started in other groups."""
    os.killpg(leader.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (remaining := list(_list_session(leader.pid))) and time.monotonic() < deadline:
        for process in remaining:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    leader.wait(30)


def _list_session(session: int) -> Iterator[int]:
    """List the running processes of a session."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, owner = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state != "Z":
            yield int(entry.name)


def _read_folder(process: int) -> Path:
    try:
        return Path(f"/proc/{process}/cwd").readlink()
    except OSError:
        return Path()
