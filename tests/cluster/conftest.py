"""Hosts for Ray: network namespaces of this machine, each with its own address."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.test_submit_job import BIN, SECRET, environment, wait
from tests.faults.conftest import kill

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET}
NOTICED_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
Started = subprocess.Popen[str]


@dataclass
class Host:
    """A network namespace with one address, connected to a switch."""

    namespace: str
    switch: str
    number: int
    folder: Path
    started: list[Started] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name where a table of hosts has it."""
        return f"node{self.number}"

    @property
    def address(self) -> str:
        """Its address, which exists only in the namespaces of the test."""
        return f"10.213.47.{self.number}"

    def wire(self) -> None:
        """Connect the host to the switch."""
        port = f"port{self.number}"
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", self.namespace)
        ip("-n", self.switch, "link", "set", port, "master", "bridge")
        self.plug("up")
        ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.namespace, "link", "set", "eth0", "up")
        # The route leads nowhere, but Ray uses it to find its own address.
        ip("-n", self.namespace, "route", "add", "default", "dev", "eth0")

    def plug(self, state: str) -> None:
        """Connect the host ("up") or disconnect it ("down"); its processes continue."""
        ip("-n", self.switch, "link", "set", f"port{self.number}", state)

    def start(self, *command: str, more: dict[str, str] | None = None, **options: object) -> Started:
        """Start a program of the virtual environment on this host, with additional variables."""
        words = ["nsenter", f"--net=/run/netns/{self.namespace}", str(BIN / command[0]), *command[1:]]
        variables = environment(**TOKEN, **NOTICED_SOON) | (more or {})
        self.started.append(subprocess.Popen(words, env=variables, text=True, **options))  # type: ignore[call-overload]
        return self.started[-1]

    def start_ray(self, *options: str, more: dict[str, str] | None = None) -> None:
        """Run `ray start` and wait until it reports that it runs."""
        self.folder.mkdir(exist_ok=True)
        log = self.folder / f"log{len(self.started)}"
        command = ["ray", "start", "--block", "--disable-usage-stats", "--node-ip-address", self.address]
        command += ["--temp-dir", str(self.folder), "--object-store-memory", "100000000", *options]
        with log.open("wb") as output:
            self.start(*command, more=more, stdout=output, stderr=output)
        wait(lambda: b"Ray runtime started" in log.read_bytes(), 120)

    def processes(self, title: str = "") -> list[int]:
        """Return the processes on this host whose command line contains `title`."""
        found = []
        for pid in map(int, ip("netns", "pids", self.namespace).split()):
            with contextlib.suppress(OSError):  # the process has ended
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                if title in line.decode(errors="replace"):
                    found.append(pid)
        return found

    def kill(self) -> None:
        """Kill all processes on the host, as a power failure would."""
        while left := self.processes():
            for pid in left:
                kill(pid)
            for process in self.started:
                process.poll()
            time.sleep(0.05)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    ip("netns", "add", name)
    try:
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Three hosts on one switch, without processes."""
    with contextlib.ExitStack() as stack:
        # The paths of Ray's sockets have at most 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray")))
        found = []
        try:
            switch = stack.enter_context(namespace(f"fer{os.getpid()}switch"))
            ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", switch, "link", "set", "bridge", "up")
            for number in (1, 2, 3):
                name = stack.enter_context(namespace(f"fer{os.getpid()}host{number}"))
                found.append(Host(name, switch, number, folder / str(number)))
                stack.callback(found[-1].kill)
                found[-1].wire()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
        yield found
