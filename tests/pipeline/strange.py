"""What a guarded process may do instead of answering, for the tests of the guard."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from fer_batch.inputs.probe import Prober


class Strange:
    """Its methods answer with a table or misbehave for real."""

    def __init__(self, name: str = "strange") -> None:
        self.name = name
        self.heartbeat: Callable[[float], None] = lambda reached: None

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

    def leave(self) -> pa.Table:
        os._exit(3)

    def fail(self) -> pa.Table:
        raise ValueError("this\nfile is strange")

    def stop(self) -> pa.Table:
        os.kill(os.getpid(), signal.SIGSTOP)
        return self.greet(2)

    def hold(self, seconds: int) -> pa.Table:
        """Busy in native code that lets no other thread of Python run."""
        ctypes.PyDLL(None).sleep(seconds)
        return self.greet(3)

    def go_on(self, seconds: float) -> pa.Table:
        """Slow, but with signs of life."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.heartbeat(end - time.monotonic())
            time.sleep(0.05)
        return self.greet(4)

    def eat(self, gigabytes: float) -> pa.Table:
        return pa.table({"sum": [int(np.ones(int(gigabytes * 1e9), np.uint8).sum())]})


class StrangeProber(Prober):
    """Comes to grief over files as their names say."""

    def probe(self, sources: pa.Table) -> pa.Table:
        for number, uri in enumerate(sources.column("uri").to_pylist()):
            self.heartbeat(number)
            name = Path(uri).name
            if name.startswith("crash"):
                ctypes.string_at(0)
            if name.startswith("hang"):
                os.kill(os.getpid(), signal.SIGSTOP)
            if name.startswith("eat"):
                np.ones(2_000_000_000, np.uint8)
        return super().probe(sources)
