"""A child process for work on untrusted media files.

Native code that reads such a file may crash, hang or fill the memory; in a child it harms only itself. The
parent holds a `WorkerProcess`, the child runs `child_main.serve_calls`. A child starts once, keeps its
networks in memory, and starts again only after it died or was killed.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.import_path import make_import_environment
from fer_batch.pipeline.messages import (
    DEVICE_ERROR,
    ERROR,
    OUT_OF_MEMORY,
    REQUEST,
    RESULT,
    decode_table,
    encode_table,
)
from fer_batch.storage.addresses import remembered_queries

START_TIMEOUT_S = 300.0
"""Time limit for the start of a child, which imports torch, perhaps from a slow disk."""
MAX_CALL_ATTEMPTS = 2
"""Attempts at a call whose child crashes or reports an error of a GPU. The kernel may have killed the child
for another process's memory, and an error of a GPU often lasts until the process ends."""
NO_GPUS = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "")
"""Environment that hides the GPUs of NVIDIA and AMD. Ray 2.60 shows them to workers without a share."""


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
        code = (
            "import sys; from fer_batch.pipeline.child_main import serve_calls; serve_calls(int(sys.argv[1]))"
        )
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
                return decode_table(content)
            if kind == REQUEST:
                connection.send_bytes(encode_table(self.answer(decode_table(content))))
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
