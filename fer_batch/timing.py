"""Where the time goes: seconds of each stage of the work, by the clock and by the processor."""

import time
from collections import defaultdict


class Laps:
    """A stopwatch: each lap goes to a stage's sum.

    `wall` and `cpu` are seconds by stage. The processor's are those of the whole process, so they hold
    what other threads did meanwhile.
    """

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.start()

    def start(self) -> None:
        """Leave out what passed since the last lap."""
        self._since = time.perf_counter(), time.process_time()

    def lap(self, stage: str) -> None:
        """Give `stage` what passed since the last lap."""
        now = time.perf_counter(), time.process_time()
        self.wall[stage] += now[0] - self._since[0]
        self.cpu[stage] += now[1] - self._since[1]
        self._since = now

    def add(self, other: "Laps") -> None:
        """Add another's sums to these."""
        for mine, its in ((self.wall, other.wall), (self.cpu, other.cpu)):
            for stage, seconds in its.items():
                mine[stage] += seconds
