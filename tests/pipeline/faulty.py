"""Objects for a worker process that crash, hang, or use too much memory."""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from fer_batch.inputs.members import MemberLister
from fer_batch.inputs.probe import Prober

GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class FaultyObject:
    """Its methods return a table or fail in a real way."""

    def __init__(self, name: str = "faulty") -> None:
        self.name = name
        self.heartbeat: Callable[[float], None] = lambda progress: None
        self.keep_alive: Callable[[], None] = lambda: None

    def greet(self, number: int) -> pa.Table:
        return pa.table({"name": [self.name], "number": [number], "pid": [os.getpid()]})

    def crash(self) -> pa.Table:
        ctypes.string_at(0)
        raise AssertionError

    def crash_once(self, marker: str) -> pa.Table:
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.greet(1)

    def use_broken_gpu(self, marker: str = "") -> pa.Table:
        """Fail like a GPU; with `marker`, only in the first process."""
        if marker and os.path.exists(marker):
            return self.greet(6)
        if marker:
            open(marker, "w").close()
        raise RuntimeError("CUDA error: unspecified launch failure\nmore")

    def exit(self) -> pa.Table:
        os._exit(3)

    def fail(self) -> pa.Table:
        raise ValueError("this\nfile is strange")

    def stop(self) -> pa.Table:
        os.kill(os.getpid(), signal.SIGSTOP)
        return self.greet(2)

    def block(self, seconds: int) -> pa.Table:
        """Run native code that holds the interpreter lock."""
        ctypes.PyDLL(None).sleep(seconds)
        return self.greet(3)

    def work_slowly(self, seconds: float) -> pa.Table:
        """Take long, but send heartbeats."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.heartbeat(end - time.monotonic())
            time.sleep(0.05)
        return self.greet(4)

    def work_in_a_thread(self, seconds: float) -> pa.Table:
        """Make progress once, and let another thread work on."""
        self.heartbeat(7.0)
        end = time.monotonic() + seconds

        def work() -> None:
            while time.monotonic() < end:
                self.keep_alive()
                time.sleep(0.001)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return self.greet(5)

    def read_limits(self) -> pa.Table:
        """Read the limits, the privileges and the environment of this process."""
        (privileges,) = [
            line for line in Path("/proc/self/status").read_text().splitlines() if "NoNewPrivs" in line
        ]
        return pa.table(
            {
                "core_bytes": [resource.getrlimit(resource.RLIMIT_CORE)],
                "file_bytes": [resource.getrlimit(resource.RLIMIT_FSIZE)],
                "no_new_privileges": [privileges.split()[1] == "1"],
                "names": [sorted(os.environ)],
                "gpus": [[os.environ[name] for name in GPU_VARIABLES if name in os.environ]],
            }
        )

    def allocate(self, gigabytes: float) -> pa.Table:
        return pa.table({"sum": [int(np.ones(int(gigabytes * 1e9), np.uint8).sum())]})


class ObjectOnBrokenGpu(FaultyObject):
    """Its networks do not run."""

    def check(self) -> None:
        self.use_broken_gpu(self.name)


class FaultyProber(Prober):
    """A prober that fails on files by their names."""

    def probe(self, sources: pa.Table) -> pa.Table:
        for number, uri in enumerate(sources.column("uri").to_pylist()):
            self.heartbeat(number)
            name = Path(uri).name
            if name.startswith("crash"):
                ctypes.string_at(0)
            if name.startswith("hang"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if name.startswith("allocate"):
                np.ones(2_000_000_000, np.uint8)
        return super().probe(sources)


class FaultyLister(MemberLister):
    """A lister that fails on archives by their names."""

    def list_archive(self, archive: str) -> pa.Table:
        name = Path(archive).stem
        if name == "crash":
            ctypes.string_at(0)
        if name == "hang":
            time.sleep(1000)
        if name == "allocate":
            np.ones(2_000_000_000, np.uint8)
        if name == "raise":
            raise KeyError(name)
        return super().list_archive(archive)
