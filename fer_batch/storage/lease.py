"""The lease of an output folder: only one run at a time writes to it.

On a file system the lease is an flock, which the kernel releases however the process ends. Object stores have
no locks; see `storage.store_lease`.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fer_batch.errors import OutputError
from fer_batch.storage.folder import FolderLike, LocalFolder, StoreFolder, open_folder
from fer_batch.storage.lease_holder import (
    describe_holder,
    describe_process,
    is_dead_process,
    lease_error,
)
from fer_batch.storage.store_lease import MAX_ATTEMPTS, find_last_lease, hold_store_lease

LOCAL_LEASE = ".lease"

_held_descriptors: set[int] = set()
"""Descriptors of this process's leases."""


@contextlib.contextmanager
def hold_lease(out: FolderLike, command: str) -> Iterator[None]:
    """Hold the lease of `out`, which a process needs to write there, while the body runs; readers need none.

    A missing folder is created, and removed again if the body leaves it empty. Child processes do not inherit
    the lease. Raises OutputError if another process holds the lease, if `out` cannot be created or written
    to, or if its file system has no locks.
    """
    folder = open_folder(out)
    if isinstance(folder, StoreFolder):
        with hold_store_lease(folder, describe_process(command)):
            yield
    elif isinstance(folder, LocalFolder):
        with _hold_local_lease(folder.path, describe_process(command)):
            yield


def describe_lease_holder(out: FolderLike) -> str | None:
    """Describe the process that writes to `out`, or return None if none does.

    It reads the lease's text only: trying the lock could stop a run that starts. A process on another host
    may have ended without a trace.
    """
    folder = open_folder(out)
    name = find_last_lease(folder) if isinstance(folder, StoreFolder) else LOCAL_LEASE
    try:
        if is_dead_process(json.loads(folder.read_bytes(name))):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return describe_holder(folder, name)


@contextlib.contextmanager
def _hold_local_lease(out: Path, content: dict[str, Any]) -> Iterator[None]:
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    path = out / LOCAL_LEASE
    try:
        descriptor = _lock_file(path)
        _held_descriptors.add(descriptor)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(content).encode(), 0)
            yield
        finally:
            if descriptor in _held_descriptors:  # not in a forked child that leaves the body
                path.unlink(missing_ok=True)  # before it is closed: _lock_file then sees that it was removed
                _held_descriptors.discard(descriptor)
                os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for folder in created:
                folder.rmdir()


def _lock_file(path: Path) -> int:
    """Create and lock the file at `path`; return its descriptor."""
    for attempt in itertools.count():
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
            raise lease_error(LocalFolder(path.parent), path.name) from None
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
    raise AssertionError("unreachable")


def _close_inherited_descriptors() -> None:
    """Close the leases in a forked child, which would otherwise hold them after its parent has ended."""
    for descriptor in _held_descriptors:
        os.close(descriptor)
    _held_descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited_descriptors)
