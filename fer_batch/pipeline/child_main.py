"""Serve the calls of a `child.WorkerProcess` in its child, within limits of memory and file size."""

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.errors import FerBatchError
from fer_batch.faults import fault_point
from fer_batch.lazy_pandas import delay_pandas
from fer_batch.logs import show_log
from fer_batch.pipeline.device_errors import describe_device_error
from fer_batch.pipeline.messages import (
    DEVICE_ERROR,
    ERROR,
    HEARTBEAT,
    OUT_OF_MEMORY,
    REQUEST,
    RESULT,
    decode_table,
    encode_table,
)
from fer_batch.storage.addresses import remember_queries
from fer_batch.storage.file_sections import MAX_COPY_BYTES

MAX_FILE_BYTES = MAX_COPY_BYTES + 2**20
"""Size of a file that a child may write. It only writes temporary copies of archive members."""
MIN_HEARTBEAT_S = 0.25
"""Seconds from one heartbeat without a number to the next."""
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38


def serve_calls(descriptor: str) -> None:
    """Run the child's side: create the target, then serve calls until the parent closes the connection.

    `descriptor` is the file descriptor of the socket. The target's attribute `heartbeat`, if it has one, is
    set to a function that reports progress as a number, and `keep_alive` to one that reports work without
    progress. Any thread may call them, `keep_alive` as often as it likes. `request` is set to a function that
    sends a table to the parent and returns its answer; only the thread of the call may use it. A target with
    a method `check` is checked before the first call.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    show_log()
    delay_pandas()
    with Connection(int(descriptor)) as connection:
        name, arguments, memory_gb, parent, queries = connection.recv()
        remember_queries(queries)
        _die_with_parent(parent)
        messages = _Messages(connection)
        try:
            target = _create_target(name, arguments)
        except Exception as error:
            if device_error := describe_device_error(error):
                messages.send(DEVICE_ERROR + device_error.encode())
            elif isinstance(error, FerBatchError):
                messages.send(ERROR + str(error).encode())
            else:
                raise
            return
        if hasattr(target, "heartbeat"):
            target.heartbeat = messages.send_progress
        if hasattr(target, "keep_alive"):
            target.keep_alive = messages.keep_alive
        if hasattr(target, "request"):
            target.request = messages.request
        _limit_memory(memory_gb)
        _limit_files()
        messages.send(RESULT + encode_table(pa.table({})))
        while True:
            try:
                method, arguments = connection.recv()
            except EOFError:
                return
            fault_point(f"child.{method}")
            messages.send(_run_call(getattr(target, method), arguments))


class _Messages:
    """The messages of a child to its parent, from any of its threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._lock = threading.Lock()
        self._next_heartbeat_s = 0.0

    def send(self, message: bytes) -> None:
        with self._lock:
            self.connection.send_bytes(message)

    def send_progress(self, progress: float) -> None:
        self.send(HEARTBEAT + str(progress).encode())

    def keep_alive(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = now_s + MIN_HEARTBEAT_S
            self.send(HEARTBEAT)

    def request(self, table: pa.Table) -> pa.Table:
        self.send(REQUEST + encode_table(table))
        return decode_table(memoryview(self.connection.recv_bytes()))


def _create_target(name: str, arguments: tuple[Any, ...]) -> Any:
    module, _, attribute = name.partition(":")
    target: Any = importlib.import_module(module)
    if attribute:
        target = getattr(target, attribute)(*arguments)
    if hasattr(target, "check"):
        target.check()
    return target


def _run_call(method: Callable[..., pa.Table], arguments: tuple[Any, ...]) -> bytes:
    try:
        return RESULT + encode_table(method(*arguments))
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:
        if device_error := describe_device_error(error):
            return DEVICE_ERROR + device_error.encode()
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):  # torch has no own type
            return OUT_OF_MEMORY
        return ERROR + f"{type(error).__name__}: {error}".encode()


def _limit_files() -> None:
    """Limit the size of files, and forbid core dumps and, on Linux, programs with more privileges."""
    for limit, size in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, MAX_FILE_BYTES)):
        _, hard = resource.getrlimit(limit)
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(limit, (size, size))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))


def _die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends. Only Linux can; elsewhere an idle child ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _limit_memory(extra_gb: float) -> None:
    """Limit this process to `extra_gb` more private memory than it has now. Only Linux has such a limit."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    now_kb = next(
        int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData")
    )
    limit = now_kb * 1024 + round(extra_gb * 1e9)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
