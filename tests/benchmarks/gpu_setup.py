"""What the checks of `gpu.py` share: the amount of data, and the device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Measurement = dict[str, Any]
"""Values for JSON. `problems` describes each failure."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A folder for temporary files, and whether to use little data."""

    folder: Path
    small: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Return the most memory that PyTorch has reserved on a GPU in this process; None on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def wait_for_device(device: torch.device) -> None:
    """Wait until a GPU has finished all work, before a time is taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
