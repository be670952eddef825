"""Limits of the process of a query, for what DuckDB's own limits do not stop."""

import contextlib
import os
import resource
import threading
from collections.abc import Iterator

from fer_batch.cli.output import print_status
from fer_batch.private_folders import delete_private_folders

PROCESS_MEMORY_SHARE = 0.75
"""Share of this machine's memory that the process may use. DuckDB's own limit does not count all lists."""
GRACE_S = 10.0
"""Seconds after the timeout until the process ends; DuckDB cannot interrupt a single call of a function."""


@contextlib.contextmanager
def limit_process(timeout_s: float) -> Iterator[None]:
    """Limit the memory of this process during the body, and end the process if the body takes too long."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    soft_bytes = min([int(total_bytes * PROCESS_MEMORY_SHARE), *allowed])
    timer = threading.Timer(timeout_s + GRACE_S, _end_process, [timeout_s])
    timer.daemon = True
    timer.start()
    resource.setrlimit(resource.RLIMIT_DATA, (soft_bytes, limits[1]))
    try:
        yield
    finally:
        timer.cancel()
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def describe_timeout(timeout_s: float) -> str:
    """Return the message for a query that takes too long."""
    return f"The query took longer than {timeout_s:g} s; give a longer --timeout, or select fewer rows"


def _end_process(timeout_s: float) -> None:
    print_status(f"fer-batch: {describe_timeout(timeout_s)}")
    delete_private_folders()
    os._exit(2)
