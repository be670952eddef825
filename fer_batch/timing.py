"""Measure the seconds that each stage of the work takes, and call a function again and again meanwhile."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator


class StageTimer:
    """Sum the time of each stage.

    `wall_s` and `cpu_s` hold seconds by stage. CPU time covers the whole process, so it includes the work of
    other threads.
    """

    def __init__(self) -> None:
        self.wall_s: defaultdict[str, float] = defaultdict(float)
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.restart()

    def restart(self) -> None:
        """Discard the time since the last record."""
        self._last = time.perf_counter(), time.process_time()

    def record(self, stage: str) -> None:
        """Add the time since the last record or restart to `stage`."""
        now = time.perf_counter(), time.process_time()
        self.wall_s[stage] += now[0] - self._last[0]
        self.cpu_s[stage] += now[1] - self._last[1]
        self._last = now

    def add(self, other: "StageTimer") -> None:
        """Add the sums of another timer to the sums of this one."""
        for sums, other_sums in ((self.wall_s, other.wall_s), (self.cpu_s, other.cpu_s)):
            for stage, seconds in other_sums.items():
                sums[stage] += seconds


@contextlib.contextmanager
def call_periodically(callback: Callable[[], None], interval_s: float) -> Iterator[None]:
    """Call `callback` every `interval_s` seconds in a thread while the body runs, and once after it."""
    ended = threading.Event()

    def call() -> None:
        while not ended.wait(interval_s):
            callback()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        callback()
