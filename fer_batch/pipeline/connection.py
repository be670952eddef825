"""Find out whether a command uses Ray. This module does not import it, which takes a second."""

import os
import sys


def is_ray_named(address: str | None) -> bool:
    """Return whether a Ray is connected, or named by `address`, RAY_ADDRESS or the surrounding Ray job."""
    is_connected = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    return is_connected or bool(address) or os.environ.get("RAY_ADDRESS", "local") not in ("", "local")
