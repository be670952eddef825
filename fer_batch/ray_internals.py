"""Ray's internals, where Ray has no public interface for a need of fer_batch.

This is the only module that imports private names of Ray. `tests/test_runtime.py` and `tests/cluster` test
its functions on real clusters, so they fail if a release of Ray changes one.
"""

import contextlib
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ray._private import ray_constants, services, worker
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig

QUERY_TIMEOUT_S = 10
QUERY_PAUSE_S = 0.5
NAMESPACE = b"fer_batch"
"""Namespace of the values that processes of a job share through Ray's control plane."""


def set_auth_mode(mode: str | None) -> None:
    """Set RAY_AUTH_MODE to "token" or "disabled", or unset it, for this process.

    Ray reads the variable once per process, but a process may open several sessions.
    """
    os.environ.pop("RAY_AUTH_MODE", None)
    if mode is not None:
        os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")  # before the cache is reset: a thread of an earlier session may read the token
    AuthenticationTokenLoader.instance().reset_cache()


def has_token() -> bool:
    """Return whether the environment or ~/.ray/auth_token has a token.

    Raises AuthenticationError where the file that RAY_AUTH_TOKEN_PATH names cannot be read.
    """
    AuthenticationTokenLoader.instance().reset_cache()
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def get_token_header() -> dict[str, str]:
    """Return the HTTP header with the token, whatever RAY_AUTH_MODE is."""
    return dict(AuthenticationTokenLoader.instance().get_token_for_http_header())


def is_admitted(gcs: str) -> bool:
    """Return whether Ray's control plane at `HOST:PORT` accepts the current token, or none if none is set.

    `ray.init` only has an exception for this after it has connected and retried.
    """
    try:
        GcsClient(address=gcs).internal_kv_get(b"", namespace=b"", timeout=QUERY_TIMEOUT_S)
    except AuthenticationError:
        return False
    return True


def _control_plane() -> GcsClient:
    """Return the client of the connected Ray's control plane."""
    return worker.global_worker.gcs_client  # type: ignore[attr-defined]


def put_value(key: str, value: str) -> None:
    """Keep a short text in the control plane of the connected Ray, in place of an earlier one of that key."""
    _control_plane().internal_kv_put(key.encode(), value.encode(), True, NAMESPACE, timeout=QUERY_TIMEOUT_S)


def list_values(prefix: str) -> list[str]:
    """Return the texts of `put_value` with keys that begin with `prefix`."""
    client = _control_plane()
    keys = client.internal_kv_keys(prefix.encode(), NAMESPACE, timeout=QUERY_TIMEOUT_S)
    values = client.internal_kv_multi_get(keys, NAMESPACE, timeout=QUERY_TIMEOUT_S) if keys else {}
    return [value.decode() for value in values.values()]


def delete_values(prefix: str) -> None:
    """Delete the texts of `put_value` with keys that begin with `prefix`."""
    _control_plane().internal_kv_del(prefix.encode(), True, NAMESPACE, timeout=QUERY_TIMEOUT_S)


def resolve_address(address: str) -> str:
    """Return the HOST:PORT of an address that `ray.init` accepts, such as "auto"."""
    return str(services.canonicalize_bootstrap_address(address))


def has_started_ray() -> bool:
    """Return whether this process is connected to a Ray that it has started itself on this machine."""
    node = worker._global_node
    return node is not None and bool(node.is_head())


class PathlessJobConfig(JobConfig):
    """A job whose workers do not import from the working directory and the script's folder of the driver.

    Packages of a Ray job, its `working_dir` and `py_modules`, are not affected.
    """

    def _get_proto_job_config(self) -> Any:
        self._py_driver_sys_path = []  # `ray.init` has extended it
        return super()._get_proto_job_config()


@contextlib.contextmanager
def start_in(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Let the processes of a Ray that starts in the body run in `folder`, with these environment variables.

    Ray's workers and their children inherit both.
    """
    before = services.start_ray_process

    def start_ray_process(*arguments: Any, env_updates: dict[str, str] | None = None, **options: Any) -> Any:
        updates = {**environment, **(env_updates or {})}
        return before(*arguments, **options | {"env_updates": updates, "cwd": str(folder)})

    with _replace(services, "start_ray_process", start_ray_process):
        yield


def ignore_uv() -> contextlib.AbstractContextManager[None]:
    """Keep `ray.init` in the body from sending the working directory to the workers of `uv run` drivers."""
    return _replace(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)


def listen_on_loopback() -> contextlib.AbstractContextManager[None]:
    """Let a Ray that starts in the body listen only on the loopback interface.

    Ray replaces 127.0.0.1 by the host's address wherever it supports clusters, and then all of its processes
    except the dashboard listen on every interface.
    """
    return _replace(ray_constants, "ENABLE_RAY_CLUSTER", False)


@contextlib.contextmanager
def wait_for_node(timeout_s: float) -> Iterator[None]:
    """Let a Ray that starts in the body wait this long for each part of it. Ray's limit is 30 s."""
    before = services.get_node

    def get_node(*arguments: Any) -> Any:
        end = time.monotonic() + timeout_s
        while True:
            try:
                return before(*arguments)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
            time.sleep(QUERY_PAUSE_S)

    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(round(timeout_s)))
    with _replace(services, "get_node", get_node):
        yield


@contextlib.contextmanager
def _replace(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module in the body."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def stop_unfinished_node(error: BaseException) -> None:
    """End the processes of a local Ray whose start failed. Ray itself keeps them until the program ends."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return
