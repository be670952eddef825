"""Starting Ray, or joining a cluster: one place, so that every command does it alike."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray


@contextlib.contextmanager
def ray_session(
    address: str | None = None, *, num_cpus: float | None = None, verbose: bool = False
) -> Iterator[None]:
    """A Ray connection: `address`, else RAY_ADDRESS or the job's own cluster, else a local one that ends
    with it.

    A connection that stands already is used and left standing. A local Ray turns
    token authentication on by itself. `num_cpus` (logical) is for a local one only.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": num_cpus}
    ray.init(
        address=address or "local",
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.ERROR,
        configure_logging=True,
        **local,
    )
    try:
        yield
    finally:
        ray.shutdown()
