"""Looking at strange files in a child process: what crashes, hangs or eats memory there harms nobody else.

A media file is made by strangers and read by native code. The child is started once, keeps the networks warm,
and is started anew only when it died or was killed.
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
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.faults import point
from fer_batch.schema import FACES, PLAN, PROBED, RESULTS, bundled, from_bundle, to_bundle

START_S = 300.0
"""Longest that a child may take until it is ready: importing torch from a slow disk."""
SLOWEST = 100.0
"""Times its own length that a segment may take, however lively its reading is."""
TRIES = 2
"""For what crashes: the crash may have come from elsewhere, as the kernel's kill for want of memory does."""
GIVEN_UP = 2
"""Segments of one video that may hang, one after the other, before a bundle's others of it are not tried."""
FILES = 64
"""Probed in one call."""
PR_SET_PDEATHSIG = 1
ALIVE, ANSWER, MEMORY, ERROR = b"+", b"=", b"m", b"!"
"""What a child says begins with one of these. With a sign of life goes how far it has come, a number; an
answer is Arrow's stream format, an error is text."""


class GaveUpError(Exception):
    """The child could not answer; the message says why. `hung` where it was given too much time already."""

    def __init__(self, reason: str, hung: bool = False) -> None:
        super().__init__(reason)
        self.hung = hung


class NoChildError(RuntimeError):
    """The worker itself has trouble, not a video: another one may have more luck with its bundle."""


class Child:
    """A process in which what `make` names waits for calls of its methods, which answer with tables: a module
    ("module"), or what something in it makes ("module:name") of `arguments`.

    What a process says that reads strange files is taken as data, never unpickled. Not for several threads.
    `close` ends it; so does the end of this process, however it comes.
    """

    def __init__(self, make: str, arguments: tuple[Any, ...], limits: Limits) -> None:
        self.make, self.arguments, self.limits = make, arguments, limits
        self.reached: float | None = None
        """How far the last call came, by its own signs."""
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None

    def call(self, method: str, *arguments: Any, longest_s: float = math.inf) -> pa.Table:
        """What the method answers.

        Raises GaveUpError where it does not: the child died (twice, as it is tried again), gave no sign of
        life for `limits.timeout_s`, took longer than `longest_s`, wanted more memory than it may have, or
        the method raised.
        """
        for attempt in range(1, TRIES + 1):
            connection = self._started()
            self.reached = None
            try:
                connection.send((method, arguments))
                return self._answer(connection, self.limits.timeout_s, longest_s)
            except (EOFError, OSError, pa.ArrowException):
                reason = f"the process that looked at it {self._death()}"
                self.close()
                if attempt == TRIES:
                    raise GaveUpError(f"{reason}, {TRIES} times") from None
        raise AssertionError

    def close(self) -> None:
        """End the child; the next call starts another."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _started(self, again: bool = True) -> Connection:
        if self.connection is None or self.process is None or self.process.poll() is not None:
            self.close()
            ours, theirs = _pair()
            command = "import sys; from fer_batch.pipeline.guard import serve; serve(int(sys.argv[1]))"
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            theirs.close()
            self.connection = ours
            try:
                ours.send((self.make, self.arguments, self.limits.memory_gb, os.getpid()))
                self._answer(ours, START_S, START_S)
            except (EOFError, OSError) as error:
                reason = self._death()
                killed = self.process.returncode is not None and self.process.returncode < 0
                self.close()
                if killed and again:  # by the kernel, say, that wanted memory: no reason to end the job
                    return self._started(again=False)
                raise NoChildError(f"a process to look at videos {reason} when it started") from error
            except GaveUpError as error:
                raise NoChildError(f"no process to look at videos could be started: {error}") from error
        return self.connection

    def _answer(self, connection: Connection, timeout_s: float, longest_s: float) -> pa.Table:
        end = time.monotonic() + longest_s
        while True:
            left_s = end - time.monotonic()
            if not connection.poll(max(min(timeout_s, left_s), 0)):
                self.close()
                if left_s <= timeout_s:
                    raise GaveUpError(f"it took longer than {longest_s:.0f} s", hung=True)
                raise GaveUpError(f"nothing came of it for {timeout_s:g} s (--timeout)", hung=True)
            said = connection.recv_bytes()
            kind, content = said[:1], memoryview(said)[1:]
            if kind == ANSWER:
                with pa.ipc.open_stream(pa.py_buffer(content)) as stream:
                    return stream.read_all()
            if kind == MEMORY:
                self.close()  # what is left of its memory may be in pieces
                raise GaveUpError(f"it needs more than {self.limits.memory_gb:g} GB of memory (--memory)")
            if kind == ERROR:
                raise GaveUpError(str(content, "utf-8", "replace"))
            self.reached = float(content)

    def _death(self) -> str:
        """How the child ended, as a verb."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        code = self.process.returncode
        if code is None:
            return "stopped answering"
        if code < 0:
            return f"crashed ({signal.Signals(-code).name})"
        return f"ended (exit code {code})"


class GuardedStage:
    """`AnalyzeStage` or `FacesStage` of `pipeline.stages` in a child: planned segments, `bundled(PLAN)`, to
    what the stage makes of them. A segment that can't be looked at ends as "failed", with the reason.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...], limits: Limits) -> None:
        self.child = Child(f"fer_batch.pipeline.stages:{name}", arguments, limits)
        self.recognizes = name == "AnalyzeStage"
        self.empty = bundled(RESULTS if self.recognizes else FACES).empty_table()

    def __call__(self, bundles: pa.Table) -> pa.Table:
        point("guard.bundle")
        parts = [self.empty]
        for number in range(bundles.num_rows):
            bundle = bundles.slice(number, 1)
            hung: dict[str, int] = {}
            rows = [self._looked_at(segment, hung) for segment in from_bundle(bundle, PLAN).to_pylist()]
            faces = to_bundle(bundle.column("bundle_id")[0].as_py(), pa.concat_tables(rows))
            parts.append(self._recognized(faces) if self.recognizes else faces)
        return pa.concat_tables(parts)

    def _looked_at(self, segment: dict[str, Any], hung: dict[str, int]) -> pa.Table:
        """One segment as a row of FACES; `hung` counts, by video, those that have just hung."""
        video = segment["video_id"]
        if hung.get(video, 0) >= GIVEN_UP:
            return _failed(segment, f"not tried: {GIVEN_UP} parts before it hung")
        length_s = segment["end_s"] - segment["start_s"]
        try:
            row = self.child.call(
                "look", segment, longest_s=10 * self.child.limits.timeout_s + SLOWEST * length_s
            )
        except GaveUpError as error:
            hung[video] = hung.get(video, 0) + 1 if error.hung else 0
            return self._until_there(segment, str(error))
        hung[video] = 0
        return row

    def _until_there(self, segment: dict[str, Any], reason: str) -> pa.Table:
        """What comes before the place in a segment where looking at it came to no end."""
        reached_s = self.child.reached
        if reached_s is None or reached_s <= segment["core_start_s"]:
            return _failed(segment, reason)
        reason = f"{reason}, at {reached_s:.1f} s"
        ends = {"end_s": reached_s, "core_end_s": min(reached_s, segment["core_end_s"])}
        try:
            part = self.child.call("look", segment | ends | {"segments": segment["segments"] + 1})
        except GaveUpError:
            return _failed(segment, reason)
        (row,) = part.to_pylist()
        row |= {"core_end_s": segment["core_end_s"], "status": "partial", "error": reason}
        return pa.Table.from_pylist([row], schema=FACES) if row["frames"] else _failed(segment, reason)

    def _recognized(self, faces: pa.Table) -> pa.Table:
        try:
            return self.child.call("recognize", faces)
        except GaveUpError as error:
            raise NoChildError(f"faces can't be recognized: {error}") from error


class GuardedProbe:
    """`Prober` of `archive.probe` in a child: a file that can't be probed ends as "failed".

    Many files are one call, as a call takes longer than most files. Where a call comes to no end, the file at
    which it stood is asked for alone, and the others again.
    """

    def __init__(self, limits: Limits) -> None:
        self.child = Child("fer_batch.inputs.probe:Prober", (), limits)

    def __call__(self, sources: pa.Table) -> pa.Table:
        calls = [sources.slice(first, FILES) for first in range(0, len(sources), FILES)]
        return pa.concat_tables(
            [PROBED.empty_table(), *(part for call in calls for part in self._probed(call))]
        )

    def _probed(self, sources: pa.Table) -> list[pa.Table]:
        longest_s = 10 * self.child.limits.timeout_s * len(sources)
        try:
            return [self.child.call("probe", sources, longest_s=longest_s)]
        except GaveUpError as error:
            done = min(int(self.child.reached or 0), len(sources) - 1)
            before, at, after = sources.slice(0, done), sources.slice(done, 1), sources.slice(done + 1)
            if error.hung or len(sources) == 1:  # waiting a second time would tell no more
                row = at.to_pylist()[0] | {"status": "failed", "error": str(error)}
                its = [pa.Table.from_pylist([row], schema=PROBED)]
            else:
                its = self._probed(at)
            rest = [self._probed(part) if len(part) else [] for part in (before, after)]
            return [*rest[0], *its, *rest[1]]


def serve(descriptor: int) -> None:
    """The child's side: make what is asked for, then answer calls until the other side has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this
    with Connection(descriptor) as connection:
        name, arguments, memory_gb, parent = connection.recv()
        _die_with(parent)
        module, _, attribute = name.partition(":")
        served: Any = importlib.import_module(module)
        if attribute:
            served = getattr(served, attribute)(*arguments)
        if hasattr(served, "alive"):
            served.alive = _signs(connection)
        _limit_memory(memory_gb)
        connection.send_bytes(_answered(pa.table({})))
        while True:
            try:
                method, given = connection.recv()
            except EOFError:
                return
            point(f"guard.{method}")
            connection.send_bytes(_called(getattr(served, method), given))


def _called(method: Callable[..., pa.Table], given: tuple[Any, ...]) -> bytes:
    try:
        return _answered(method(*given))
    except MemoryError:
        return MEMORY
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate memory" in str(
            error
        ):  # torch has no error of its own
            return MEMORY
        return ERROR + f"{type(error).__name__}: {error}".encode()


def _answered(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return ANSWER + sink.getvalue().to_pybytes()


def _signs(connection: Connection) -> Callable[[float], None]:
    """What says that work goes on, and how far it has come."""
    return lambda reached: connection.send_bytes(ALIVE + str(reached).encode())


def _pair() -> tuple[Connection, Connection]:
    one, other = socket.socketpair()
    return Connection(one.detach()), Connection(other.detach())


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent has gone; elsewhere than on Linux, when it idles."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _limit_memory(more_gb: float) -> None:
    """Let this process take so much more private memory than now; Linux alone counts what matters here."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    now_kb = next(
        int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData")
    )
    most = now_kb * 1024 + round(more_gb * 1e9)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _failed(segment: dict[str, Any], reason: str) -> pa.Table:
    row = {name: segment[name] for name in FACES.names if name in segment} | {
        "status": "failed",
        "error": reason,
        "read_s": 0.0,
        "frames": 0,
        "moments": [],
        "faces": [],
        "crops": b"",
        "decode_s": 0.0,
        "detect_s": 0.0,
        "crop_s": 0.0,
    }
    return pa.Table.from_pylist([row], schema=FACES)
