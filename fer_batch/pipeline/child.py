"""A child process for work on untrusted media files.

Native code that reads such a file may crash, hang or fill the memory; in a child it harms only itself. The
parent holds a `WorkerProcess`, the child runs `serve_calls`. A child starts once, keeps its networks in
memory, and starts again only after it died or was killed.
"""

import contextlib
import ctypes
import importlib
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.errors import FerBatchError
from fer_batch.faults import fault_point
from fer_batch.import_path import make_import_environment
from fer_batch.lazy_pandas import delay_pandas
from fer_batch.logs import show_log
from fer_batch.pipeline.device_errors import describe_device_error
from fer_batch.storage.addresses import remember_queries, remembered_queries
from fer_batch.storage.archives import MAX_COPY_BYTES

START_TIMEOUT_S = 300.0
"""Time limit for the start of a child, which imports torch, perhaps from a slow disk."""
MAX_CALL_ATTEMPTS = 2
"""Attempts at a call whose child crashes or reports an error of a GPU. The kernel may have killed the child
for another process's memory, and an error of a GPU often lasts until the process ends."""
MAX_FILE_BYTES = MAX_COPY_BYTES + 2**20
"""Size of a file that a child may write. It only writes temporary copies of archive members."""
NO_GPUS = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "")
"""Environment that hides the GPUs of NVIDIA and AMD. Ray 2.60 shows them to workers without a share."""
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
HEARTBEAT, RESULT, REQUEST, OUT_OF_MEMORY, ERROR, DEVICE_ERROR = b"+", b"=", b"?", b"m", b"!", b"d"
"""First byte of each message of a child. A number or nothing follows HEARTBEAT, an Arrow stream RESULT and
REQUEST, text ERROR and DEVICE_ERROR."""
MIN_HEARTBEAT_S = 0.25
"""Seconds from one heartbeat without a number to the next."""


class CallFailedError(Exception):
    """A call returned no result; the message has the reason. `timed_out` is True after a time limit."""

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class BrokenWorkerError(RuntimeError):
    """The worker has a fault, not the video: another worker may succeed with the same bundle."""


class BrokenNodeError(BrokenWorkerError):
    """No child can be started, or run its networks, on this node."""


class DeviceError(Exception):
    """The child reports the error of a GPU, and has been ended."""


class StoppedError(Exception):
    """Another thread has stopped the child for good."""


class WorkerProcess:
    """A child process that serves calls of a module's functions or an object's methods, which return tables.

    `target` is "module", or "module:name" to serve the object that `name(*arguments)` returns. The parent
    never unpickles a message of the child. One thread may use it at a time. The child ends with `close`, and
    whenever this process ends. It sees the GPUs of this process only if `gpu` is True.
    """

    def __init__(self, target: str, arguments: tuple[Any, ...], limits: Limits, gpu: bool = False) -> None:
        self.target, self.arguments, self.limits, self.gpu = target, arguments, limits, gpu
        self.answer: Callable[[pa.Table], pa.Table] = lambda table: pa.table({})
        """Answers the requests that the child makes during a call."""
        self.progress: float | None = None
        """The number in the last heartbeat of the last call."""
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self._is_stopped = False

    def call(self, method: str, *arguments: Any, max_s: float = math.inf) -> pa.Table:
        """Call a method in the child and return its table.

        Raises CallFailedError where the child crashed MAX_CALL_ATTEMPTS times, sent no heartbeat for
        `limits.timeout_s`, took longer than `max_s`, exceeded `limits.memory_gb`, or the method raised.
        Raises BrokenWorkerError where the last of MAX_CALL_ATTEMPTS children reported an error of a GPU, and
        BrokenNodeError where no child can be started. Raises StoppedError after `stop`.
        """
        for attempt in range(1, MAX_CALL_ATTEMPTS + 1):
            connection = self._connect()
            self.progress = None
            try:
                connection.send((method, arguments))
                return self._receive_result(connection, self.limits.timeout_s, max_s)
            except DeviceError as error:
                if attempt == MAX_CALL_ATTEMPTS:
                    raise BrokenWorkerError(str(error)) from error
            except (EOFError, OSError, pa.ArrowException):
                reason = f"the worker process {self._describe_exit()}"
                self.close()
                if attempt == MAX_CALL_ATTEMPTS:
                    raise CallFailedError(f"{reason} {MAX_CALL_ATTEMPTS} times") from None
        raise AssertionError

    def start(self) -> None:
        """Start the child if it does not run; raises BrokenNodeError where none can be started."""
        self._connect()

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def stop(self) -> None:
        """End the child for good, from any thread: a call that runs and all later ones raise StoppedError."""
        self._is_stopped = True
        process = self.process
        if process is not None:
            process.kill()

    def _connect(self, retry: bool = True) -> Connection:
        """Return the connection to the child, which is started if it does not run."""
        if self._is_stopped:
            raise StoppedError
        if self.connection is None or self.process is None or self.process.poll() is not None:
            self.close()
            self.process, self.connection = self._start_process()
            if self._is_stopped:  # `stop` may have seen no process
                self.close()
                raise StoppedError
            try:
                limits = self.limits.memory_gb, os.getpid()
                self.connection.send((self.target, self.arguments, *limits, remembered_queries()))
                self._receive_result(self.connection, START_TIMEOUT_S, START_TIMEOUT_S)
            except (EOFError, OSError) as error:
                reason = self._describe_exit()
                killed = self.process.returncode is not None and self.process.returncode < 0
                self.close()
                if killed and retry:  # the kernel may have killed it for memory, which is no reason to fail
                    return self._connect(retry=False)
                raise BrokenNodeError(f"a worker process {reason} when it started") from error
            except DeviceError as error:
                if retry:  # an earlier child may still hold the memory of the GPU
                    return self._connect(retry=False)
                raise BrokenNodeError(str(error)) from error
            except CallFailedError as error:
                self.close()
                raise BrokenNodeError(f"a worker process cannot be started: {error}") from error
        return self.connection

    def _start_process(self) -> tuple["subprocess.Popen[bytes]", Connection]:
        ours, theirs = socket.socketpair()
        code = "import sys; from fer_batch.pipeline.child import serve_calls; serve_calls(int(sys.argv[1]))"
        # Children read from stores, so they keep all credentials but those of Ray.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        if not self.gpu:
            environment |= NO_GPUS
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            cwd="/",  # libraries read files of the working directory, which may be untrusted
            env=environment | make_import_environment(),
        )
        theirs.close()
        return process, Connection(ours.detach())

    def _receive_result(self, connection: Connection, timeout_s: float, max_s: float) -> pa.Table:
        end = time.monotonic() + max_s
        while True:
            left_s = end - time.monotonic()
            if not connection.poll(max(min(timeout_s, left_s), 0)):
                self.close()
                if left_s <= timeout_s:
                    raise CallFailedError(f"it took longer than {max_s:.0f} s", timed_out=True)
                raise CallFailedError(f"no progress for {timeout_s:g} s (--timeout)", timed_out=True)
            message = connection.recv_bytes()
            kind, content = message[:1], memoryview(message)[1:]
            if kind == RESULT:
                return _decode_table(content)
            if kind == REQUEST:
                connection.send_bytes(_encode_table(self.answer(_decode_table(content))))
                continue
            if kind == OUT_OF_MEMORY:
                self.close()  # libraries may be in an undefined state after a failed allocation
                raise CallFailedError(f"it needs more than {self.limits.memory_gb:g} GB of memory (--memory)")
            if kind == ERROR:
                raise CallFailedError(str(content, "utf-8", "replace"))
            if kind == DEVICE_ERROR:
                self.close()
                raise DeviceError(str(content, "utf-8", "replace"))
            if content:
                self.progress = float(content)

    def _describe_exit(self) -> str:
        """Wait for the end of the child and describe it as a verb phrase."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.returncode
        if code is None:
            return "stopped responding"
        if code < 0:
            return f"crashed ({signal.Signals(-code).name})"
        return f"ended (exit code {code})"


def serve_calls(descriptor: int) -> None:
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
    with Connection(descriptor) as connection:
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
        messages.send(RESULT + _encode_table(pa.table({})))
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
        self.send(REQUEST + _encode_table(table))
        return _decode_table(memoryview(self.connection.recv_bytes()))


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
        return RESULT + _encode_table(method(*arguments))
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:
        if device_error := describe_device_error(error):
            return DEVICE_ERROR + device_error.encode()
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):  # torch has no own type
            return OUT_OF_MEMORY
        return ERROR + f"{type(error).__name__}: {error}".encode()


def _encode_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _decode_table(content: memoryview) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(content)) as stream:
        return stream.read_all()


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
