"""Kill a run at random for ten minutes and compare its rows; start it with `pytest -m chaos -s`.

FER_BATCH_CHAOS_S sets another duration in seconds, FER_BATCH_CHAOS_SEED other kills.
"""

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fer_batch.run.verify import verify_run
from tests.faults.conftest import (
    CHILD,
    MarkedProcesses,
    analyze_command,
    kill,
    list_bundle_stats,
    write_clips,
)
from tests.integration.test_analyze import rows

SECONDS = float(os.environ.get("FER_BATCH_CHAOS_S", "600"))
SEED = int(os.environ.get("FER_BATCH_CHAOS_SEED", "5"))
KINDS = {"worker": 4, "child": 4, "driver": 1, "driver and Ray": 1}
"""The targets and their weights; drivers are killed rarely, so that a start reaches its work."""
TITLES = {"worker": "ray::", "child": CHILD}
PAUSE_S = (2.0, 8.0)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(SECONDS * 3 + 3600)]


class Chaos:
    """A command that is restarted whenever it ends early, and the kills that it gets."""

    def __init__(self, command: list[str], out: Path, log: Path, figures: Counter[str]) -> None:
        self.command, self.out, self.log, self.figures = command, out, log, figures
        self.seen: dict[str, tuple[int, int]] = {}
        self.run = MarkedProcesses()
        self.driver: subprocess.Popen[str] | None = None

    def update(self) -> None:
        """Count the bundles that were written again since the last call."""
        now = list_bundle_stats(self.out)
        self.figures["bundles done twice"] += sum(now.get(name) != stat for name, stat in self.seen.items())
        self.seen = now

    def is_finished(self) -> bool:
        """Return whether the command has succeeded; start it again if it has ended otherwise."""
        code = None if self.driver is None else self.driver.poll()
        if code == 0:
            return True
        if self.driver is None or code is not None:
            self.figures["starts"] += 1
            self.figures["ends with an error"] += code is not None and code > 0
            with self.log.open("a") as log:
                self.driver = self.run.start(["-m", "fer_batch.cli.main", *self.command], stderr=log)
        return False

    def strike(self, kind: str, moments: random.Random) -> None:
        assert self.driver is not None
        if kind in TITLES:
            victims = self.run.processes(TITLES[kind])
            self.figures[kind] += bool(victims) and kill(moments.choice(victims))
            return
        if self.driver.poll() is None:
            self.figures[kind] += kill(self.driver.pid)
            self.driver.wait()
        if kind == "driver and Ray":
            self.run.kill()


@pytest.fixture
def sixty(tmp_path: Path, sample_frames: list[np.ndarray]) -> Path:
    return write_clips(tmp_path / "clips", sample_frames, 60, film_s=0)


def test_random_kills_do_not_change_rows(sixty: Path, tmp_path: Path) -> None:
    ended = MarkedProcesses().run(analyze_command(sixty, tmp_path / "undisturbed"))
    assert ended.returncode == 0, ended.stderr
    moments = random.Random(SEED)
    figures = Counter(dict.fromkeys([*KINDS, "starts", "ends with an error", "bundles done twice"], 0))
    end = time.monotonic() + SECONDS
    outs = []
    while time.monotonic() < end:
        outs.append(tmp_path / f"out{len(outs)}")
        chaos = Chaos(analyze_command(sixty, outs[-1]), outs[-1], tmp_path / "log", figures)
        try:
            while not chaos.is_finished():
                time.sleep(moments.uniform(*PAUSE_S) if time.monotonic() < end else 1)
                chaos.update()
                if time.monotonic() < end:
                    chaos.strike(moments.choices(list(KINDS), list(KINDS.values()))[0], moments)
        finally:
            chaos.run.kill()
        chaos.update()
    figures["runs"] = len(outs)
    for out in outs:
        figures["bundles"] += len(list_bundle_stats(out))
        trouble = rows(out, "videos").query("status not in ('ok', 'no_faces')")
        figures["videos given up, tried again"] += len(trouble)
        if len(trouble):  # two kills during the same segment: follow the advice of its error
            print(trouble[["uri", "status", "error"]].to_string())
            ended = MarkedProcesses().run([*analyze_command(sixty, out), "--retry-failed"])
            assert ended.returncode == 0, ended.stderr
        assert verify_run(out) == []
        for name, count in count_differences(tmp_path / "undisturbed", out):
            figures[name] += count
    print(f"\n{SECONDS:.0f} s of chaos:")
    print("\n".join(f"  {name}: {count}" for name, count in figures.items()))
    if (tmp_path / "log").exists():
        errors = [line for line in (tmp_path / "log").read_text().splitlines() if "Error" in line]
        print("\n".join(f"  {count} × {line}" for line, count in Counter(errors).most_common(10)))
    assert figures["rows lost"] == figures["rows doubled"] == figures["rows changed"] == 0


def count_differences(expected: Path, out: Path) -> Iterator[tuple[str, int]]:
    """Count lost, repeated and changed rows of all tables; attempt numbers may differ."""
    keys = {
        "videos": ["uri"],
        "moments": ["video_id", "time_s"],
        "tracks": ["video_id", "track_id", "time_s"],
    }
    for table, key in keys.items():
        one, other = (
            rows(folder, table).drop(columns=["attempt"], errors="ignore") for folder in (expected, out)
        )
        both = one.merge(other[key].drop_duplicates(), on=key, how="left", indicator=True)
        yield "rows lost", int((both["_merge"] == "left_only").sum())
        yield "rows doubled", int(other.duplicated(key).sum())
        merged = pd.concat([one, other[one.columns]])
        yield "rows changed", len(merged.drop_duplicates()) - len(one)
