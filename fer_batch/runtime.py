"""Starting Ray, or joining a cluster: one place, so that every command does it alike."""

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray

from fer_batch.errors import ConfigError


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    verbose: bool = False,
) -> Iterator[None]:
    """A Ray connection: `address`, else RAY_ADDRESS or the job's own cluster, else a local one.

    A local one ends with the session; a connection that stands already is used and left standing. A local
    Ray turns token authentication on by itself. `num_cpus` and `num_gpus` (logical) are for a local one
    only. Raises ConfigError where Ray can't be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    _check_reachable(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = (
        {} if address else {"include_dashboard": False, "num_cpus": num_cpus, "num_gpus": num_gpus}
    )
    try:
        with contextlib.nullcontext() if verbose else _stderr_closed():
            ray.init(
                address=address or "local",
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                **local,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        where = f"the Ray cluster at {address} can't be joined" if address else "Ray can't be started here"
        raise ConfigError(f"{where}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def meanwhile(look: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `look` every so often in a thread while the body runs, and once more when it has ended."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()


def _check_reachable(address: str | None) -> None:
    """Raise ConfigError where nothing listens at `host:port`: Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
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
