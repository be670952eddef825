"""Run stages in guarded processes of this machine, without Ray, for short runs on CPUs.

Ray takes about fifteen seconds of CPU time to start. Each core gets a thread here, whose guarded process
analyzes one bundle after another.
"""

import os
from collections import deque
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.pipeline.hardware import Hardware, read_hardware
from fer_batch.pipeline.retries import measure_bundle_s, run_until_done
from fer_batch.pipeline.settings import PREFETCH_FRAMES, RunSettings
from fer_batch.pipeline.workers import GuardedWorker
from fer_batch.run.attempts import BrokenNode

MAX_VIDEO_S = 900.0
"""Seconds of video up to which a run on this machine does not start Ray."""
MAX_PROBES = 256
"""Number of files up to which such a run opens them, to find their length, before it might start Ray."""
ADDRESS = "127.0.0.1"
"""Address of this machine in messages about a broken node."""


def count_free_cores() -> int | None:
    """Return the number of cores that a run may use; None where this machine has NVIDIA GPUs, for Ray."""
    return None if read_hardware().gpus else count_cores()


def count_cores(limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of cores that this process may use, at least 1.

    `limits` is the file in which Linux states the share of a container.
    """
    is_linux = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    try:
        quota, period = map(int, limits.read_text().split())
    except (OSError, ValueError):  # there is no file, or no limit ("max")
        return cores
    return max(1, min(cores, quota // period))


def describe_machine(cores: int) -> tuple[list[dict[str, Any]], list[Hardware]]:
    """Return this machine as the only node of a run, a row like those of `ray.nodes()`, and its hardware."""
    return [{"NodeManagerAddress": ADDRESS, "Resources": {"CPU": cores}}], [read_hardware()]


class LocalWorker(GuardedWorker):
    """A worker that finds and recognizes faces, for one thread of this process."""

    def __init__(self, settings: RunSettings, prefetch: int) -> None:
        arguments = settings.analyzer_arguments(prefetch)
        super().__init__("AnalyzeStage", arguments, settings.limits, settings.queries, settings.results)

    def process_queue(self, bundles: deque[pa.Table]) -> None:
        """Process bundles until none is left."""
        try:
            while bundles:
                try:
                    bundle = bundles.popleft()
                except IndexError:  # another thread took the last one
                    return
                self(bundle)
        finally:
            self.stage.child.close()

    def describe_node(self, reason: str) -> BrokenNode:
        return BrokenNode(node_id="local", address=ADDRESS, reason=reason)


class LocalPool:
    """Processes planned segments on the cores of this machine."""

    def __init__(self, settings: RunSettings, cores: int) -> None:
        self.settings, self.cores = settings, cores
        self.workers: list[LocalWorker] = []

    def run_segments(self, segments: pa.Table) -> None:
        """Process planned segments as `dataflow.run_segments` does, with the same results and errors."""
        run_until_done(segments, self.settings, self._run_stages, has_nodes=lambda broken: not broken)

    def measure_running_s(self) -> dict[str, float]:
        """Return the seconds of video that have been read of each bundle in work. Any thread may call it."""
        return {bundle: s for worker in self.workers for bundle, s in worker.measure_running_s().items()}

    def _run_stages(self, bundles: list[pa.Table], broken: Collection[str]) -> None:
        queue = deque(sorted(bundles, key=measure_bundle_s, reverse=True))  # a long one last would delay all
        prefetch = PREFETCH_FRAMES if self.cores >= 2 * len(bundles) else 0
        count = min(self.cores, len(bundles))
        self.workers = [LocalWorker(self.settings, prefetch) for _ in range(count)]
        with ThreadPoolExecutor(count) as threads:
            try:
                running = [threads.submit(worker.process_queue, queue) for worker in self.workers]
                for ended in as_completed(running):
                    ended.result()
            except BaseException:  # Ctrl-C too: nothing may write results after the call
                queue.clear()
                for worker in self.workers:
                    worker.stage.child.stop()
                raise
