"""Build a network by the name that a checkpoint's card stores."""

from collections.abc import Mapping
from typing import Any

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


def build_network(network: str, architecture: Mapping[str, Any]) -> Network:
    """Build a network with random weights; `architecture` holds its keyword arguments.

    Raises ValueError for an unknown name, and ValueError or TypeError for arguments that do not fit.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; allowed: {', '.join(NETWORKS)}")
    return NETWORKS[network](**architecture)
