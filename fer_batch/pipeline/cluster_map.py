"""Map a function over many items on the nodes of the connected Ray."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from fer_batch.errors import NodeError

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS = 4
"""Number of items below which the driver calls the function itself, because workers take longer to start."""
TASKS_PER_CPU = 2
"""Tasks that are submitted at a time for each CPU, so that the next one waits beside a running one."""
MAX_RETRIES = 3
"""Retries of a task whose worker or node is lost."""


def map_on_cluster(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of a function in the order of the items, like `map`, on all CPUs of the cluster.

    The function must give the same result if it is called again: Ray repeats a call if its worker is lost.
    Few items are held in memory at a time. Raises the error of a call as a `ray.exceptions.RayTaskError`,
    and NodeError if the workers of a call, or its result, were lost more than MAX_RETRIES times.
    """
    items = iter(items)
    first = list(itertools.islice(items, MIN_ITEMS))
    if len(first) < MIN_ITEMS:
        yield from map(function, first)
        return
    call: Any = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_call)
    shared = ray.put(function)
    limit = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque[Any] = deque()
    for item in itertools.chain(first, items):
        if len(pending) >= limit:
            yield _get_result(pending.popleft())
        pending.append(call.remote(shared, item))
    while pending:
        yield _get_result(pending.popleft())


def _get_result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except (WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError) as error:
        raise NodeError(
            "Workers that write the tables were lost several times: run the same command again"
        ) from error


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)
