"""The lease of an output folder: only one run at a time writes to it.

On a file system the lease is an flock, which the kernel releases however the process ends. Object stores have
no locks. There the lease is the file `.lease.NUMBER` with the highest number: a run creates the next number,
and the store refuses a name that exists. The holder rewrites its file every `HEARTBEAT_S`, and a lease
without a heartbeat for `LEASE_TIMEOUT_S` is free. A holder that has lost its lease ends its process at once.
"""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fer_batch.errors import OutputError
from fer_batch.storage.folder import FolderLike, LocalFolder, OutputFolder, StoreFolder, open_folder

LOCAL_LEASE = ".lease"
STORE_LEASE_PREFIX = ".lease."
HEARTBEAT_S = 5.0
LEASE_TIMEOUT_S = 60.0
MAX_ATTEMPTS = 100
"""Attempts to take a lease that other runs take and release."""

_held_descriptors: set[int] = set()
"""Descriptors of this process's leases."""
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold_lease(out: FolderLike, command: str) -> Iterator[None]:
    """Hold the lease of `out`, which a process needs to write there, while the body runs; readers need none.

    A missing folder is created, and removed again if the body leaves it empty. Child processes do not inherit
    the lease. Errors of a store in the body become an OutputError with advice. Raises OutputError if another
    process holds the lease, if `out` cannot be created or written to, or if its file system has no locks.
    """
    folder = open_folder(out)
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": command,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if isinstance(folder, StoreFolder):
        lease = _hold_store_lease(folder, content)
    else:
        lease = _hold_local_lease(folder, content)
    with lease:
        yield


def describe_lease_holder(out: FolderLike) -> str | None:
    """Describe the process that writes to `out`, or return None if none does.

    It reads the lease's text only: trying the lock could stop a run that starts. A process on another host
    may have ended without a trace.
    """
    folder = open_folder(out)
    name = _select_last(_list_leases(folder)) if isinstance(folder, StoreFolder) else LOCAL_LEASE
    try:
        if _is_dead_process(folder.read_bytes(name)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _describe_holder(folder, name)


def _is_dead_process(content: bytes) -> bool:
    """Return whether a lease names a process of this host that has ended."""
    holder = json.loads(content)
    return holder["host"] == socket.gethostname() and not Path(f"/proc/{holder['pid']}").exists()


def _describe_holder(folder: OutputFolder, name: str) -> str:
    time.sleep(0.1)  # a process that has just locked the file is still writing it
    try:
        content = json.loads(folder.read_bytes(name))
        return (
            f"`fer-batch {content['command']}` has written there since {content['since']} "
            f"(process {content['pid']} on {content['host']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another run writes there"


def _create_lease_error(folder: OutputFolder, name: str) -> OutputError:
    return OutputError(
        f"{folder} is in use: {_describe_holder(folder, name)}; wait until it ends, or stop it, and run the "
        "same command again"
    )


@contextlib.contextmanager
def _hold_local_lease(folder: LocalFolder, content: dict[str, Any]) -> Iterator[None]:
    out = folder.path
    created = [path for path in (out, *out.parents) if not path.exists()]
    try:
        descriptor = _lock_file(out / LOCAL_LEASE)
        _held_descriptors.add(descriptor)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(content).encode(), 0)
            yield
        finally:
            if descriptor in _held_descriptors:  # not in a forked child that leaves the body
                # Removed before it is closed: _lock_file then sees that it was removed.
                folder.remove_file(LOCAL_LEASE)
                _held_descriptors.discard(descriptor)
                os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for path in created:
                path.rmdir()


def _lock_file(path: Path) -> int:
    """Create and lock the file at `path`; return its descriptor."""
    attempt = 0
    while True:
        attempt += 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot create {path.parent}: {error.strerror}; give another --out") from error
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < MAX_ATTEMPTS:
                continue  # another run has just removed the folder that it had created
            raise OutputError(f"Cannot write to {path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # a run that has just ended removed the file: lock the next one
        except BlockingIOError:
            os.close(descriptor)
            raise _create_lease_error(LocalFolder(path.parent), path.name) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                path.unlink(missing_ok=True)
                raise OutputError(
                    f"The file system of {path.parent} has no locks (flock: {error.strerror}), so two runs "
                    "could write there at the same time; give a folder on a file system with locks"
                ) from error
            raise
        os.close(descriptor)


def _close_inherited_descriptors() -> None:
    """Close the leases in a forked child, which would otherwise hold them after its parent has ended."""
    for descriptor in _held_descriptors:
        os.close(descriptor)
    _held_descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited_descriptors)


@contextlib.contextmanager
def _hold_store_lease(folder: StoreFolder, content: dict[str, Any]) -> Iterator[None]:
    name = _create_next_lease(folder, content)
    ended = threading.Event()
    keeper = threading.Thread(target=_send_heartbeats, args=(folder, name, content, ended), daemon=True)
    keeper.start()
    try:
        yield
    except Exception as error:
        converted = folder.convert_error(error)
        if converted is None:
            raise
        raise converted from error
    finally:
        ended.set()
        keeper.join()
        with contextlib.suppress(Exception):  # a failing store must not hide the error of the body
            folder.remove_file(name)


def _list_leases(folder: StoreFolder) -> set[str]:
    names = folder.find_names(f"{STORE_LEASE_PREFIX}*")
    return {name for name in names if name.removeprefix(STORE_LEASE_PREFIX).isdecimal()}


def _select_last(names: set[str]) -> str:
    """Return the name of the lease that counts; number 0, which no run creates, if there is none."""
    return max(names, key=_parse_number, default=f"{STORE_LEASE_PREFIX}{0:06d}")


def _parse_number(name: str) -> int:
    return int(name.removeprefix(STORE_LEASE_PREFIX))


def _create_next_lease(folder: StoreFolder, content: dict[str, Any]) -> str:
    """Create the next lease and return its name; raise OutputError if another run holds the lease."""
    for _ in range(MAX_ATTEMPTS):
        try:
            before = _list_leases(folder)
            last = _select_last(before)
            is_free = _wait_until_free(folder, last)
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(f"Cannot read {folder}: {error}") from error
        if not is_free:
            raise _create_lease_error(folder, last)
        name = f"{STORE_LEASE_PREFIX}{_parse_number(last) + 1:06d}"
        try:
            folder.create_file(name, json.dumps(content).encode())
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"Cannot write to {folder}: {error}; use credentials that may write there, or give another "
                "--out"
            ) from error
        if _list_leases(folder) - before - {name}:  # another run came when the last lease had just ended
            folder.remove_file(name)
            time.sleep(random.uniform(0, HEARTBEAT_S / 5))
            continue
        for old in before:
            folder.remove_file(old)
        return name
    raise OutputError(f"{folder} is in use: other runs alternate there; run the same command again")


def _wait_until_free(folder: StoreFolder, name: str) -> bool:
    """Return whether the lease `name` is free; watch it for up to `LEASE_TIMEOUT_S` if that is unknown."""
    first_content, warned = None, False
    start = time.monotonic()
    while time.monotonic() < start + LEASE_TIMEOUT_S:
        try:
            content = folder.read_bytes(name)
        except FileNotFoundError:
            return True
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if _is_dead_process(content):
                return True
        if first_content not in (None, content):
            return False
        first_content = content
        if time.monotonic() > start + 2 * HEARTBEAT_S and not warned:
            warned = True
            holder = _describe_holder(folder, name)
            logger.warning("%s: waiting %.0f s for its next heartbeat …", holder, LEASE_TIMEOUT_S)
        time.sleep(HEARTBEAT_S / 5)
    return True


def _send_heartbeats(folder: StoreFolder, name: str, content: dict[str, Any], ended: threading.Event) -> None:
    """Rewrite the lease until `ended` is set; end the process if another run may hold the lease."""
    last_success, beat = time.monotonic(), 0
    while not ended.wait(HEARTBEAT_S):
        beat += 1
        with contextlib.suppress(Exception):  # the store may fail for up to half of LEASE_TIMEOUT_S
            if _parse_number(_select_last(_list_leases(folder))) > _parse_number(name):
                last_success = -math.inf
            elif not ended.is_set():
                folder.write_bytes(name, json.dumps(content | {"beat": beat}).encode(), "lease")
                last_success = time.monotonic()
        silence_s = time.monotonic() - last_success
        if silence_s > LEASE_TIMEOUT_S / 2:
            reason = (
                "another run has taken it over"
                if silence_s == math.inf
                else f"the store has not answered for {silence_s:.0f} s, and another run may take it over"
            )
            logger.error("the lease of %s is lost: %s; run the same command again", folder, reason)
            os._exit(2)
