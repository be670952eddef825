"""Ray sessions: addresses, and which clients a local Ray accepts."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private import services

from fer_batch import ray_folder, ray_internals, runtime
from fer_batch.errors import ConfigError
from fer_batch.runtime import TOKEN_VARIABLES, is_loopback, ray_session

CONNECT = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_get(b"", namespace=b"", timeout=10)
"""


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("127.3.2.1:6379", True),
        ("[::1]:6379", True),
        ("0.0.0.0:6379", False),
        ("192.0.2.1:6379", False),
        ("[2001:db8::1]:6379", False),
    ],
)
def test_loopback_addresses_are_recognized(address: str, local: bool) -> None:
    assert is_loopback(address) == local


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "ray://127.0.0.1:10001", "127.0.0.1:1", "http://localhost:8265"]
)
def test_unreachable_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match="Cannot join the Ray cluster"), ray_session(address):
        pass
    assert not ray.is_initialized()


def descendants(pid: int) -> Iterator[int]:
    try:
        children = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):  # the process has ended
        return
    for child in map(int, itertools.chain(*children)):
        yield child
        yield from descendants(child)


def find_listening(pid: int) -> set[str]:
    """Return the addresses on which a process listens, in the kernel's hexadecimal form."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(descriptor))
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def connect(gcs: str, *environments: dict[str, str]) -> list[str]:
    """Connect once with each environment, and return the error messages, "" for a success."""
    kept = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
    command = [sys.executable, "-c", CONNECT, gcs]
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=kept | environment)
        for environment in environments
    ]
    errors = [process.communicate()[1].strip().split("\n")[-1] for process in processes]
    return [error if process.returncode else "" for process, error in zip(processes, errors, strict=True)]


@pytest.mark.slow
def test_local_ray_listens_only_on_loopback_and_requires_its_token() -> None:
    before = {name: os.environ.get(name) for name in TOKEN_VARIABLES}
    for _ in range(2):
        with ray_session(num_cpus=1):

            @ray.remote
            def worker() -> tuple[int, str]:
                return os.getpid(), os.getcwd()

            pid, working_directory = ray.get(worker.remote())
            assert pid in set(descendants(os.getpid()))
            folder = Path(working_directory).parent
            assert (folder.stat().st_mode & 0o777, folder.stat().st_uid) == (0o700, os.getuid())
            assert folder in Path(ray._private.worker._global_node.temp_dir).parents
            processes = (os.getpid(), *descendants(os.getpid()))
            addresses = set().union(*map(find_listening, processes))
            assert addresses
            assert addresses <= LOOPBACK
            gcs = ray.get_runtime_context().gcs_address
            token = os.environ["RAY_AUTH_TOKEN"]
            without, wrong, right = connect(
                gcs,
                {"RAY_AUTH_MODE": "disabled"},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            )
            assert "Authentication token is missing or incorrect" in without
            assert "Authentication token is missing or incorrect" in wrong
            assert right == ""
        assert {name: os.environ.get(name) for name in TOKEN_VARIABLES} == before
        assert not folder.exists()


def test_long_temporary_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    with ray_session(num_cpus=1):
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
    assert not list(folder.iterdir())


def test_long_temporary_folder_is_refused_without_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 25)))
    monkeypatch.setattr(ray_folder, "SHORT_FOLDER", tmp_path / "missing")
    with (
        pytest.raises(ConfigError, match=r"too long for sockets; name .* bytes in RAY_TMPDIR"),
        ray_session(),
    ):
        pass


@pytest.mark.parametrize("failures", [1, 2])
def test_start_that_times_out_is_tried_again(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    starts = []

    def start(**options: object) -> None:
        starts.append(options)
        if len(starts) <= failures:
            raise Exception("The current node timed out during startup. This could happen.")  # as Ray does

    monkeypatch.setattr(ray, "init", start)
    if failures < runtime.MAX_STARTS:
        with ray_session():
            pass
    else:
        with pytest.raises(ConfigError, match=r"timed out .* too busy .* --address"), ray_session():
            pass
    assert len(starts) == runtime.MAX_STARTS


def test_other_failures_of_the_start_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def start(**options: object) -> None:
        starts.append(options)
        raise ValueError("no such option")

    monkeypatch.setattr(ray, "init", start)
    with (
        pytest.raises(ConfigError, match=r"Cannot start Ray on this machine: no such option$"),
        ray_session(),
    ):
        pass
    assert len(starts) == 1


def test_start_waits_longer_than_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([RuntimeError("not yet"), RuntimeError("not yet"), {"labels": {}}])

    def get_node(*arguments: object) -> object:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(ray_internals, "QUERY_PAUSE_S", 0.0)
    with ray_internals.wait_for_node(60):
        assert services.get_node("gcs", "node") == {"labels": {}}
    assert services.get_node is get_node
