"""One run at a time on an output folder. The kernel holds the lease: it ends with the process, however that
ends.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from fer_batch.errors import OutputError

ATTEMPTS = 100
"""To make and open a folder that others make and remove."""

_held: set[int] = set()
"""Descriptors of this process's leases."""


@contextlib.contextmanager
def lease(out: Path, command: str) -> Iterator[None]:
    """Have `out` to oneself while the body runs, to write there; readers need no lease.

    It is an flock on `out/.lease`, which names the host, the process, the command and since when. No child
    inherits it. `out` is made where it is missing, and goes again if the body leaves nothing in it. Raises
    OutputError where another process has the lease, `out` can't be made or written to, or its file system
    has no locks.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    path = out / ".lease"
    try:
        descriptor = _locked(path)
        _held.add(descriptor)
        try:
            holder = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "command": command,
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield
        finally:
            if descriptor in _held:  # not in a forked child that comes by here
                path.unlink(missing_ok=True)  # before it is closed: _locked sees that it has gone
                _held.discard(descriptor)
                os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # it is no longer empty
            for folder in made:
                folder.rmdir()


def holder(out: Path) -> str | None:
    """Who writes to `out` at the moment, None where nobody does; on another host that can't be told for sure.

    By what the lease says alone: trying its lock would get in the way of a run that starts.
    """
    try:
        said = json.loads((out / ".lease").read_text())
        gone = said["host"] == socket.gethostname() and not Path(f"/proc/{said['pid']}").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if gone else _named(out / ".lease")


def _locked(path: Path) -> int:
    """A descriptor of the file that has this name, locked; makes its folder."""
    for attempt in itertools.count():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent} can't be made: {error.strerror}; name another --out") from error
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < ATTEMPTS:
                continue  # a run that came to nothing has just removed the folder that it had made
            raise OutputError(f"{path.parent} may not be written to: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # removed by a run that ended since it was opened here: lock the next one
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(_refusal(path)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                path.unlink(missing_ok=True)
                raise OutputError(
                    f"the file system of {path.parent} has no locks (flock: {error.strerror}), so two runs "
                    "could write there at once; name a folder on one that has them"
                ) from error
            raise
        os.close(descriptor)
    raise AssertionError("it counts for ever")


def _refusal(path: Path) -> str:
    who = _named(path)
    return f"{path.parent} is in use: {who}; wait until it ends, or stop it, and run the same command again"


def _named(path: Path) -> str:
    """What the one says of itself that holds a lease."""
    time.sleep(0.1)  # who has only just locked it is writing its name
    try:
        said = json.loads(path.read_text())
        return (
            f"`fer-batch {said['command']}` writes there since {said['since']} "
            f"(process {said['pid']} on {said['host']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another run writes there"


def _let_go() -> None:
    """A forked child closes its copies: what it does after its parent's end must hold nobody up."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
