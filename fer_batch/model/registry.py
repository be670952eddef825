"""Build a network by the name that a checkpoint's card stores."""

from collections.abc import Mapping
from typing import Any

from fer_batch.config import CROP_SIZE_PX
from fer_batch.errors import ConfigError
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.model.published import Cnn4, Cnn4Bn, CnnLstm, DcnnBiLstm

NETWORKS: dict[str, type[Network]] = {
    "cnn-bilstm": CnnBiLstm,
    "cnn4": Cnn4,
    "cnn4bn": Cnn4Bn,
    "cnn-lstm": CnnLstm,
    "dcnn-bilstm": DcnnBiLstm,
}
"""The names equal `config.NETWORKS`."""

MAX_VALUE = 4096
MAX_VALUES = {"depths": 32, "fold": CROP_SIZE_PX, "size": 512}
"""Largest number of an architecture, and of some of its arguments. A card can be from anywhere, so its
network must not take all memory or time. The ranges of `TrainConfig` are within these."""
MAX_LIST_LENGTH = 16


def build_network(network: str, architecture: Mapping[str, Any]) -> Network:
    """Build a network with random weights; `architecture` holds its keyword arguments.

    Raises ValueError for an unknown name and for an architecture that cannot be built or is too large.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; allowed: {', '.join(NETWORKS)}")
    for name, value in architecture.items():
        _check_argument(name, value)
    try:
        return NETWORKS[network](**architecture)
    except (ArithmeticError, ConfigError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(str(error)) from error


def _check_argument(name: str, value: Any) -> None:
    largest = MAX_VALUES.get(name, MAX_VALUE)
    values = value if isinstance(value, list | tuple) else [value]
    fits = len(values) <= MAX_LIST_LENGTH and all(
        isinstance(item, str) or (isinstance(item, int | float) and 0 <= item <= largest) for item in values
    )
    if not fits:
        raise ValueError(
            f"{name} must be a name, a number from 0 to {largest}, or up to {MAX_LIST_LENGTH} of these"
        )
