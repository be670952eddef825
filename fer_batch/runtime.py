"""Starting Ray, or joining a cluster: one place, so that every command does it alike."""

import contextlib
import ipaddress
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import (
    AuthenticationError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from fer_batch.errors import ConfigError, FerBatchError, ResourceError

EXHAUSTED: dict[type[RayError], str] = {
    ObjectStoreFullError: "Ray's object store is full: make /dev/shm larger, or give fewer workers",
    OutOfDiskError: "the disk of Ray's temporary folder is full: make room there",
    OutOfMemoryError: "a worker was stopped for want of memory: give the machine more, or fewer workers",
}
"""What ends a run, and what can be done about it."""
RETRIED = "\nFailed to "
"""How that begins which Ray Data adds to an error, about its own retries."""

LOGS_BYTES = 100_000_000
"""Room that a local Ray needs at least for its logs and sockets."""
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""The environment that Ray takes its token from."""


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    *,
    insecure: bool = False,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    verbose: bool = False,
) -> Iterator[None]:
    """A Ray connection: `address`, else RAY_ADDRESS or the job's own cluster, else a local one.

    `address` is HOST:PORT or "auto". A local one ends with the session, listens on the loopback interface
    alone, and asks for a token that nobody else knows; `num_cpus` and `num_gpus` (logical) are for it only.
    A connection that stands already is used and left standing. Raises ConfigError where Ray can't be reached
    or started, refuses the token, or asks for none and is not on the loopback interface, unless `insecure`;
    ResourceError where memory, the object store or Ray's own disk is used up in the body; an OSError of a
    task comes as it was.
    """
    if ray.is_initialized():
        with _told_in_a_line():
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    address = None if address == "local" else address
    if not address:
        _check_room()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = (
        {} if address else {"include_dashboard": False, "num_cpus": num_cpus, "num_gpus": num_gpus}
    )
    with contextlib.ExitStack() as session:
        try:
            with contextlib.nullcontext() if verbose else _stderr_closed():
                if address:
                    session.enter_context(_admitted(address, insecure))
                else:
                    session.enter_context(_token(secrets.token_hex(32)))
                    session.enter_context(_loopback())
                session.callback(ray.shutdown)
                ray.init(
                    address=address or "local",
                    log_to_driver=verbose,
                    logging_level=logging.INFO if verbose else logging.ERROR,
                    **local,
                )
            if threading.current_thread() is threading.main_thread():
                # Ray's core has put a handler of its own before Python's, which writes a stack trace.
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        except FerBatchError:
            raise
        except Exception as error:  # Ray raises some without a type of their own
            reason = str(error).strip().split("\n")[0]
            where = (
                f"the Ray cluster at {address} can't be joined" if address else "Ray can't be started here"
            )
            raise ConfigError(f"{where}: {reason}") from error
        with _told_in_a_line():
            yield


@contextlib.contextmanager
def _told_in_a_line() -> Iterator[None]:
    """Raise what went wrong somewhere in Ray as an error that a user can mend, where it is one."""
    try:
        yield
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, FerBatchError):
            raise type(cause)(str(cause).partition(RETRIED)[0]) from error
        for kind, said in EXHAUSTED.items():
            if isinstance(cause, kind):
                raise ResourceError(f"{said}, and run the same command again") from error
        if isinstance(cause, OSError):
            raise cause from error
        raise


@contextlib.contextmanager
def _token(token: str | None) -> Iterator[None]:
    """Ray asks for and sends this token meanwhile; with None, those that the environment names, or none."""
    before = {name: os.environ.get(name) for name in TOKEN_VARIABLES}
    try:
        if token is not None:
            os.environ |= {"RAY_AUTH_TOKEN": token}
            os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
        _set_mode("disabled" if token is None else "token")
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _set_mode(before["RAY_AUTH_MODE"])


def _set_mode(mode: str | None) -> None:
    """Turn Ray's authentication on ("token") or off, whatever this process has read before."""
    os.environ.pop("RAY_AUTH_MODE", None)
    if mode is not None:
        os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")  # first: a thread of an earlier session may still ask for the token
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _admitted(address: str, insecure: bool) -> Iterator[None]:
    """Authentication as the cluster at `address` has it; raises ConfigError as `ray_session` says.

    No token is shown to a cluster that asks for none.
    """
    if "://" in address:
        raise ConfigError(
            f"the Ray cluster at {address} can't be joined: give HOST:PORT or auto on one of its nodes, or "
            "submit a job of jobs/ to it"
        )
    gcs = str(services.canonicalize_bootstrap_address(address))
    _check_reachable(gcs)
    with _token(None):
        if _admits(gcs):
            if not insecure and not is_loopback(gcs):
                raise ConfigError(
                    f"the Ray cluster at {gcs} asks for no token, so whoever reaches it can run anything "
                    "there: start it with RAY_AUTH_MODE=token, or say --insecure"
                )
        else:
            if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
                raise ConfigError(
                    f"the Ray cluster at {gcs} asks for a token: give it in RAY_AUTH_TOKEN, in a file that "
                    "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
                )
            _set_mode("token")
            if not _admits(gcs):
                raise ConfigError(
                    f"the Ray cluster at {gcs} refuses this token (of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
                    "~/.ray/auth_token): give the cluster's own"
                )
        yield


def _admits(gcs: str) -> bool:
    """Whether Ray's control plane at `host:port` answers who comes with this process's token, or none."""
    try:
        GcsClient(address=gcs).internal_kv_get(b"", namespace=b"", timeout=10)
    except AuthenticationError:
        return False
    return True


def is_loopback(gcs: str) -> bool:
    """Whether `host:port` is reached from this machine alone."""
    host = gcs.rpartition(":")[0].strip("[]")
    return all(ipaddress.ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """A Ray that starts meanwhile listens on the loopback interface alone.

    It replaces 127.0.0.1 by the host's address wherever it can have clusters, and all of its processes but
    the dashboard then listen on every interface.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def call_periodically(callback: Callable[[], None], interval_s: float) -> Iterator[None]:
    """Call `callback` every `interval_s` seconds in a thread while the body runs, and once after it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(interval_s):
            callback()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        callback()


def _check_room() -> None:
    """Raise ResourceError where Ray's temporary folder is full: Ray itself would wait for minutes."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    free = shutil.disk_usage(folder).free if folder.is_dir() else LOGS_BYTES
    if free < LOGS_BYTES:
        raise ResourceError(
            f"the disk of Ray's temporary folder {folder} is full ({free / 1e6:.0f} MB left): make room for "
            f"{LOGS_BYTES / 1e6:.0f} MB or name another in RAY_TMPDIR, and run the same command again"
        )


def _check_reachable(address: str) -> None:
    """Raise ConfigError where nothing listens at `host:port`: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the Ray cluster at {address} can't be joined: {error}") from error


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Nothing reaches stderr meanwhile, also not from native code: Ray's core greets there whatever its log
    level.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
