"""Write and check the tables of a run: on a cluster if one is connected or named, else in this process.

Few buckets take less time in this process than Ray takes to start, so Ray starts only on request.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fer_batch.pipeline.connection import is_ray_named
from fer_batch.run.finalize import finalize as write_tables
from fer_batch.run.forget import complete_forget
from fer_batch.run.partial import finalize_partial, has_pending_videos
from fer_batch.run.record import read_run
from fer_batch.run.summary import RunSummary, summarize_run
from fer_batch.run.verify import verify_run
from fer_batch.storage.folder import FolderLike, open_folder
from fer_batch.storage.lease import hold_lease

MapTasks = Callable[..., Iterable[Any]]
"""A function that is called like `map` with one iterable."""


def finalize(
    out: FolderLike,
    *,
    rewrite_all: bool = False,
    partial: bool = False,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> RunSummary:
    """Write the tables of the run in `out` from its results, and return the totals of the run.

    `analyze` does this at its end. A second call writes only the buckets whose videos have changed since, or
    all with `rewrite_all`. An interrupted `fer-batch forget` is completed first. Readers see the previous
    tables until all new ones are written, and a killed call can be repeated.

    With `partial`, the tables have the videos that are finished, and missing results are no error. Readers
    are told how many videos these are.

    Each bucket (20 hours of video) is a task with one CPU, and the tables change in one commit at the end.
    The tasks run on a Ray that is connected, else on the cluster at `address` (HOST:PORT or "auto"), else on
    that of RAY_ADDRESS or the surrounding Ray job. The nodes must share `out`. Without any of these, all work
    is done in this process, without Ray; `address="local"` starts a Ray that uses all CPUs of this machine.
    `insecure` permits a cluster that requires no token. `verbose` shows Ray's log.

    Raises OutputError if `out` contains no run or is in use, if a planned segment has no result, or if the
    written rows are inconsistent; ConfigError if the cluster cannot be used; NodeError if workers are lost
    again and again.
    """
    folder = open_folder(out).absolute()
    read_run(folder)  # raises before the lease creates a folder
    with hold_lease(folder, "finalize"), open_task_map(address, insecure, verbose) as map_tasks:
        complete_forget(folder)
        if partial and has_pending_videos(folder):
            finalize_partial(folder, map_tasks)
            return summarize_run(folder)
        return write_tables(folder, rewrite_all, map_tasks)


def verify(
    out: FolderLike, *, address: str | None = None, insecure: bool = False, verbose: bool = False
) -> list[str]:
    """Describe each inconsistency of the run in `out` in one line; the list is empty for a consistent run.

    All results and tables are read, and nothing is written. If another process writes to `out` at the moment,
    the first line says so. Groups of result files and buckets are tasks with one CPU each; `address`,
    `insecure` and `verbose` are those of `finalize`.

    Raises OutputError if `out` contains no run; ConfigError if the cluster cannot be used; NodeError if
    workers are lost again and again.
    """
    folder = open_folder(out)
    read_run(folder)
    with open_task_map(address, insecure, verbose) as map_tasks:
        return verify_run(folder if map_tasks is map else folder.absolute(), map_tasks)


@contextlib.contextmanager
def open_task_map(
    address: str | None = None, insecure: bool = False, verbose: bool = False
) -> Iterator[MapTasks]:
    """Give `map_on_cluster` in the body if a Ray is connected or named, else `map`."""
    if not is_ray_named(address):
        yield map
        return
    from fer_batch.pipeline.cluster_map import map_on_cluster  # importing Ray takes a second
    from fer_batch.runtime import ray_session

    with ray_session(address, insecure=insecure, verbose=verbose):
        yield map_on_cluster
