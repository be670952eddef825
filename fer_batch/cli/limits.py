"""Limits of the process of a query, for what DuckDB's own limits do not stop."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator

from fer_batch.cli.output import print_status
from fer_batch.private_folders import delete_private_folders

PROCESS_MEMORY_SHARE = 0.75
"""Share of this machine's memory that the process may use. DuckDB's own limit does not count all lists."""
MAX_PROCESS_BYTES = 24 << 30
"""Most memory that the process may use: DuckDB's limit of 16 GiB, and what it does not count."""
GRACE_S = 10.0
"""Seconds after the timeout until the process ends; DuckDB cannot interrupt a single call of a function."""
ALARM_GRACE_S = 20.0
"""Seconds after the timeout until the kernel ends the process. DuckDB's parser, which may take exponential
time, stops all threads of Python."""


@contextlib.contextmanager
def limit_process(timeout_s: float) -> Iterator[None]:
    """Limit the memory of this process during the body, and end the process if the body takes too long."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    soft_bytes = min([int(total_bytes * PROCESS_MEMORY_SHARE), MAX_PROCESS_BYTES, *allowed])
    timer = threading.Timer(timeout_s + GRACE_S, _end_process, [timeout_s])
    timer.daemon = True
    timer.start()
    resource.setrlimit(resource.RLIMIT_DATA, (soft_bytes, limits[1]))
    try:
        with _set_alarm(timeout_s + ALARM_GRACE_S):
            yield
    finally:
        timer.cancel()
        resource.setrlimit(resource.RLIMIT_DATA, limits)


@contextlib.contextmanager
def _set_alarm(timeout_s: float) -> Iterator[None]:
    """Let the kernel end this process if the body takes too long."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def describe_timeout(timeout_s: float) -> str:
    """Return the message for a query that takes too long."""
    return f"The query took longer than {timeout_s:g} s; give a longer --timeout, or select fewer rows"


def _end_process(timeout_s: float) -> None:
    print_status(f"fer-batch: {describe_timeout(timeout_s)}")
    delete_private_folders()
    os._exit(2)
