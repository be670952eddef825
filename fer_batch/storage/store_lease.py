"""The lease of a folder in an object store, which has no locks.

The lease is the file `.lease.NUMBER` with the highest number. A run creates the next number, and the store
refuses a name that exists. The holder rewrites its file every `HEARTBEAT_S`; a lease without a heartbeat for
`LEASE_TIMEOUT_S` is free. A holder that finds its lease lost ends its process at once.
"""

import contextlib
import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

from fer_batch.errors import OutputError
from fer_batch.storage.folder import StoreFolder
from fer_batch.storage.lease_holder import describe_holder, is_dead_process, lease_error

HEARTBEAT_S = 5.0
LEASE_TIMEOUT_S = 60.0
LEASE_PREFIX = ".lease."
MAX_ATTEMPTS = 100
"""Attempts to take a lease that other runs take and release."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def hold_store_lease(folder: StoreFolder, content: dict[str, Any]) -> Iterator[None]:
    """Hold the lease of a folder in a store, see `lease.hold_lease`.

    Errors of the store in the body become an OutputError with advice.
    """
    name = _acquire(folder, content)
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


def find_last_lease(folder: StoreFolder) -> str:
    """Return the name of the lease that counts; number 0, which no run creates, if there is none."""
    return _select_last(_list_leases(folder))


def _list_leases(folder: StoreFolder) -> set[str]:
    names = folder.find_names(f"{LEASE_PREFIX}*")
    return {name for name in names if name.removeprefix(LEASE_PREFIX).isdecimal()}


def _select_last(names: set[str]) -> str:
    return max(names, key=_parse_number, default=f"{LEASE_PREFIX}{0:06d}")


def _parse_number(name: str) -> int:
    return int(name.removeprefix(LEASE_PREFIX))


def _acquire(folder: StoreFolder, content: dict[str, Any]) -> str:
    """Create the next lease and return its name; raise OutputError if another run holds the lease."""
    for _ in range(MAX_ATTEMPTS):
        try:
            before = _list_leases(folder)
            last = _select_last(before)
            is_free = _wait_until_free(folder, last)
        except Exception as error:  # each store's library has errors of its own
            raise OutputError(f"Cannot read {folder}: {error}") from error
        if not is_free:
            raise lease_error(folder, last)
        name = f"{LEASE_PREFIX}{_parse_number(last) + 1:06d}"
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
    end = time.monotonic() + LEASE_TIMEOUT_S
    while time.monotonic() < end:
        try:
            content = folder.read_bytes(name)
        except FileNotFoundError:
            return True
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if is_dead_process(json.loads(content)):
                return True
        if first_content not in (None, content):
            return False
        first_content = content
        if time.monotonic() > end - LEASE_TIMEOUT_S + 2 * HEARTBEAT_S and not warned:
            warned = True
            holder = describe_holder(folder, name)
            logger.warning("%s: waiting %.0f s for its next heartbeat …", holder, LEASE_TIMEOUT_S)
        time.sleep(HEARTBEAT_S / 5)
    return True


def _send_heartbeats(folder: StoreFolder, name: str, content: dict[str, Any], ended: threading.Event) -> None:
    """Rewrite the lease until `ended` is set; end the process if another run may hold the lease."""
    last_success, beat = time.monotonic(), 0
    while not ended.wait(HEARTBEAT_S):
        beat += 1
        with contextlib.suppress(Exception):  # the store may fail for up to half of LEASE_TIMEOUT_S
            if _parse_number(find_last_lease(folder)) > _parse_number(name):
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
