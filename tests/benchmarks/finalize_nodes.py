"""Measure `finalize` on local Ray clusters: python -m tests.benchmarks.finalize_nodes VIDEOS CPUS...

The videos last a minute, with a face in each sampled frame, and their results are invented. The time is that
of `finalize` alone, after a first task has started each worker.
"""

import sys
import tempfile
import time
from pathlib import Path

from fer_batch.pipeline.cluster_map import map_on_cluster
from fer_batch.run.finalize import finalize
from fer_batch.runtime import ray_session
from tests.benchmarks.scale import answer, make, plan


def measure(out: Path, cpus: int) -> float:
    """Return the wall seconds for all tables with one worker for each CPU."""
    with ray_session(num_cpus=cpus):
        list(map_on_cluster(_import_libraries, range(4 * cpus)))
        began = time.monotonic()
        finalize(out, rewrite_all=True, map_buckets=map_on_cluster)
        return time.monotonic() - began


def _import_libraries(number: int) -> int:
    time.sleep(1)
    return len([finalize, number])


def main() -> None:
    """Measure each number of CPUs, twice and in turn."""
    videos, *cpus = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder, videos, 60.0)
        plan(folder)
        answer(folder)
        for count in [*cpus, *cpus]:
            print(f"{videos} videos, {count} CPUs: {measure(folder / 'out', count):.1f} s", flush=True)


if __name__ == "__main__":
    main()
