"""Start Ray on this machine or join a cluster, with authentication and errors that a user can act on."""

import contextlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, OutOfMemoryError, RayError, RayTaskError

from fer_batch.errors import ConfigError, FerBatchError, ResourceError
from fer_batch.import_path import make_import_environment
from fer_batch.ray_folder import make_ray_folder
from fer_batch.ray_internals import (
    PathlessJobConfig,
    get_token_header,
    has_started_ray,
    has_token,
    ignore_uv,
    is_admitted,
    listen_on_loopback,
    resolve_address,
    set_auth_mode,
    start_in,
    stop_unfinished_node,
    wait_for_node,
)

TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment variables from which Ray takes its token."""
TOKEN_SOURCES = "RAY_AUTH_TOKEN, a file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
CONNECT_TIMEOUT_S = 10
START_TIMEOUT_S = 120
"""Seconds that a local Ray may take for each step of its start, on a busy machine."""
MAX_STARTS = 2
BUSY_REMEDY = (
    "the machine is too busy or has too little memory: try again when it is idle, or start Ray yourself with "
    "`ray start --head` and name it with --address"
)
EXHAUSTED_RESOURCES: dict[type[RayError], str] = {
    ObjectStoreFullError: "Ray's object store is full: make /dev/shm larger, or use fewer workers",
    OutOfDiskError: "the disk of Ray's temporary folder is full: free some space there",
    OutOfMemoryError: "Ray stopped a worker because memory ran out: use more memory or fewer workers",
}
"""Errors of Ray that end a run, and the user's remedy for each."""
RETRY_REPORT = "\nFailed to "
"""Start of the text about retries that Ray Data appends to an error message."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    *,
    insecure: bool = False,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    verbose: bool = False,
) -> Iterator[None]:
    """Connect to Ray for the time of the body.

    A connection that exists is used and stays open. Otherwise `address` (HOST:PORT or "auto"), RAY_ADDRESS or
    the surrounding Ray job names the cluster; without any, a local Ray starts and ends with the body. It
    listens only on the loopback interface, requires a random token, and runs in a private temporary folder.
    Workers do not import from the working directory. `num_cpus` and `num_gpus` are logical resources of a
    local Ray. `verbose` shows Ray's log.

    Raises ConfigError where Ray cannot be reached or started, refuses the token, or requires no token and is
    not on the loopback interface, unless `insecure`. Raises ResourceError where the body uses up memory, the
    object store or Ray's disk. An OSError or FerBatchError of a task is raised unchanged.
    """
    if ray.is_initialized():
        with _translate_ray_errors():
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    address = None if address == "local" else address
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": verbose}
    if not address:
        options |= {"include_dashboard": False, "num_cpus": num_cpus, "num_gpus": num_gpus}
    with contextlib.ExitStack() as session:
        try:
            with contextlib.nullcontext() if verbose else _silence_stderr():
                if address:
                    session.enter_context(_authenticate(address, insecure))
                else:
                    folder = session.enter_context(make_ray_folder())
                    options["_temp_dir"] = str(folder / "ray")
                    (folder / "empty").mkdir()
                    session.enter_context(start_in(folder / "empty", make_import_environment()))
                    session.enter_context(_use_token(secrets.token_hex(32)))
                    session.enter_context(listen_on_loopback())
                    session.enter_context(wait_for_node(START_TIMEOUT_S))
                session.callback(ray.shutdown)
                options["logging_level"] = logging.INFO if verbose else logging.ERROR
                _connect(address, options)
            if threading.current_thread() is threading.main_thread():
                # Ray has put its own handler, which writes a stack trace, before Python's.
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        except FerBatchError:
            raise
        except Exception as error:  # some errors of Ray have no type of their own
            reason = str(error).strip().split("\n")[0]
            action = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
            remedy = f"; {BUSY_REMEDY}" if not address and _is_timeout(error) else ""
            raise ConfigError(f"Cannot {action}: {reason.rstrip('.')}{remedy}") from error
        with _translate_ray_errors():
            yield


def joins_cluster(address: str | None) -> bool:
    """Return whether a session at `address` uses a cluster, to which nodes may be added.

    A Ray that this process has started on its machine, by `ray.init()` or for the session, is not one.
    """
    if ray.is_initialized():
        return not has_started_ray()
    return (address or os.environ.get("RAY_ADDRESS") or "local") != "local"


def make_token_header(cluster: str, address: str, requires_token: bool, insecure: bool) -> dict[str, str]:
    """Return the HTTP header with Ray's token for a cluster that requires one, or else a header without it.

    `cluster` is the name of the cluster in messages, `address` is HOST:PORT. Raises ConfigError where a
    required token is missing, or where the cluster requires none and is not on the loopback interface,
    unless `insecure`.
    """
    if requires_token:
        if not has_token():
            raise ConfigError(f"The {cluster} requires a token: provide it in {TOKEN_SOURCES}")
        return get_token_header()
    if not insecure and not is_loopback(address):
        raise ConfigError(
            f"The {cluster} requires no token, so anyone who reaches it can run code there: start it with "
            "RAY_AUTH_MODE=token, or add --insecure"
        )
    return {"Authorization": ""}  # Ray adds its token to requests without this header


def is_loopback(address: str) -> bool:
    """Return whether `HOST:PORT` can be reached only from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    return all(ipaddress.ip_address(info[4][0]).is_loopback for info in socket.getaddrinfo(host, None))


@contextlib.contextmanager
def _translate_ray_errors() -> Iterator[None]:
    """Raise errors of Ray that a user can act on as FerBatchError or OSError."""
    try:
        yield
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, FerBatchError):
            raise type(cause)(str(cause).partition(RETRY_REPORT)[0]) from error
        for kind, remedy in EXHAUSTED_RESOURCES.items():
            if isinstance(cause, kind):
                raise ResourceError(f"{remedy}, and run the same command again") from error
        if isinstance(cause, OSError):
            raise cause from error
        raise


@contextlib.contextmanager
def _authenticate(address: str, insecure: bool) -> Iterator[None]:
    """Set the authentication that the cluster at `address` requires, for the time of the body.

    A cluster that requires no token never receives one. Raises ConfigError as `ray_session` does.
    """
    if "://" in address:
        raise ConfigError(
            f"Cannot join the Ray cluster at {address}: give HOST:PORT, or auto on one of its nodes, or use "
            "`fer-batch submit`"
        )
    gcs = resolve_address(address)
    _check_reachable(gcs)
    with _use_token(None):
        requires_token = not is_admitted(gcs)
        make_token_header(f"Ray cluster at {gcs}", gcs, requires_token, insecure)
        if requires_token:
            set_auth_mode("token")
            if not is_admitted(gcs):
                raise ConfigError(f"The Ray cluster at {gcs} refuses the token in {TOKEN_SOURCES}")
        yield


@contextlib.contextmanager
def _use_token(token: str | None) -> Iterator[None]:
    """Let Ray require and send this token in the body; None disables authentication."""
    before = {name: os.environ.get(name) for name in TOKEN_VARIABLES}
    try:
        if token is not None:
            os.environ["RAY_AUTH_TOKEN"] = token
            os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
        set_auth_mode("disabled" if token is None else "token")
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        set_auth_mode(before["RAY_AUTH_MODE"])


def _connect(address: str | None, options: dict[str, Any]) -> None:
    """Call `ray.init`, and once more where a local Ray does not start in time."""
    for attempt in range(1, MAX_STARTS + 1):
        try:
            with ignore_uv():
                ray.init(address=address or "local", job_config=PathlessJobConfig(), **options)
            return
        except Exception as error:  # Ray raises a plain Exception after a timeout
            if address or attempt == MAX_STARTS or not _is_timeout(error):
                raise
            stop_unfinished_node(error)
            ray.shutdown()
            logger.warning("Ray has not started in time; trying once more …")


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or "timed out" in str(error).lower()


def _check_reachable(address: str) -> None:
    """Raise ConfigError where no process listens at `HOST:PORT`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot join the Ray cluster at {address}: {error}") from error


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard stderr, also that of native code: Ray's core prints a greeting at every log level."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
