"""One run at a time on an output folder. The kernel holds the lease: it ends with the process, however that
ends.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import math
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_batch.errors import OutputError
from fer_batch.storage.atomic import content, is_in_store
from fer_batch.storage.folder import convert_store_error

BEAT_S = 5.0
GONE_S = 60.0
"""Who holds a lease in a store and gives no sign of life for so long is gone."""
LEASE = ".lease."
"""How the names of leases in a store begin; then comes a number."""
ATTEMPTS = 100
"""To make and open a folder that others make and remove."""

_held: set[int] = set()
"""Descriptors of this process's leases."""


@contextlib.contextmanager
def hold_lease(out: Path, command: str) -> Iterator[None]:
    """Have `out` to oneself while the body runs, to write there; readers need no lease.

    It is an flock on `out/.lease`, which names the host, the process, the command and since when. No child
    inherits it. `out` is made where it is missing, and goes again if the body leaves nothing in it. Raises
    OutputError where another process has the lease, `out` can't be made or written to, or its file system
    has no locks. In a store, which has no locks, it is a file that is written anew all the while.
    """
    if is_in_store(out):
        with _store_lease(out, command):
            yield
        return
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    path = out / ".lease"
    try:
        descriptor = _locked(path)
        _held.add(descriptor)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_oneself(command)).encode(), 0)
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


def describe_lease_holder(out: Path) -> str | None:
    """Who writes to `out` at the moment, None where nobody does; on another host that can't be told for sure.

    By what the lease says alone: trying its lock would get in the way of a run that starts.
    """
    path = _last(out) if is_in_store(out) else out / ".lease"
    try:
        said = json.loads(content(path))
        gone = said["host"] == socket.gethostname() and not Path(f"/proc/{said['pid']}").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if gone else _named(path)


def _oneself(command: str) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": command,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextlib.contextmanager
def _store_lease(out: Path, command: str) -> Iterator[None]:
    """A lease in a store: of the files `.lease.NUMBER` the one with the highest number.

    Each is made only if there is none of its name, which stores see to. Its holder writes it anew every
    BEAT_S; where nothing has changed for GONE_S the next number is taken. Who finds that he has lost his, as
    he was suspended or cut off from the store, ends there and then.
    """
    path = _claimed(out, _oneself(command))
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, _oneself(command), over), daemon=True)
    keeper.start()
    try:
        yield
    except Exception as error:
        down = convert_store_error(error, out)
        if down is None:
            raise
        raise down from error
    finally:
        over.set()
        keeper.join()
        with contextlib.suppress(Exception):  # a store that is down: what it was left for counts, not this
            path.unlink(missing_ok=True)


def _last(out: Path) -> Path:
    """The lease in a store that counts, or would be the first."""
    return _newest(out, _leases(out))


def _newest(out: Path, leases: set[Path]) -> Path:
    return max(leases, key=_number, default=out / f"{LEASE}{0:06d}")


def _leases(out: Path) -> set[Path]:
    return {path for path in out.glob(f"{LEASE}*") if path.name.removeprefix(LEASE).isdecimal()}


def _number(hold_lease: Path) -> int:
    return int(hold_lease.name.removeprefix(LEASE))


def _claimed(out: Path, me: dict[str, Any]) -> Path:
    """The lease in a store, taken; raises OutputError where somebody else has it."""
    for _ in range(ATTEMPTS):
        try:
            before = _leases(out)
            last = _newest(out, before)
            gone = _gone(last)
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(f"{out} can't be read: {error}") from error
        if not gone:
            raise OutputError(_refusal(last))
        mine = out / f"{LEASE}{_number(last) + 1:06d}"
        try:
            mine.fs.pipe_file(mine.path, json.dumps(me).encode(), mode="create")  # type: ignore[attr-defined]
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"{out} can't be written to: {error}; let the credentials write there, or name another --out"
            ) from error
        if _leases(out) - before - {mine}:  # of another who came when the last one had just gone
            mine.unlink(missing_ok=True)
            time.sleep(random.uniform(0, BEAT_S / 5))
            continue
        for path in before:
            path.unlink(missing_ok=True)
        return mine
    raise OutputError(f"{out} is in use: others take turns there; run the same command again")


def _gone(hold_lease: Path) -> bool:
    """Whether nobody holds it; where that does not show, it is watched for GONE_S."""
    seen, told = None, False
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        try:
            found = content(hold_lease)
        except FileNotFoundError:
            return True
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(found)
            if said["host"] == socket.gethostname() and not Path(f"/proc/{said['pid']}").exists():
                return True
        if seen not in (None, found):
            return False
        seen = found
        if time.monotonic() > end - GONE_S + 2 * BEAT_S and not told:
            told = True
            print(
                f"{_named(hold_lease)}: waiting {GONE_S:.0f} s for a sign of life …",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(BEAT_S / 5)
    return True


def _keep(path: Path, me: dict[str, Any], over: threading.Event) -> None:
    """Write a lease anew until it is over; ends the process where it is another's."""
    last, beat = time.monotonic(), 0
    while not over.wait(BEAT_S):
        beat += 1
        with contextlib.suppress(Exception):  # of the store's library; it has until GONE_S to come back
            if _number(_last(path.parent)) > _number(path):
                last = -math.inf
            elif not over.is_set():
                path.write_text(json.dumps(me | {"beat": beat}))
                last = time.monotonic()
        silent_s = time.monotonic() - last
        if silent_s > GONE_S / 2:
            why = (
                "another run has taken it over"
                if silent_s == math.inf
                else f"its store has not answered for {silent_s:.0f} s, and another run may take it over"
            )
            print(
                f"fer-batch: the lease on {path.parent} is lost: {why}; run the same command again",
                file=sys.stderr,
                flush=True,
            )
            os._exit(2)


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
        said = json.loads(content(path))
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
