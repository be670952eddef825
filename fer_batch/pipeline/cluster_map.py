"""Map a function over many items on the nodes of the connected Ray."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from fer_batch.errors import NodeError

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS = 4
"""Number of items below which the driver calls the function itself, because workers take longer to start."""
CPUS_PER_TASK = 1
TASKS_PER_CPU = 2
"""Tasks that are submitted at a time for each CPU, so that the next one waits beside a running one."""
MIN_TASKS = 16
"""Tasks that are submitted at a time to any cluster, so that one without nodes adds some for them."""
MAX_RETRIES = 3
"""Retries of a task whose worker or node is lost."""


def map_on_cluster(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of a function in the order of the items, like `map`, on all CPUs of the cluster.

    The function must give the same result if it is called again: Ray repeats a call if its worker is lost.
    Few items are held in memory at a time, and all results that an earlier item delays. Raises the error of a
    call as a `ray.exceptions.RayTaskError`, and NodeError if the workers of a call, or its result, were lost
    more than MAX_RETRIES times.
    """
    items = iter(items)
    first = list(itertools.islice(items, MIN_ITEMS))
    if len(first) < MIN_ITEMS:
        yield from map(function, first)
        return
    call: Any = ray.remote(num_cpus=CPUS_PER_TASK, max_retries=MAX_RETRIES)(_call)
    shared = ray.put(function)
    running: dict[Any, int] = {}
    finished: dict[int, Any] = {}
    next_number = 0
    for number, item in enumerate(itertools.chain(first, items)):
        while len(running) >= _count_tasks():
            _collect(running, finished)
        running[call.remote(shared, item)] = number
        while next_number in finished:
            yield finished.pop(next_number)
            next_number += 1
    while running:
        _collect(running, finished)
        while next_number in finished:
            yield finished.pop(next_number)
            next_number += 1


def _count_tasks() -> int:
    """Return how many tasks to submit at a time to the nodes that the cluster has now."""
    return max(MIN_TASKS, TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 0)))


def _collect(running: dict[Any, int], finished: dict[int, Any]) -> None:
    """Wait until a running task has ended and get its result."""
    ended, _ = ray.wait(list(running))
    for reference in ended:
        finished[running.pop(reference)] = _get_result(reference)


def _get_result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError) as error:
        raise NodeError(
            "Workers that write or check the tables were lost several times: run the same command again"
        ) from error


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    pa.set_cpu_count(CPUS_PER_TASK)  # threads that compute; those that wait for files are others
    return function(item)
