"""Small networks of each kind and their ONNX graphs, which all tests share."""

import functools
from pathlib import Path

import torch
from torch import nn

from fer_batch.model.card import Card
from fer_batch.model.network import Network
from fer_batch.model.onnx.export import ExportedNetwork, export_network, join_graphs
from fer_batch.model.registry import build_network
from fer_batch.model.weights import save_checkpoint

CLASSES = ("calm", "cross", "glad")
BLOCKS = {"classes": 3, "filters": [4, 4, 6, 6]}
MODELS = {
    "cnn-bilstm": (
        "cnn-bilstm",
        {"classes": 3, "fold": 2, "filters": [4, 4, 6], "depths": [1, 1, 2], "lstm": [6, 4]},
        3,
    ),
    "cnn4": ("cnn4", BLOCKS | {"dense": [8, 6]}, 1),
    "cnn4bn": ("cnn4bn", BLOCKS | {"dense": [8, 6]}, 1),
    "cnn-lstm": ("cnn-lstm", BLOCKS | {"lstm": [6, 4]}, 1),
    "dcnn-bilstm": ("dcnn-bilstm", BLOCKS | {"lstm": [6, 4], "dense": 5}, 3),
    "resnet18": ("cnn-bilstm", {"classes": 3, "backbone": "resnet18", "size": 32, "lstm": [6, 4]}, 3),
}
"""Network, architecture and window length of each kind."""


@functools.cache
def make_network(kind: str) -> tuple[Network, Card]:
    """Return a network and its card.

    The weights are random, in half precision like those of a checkpoint. The predictions differ between
    crops, and depend on their neighbours.
    """
    name, architecture, steps = MODELS[kind]
    torch.manual_seed(0)
    network = build_network(name, architecture)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(layer.running_mean, 0, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())
    card = Card(
        classes=CLASSES, architecture=architecture, network=name, window_length=steps, temperature=1.3
    )
    return network.eval(), card


@functools.cache
def export_kind(kind: str) -> ExportedNetwork:
    return export_network(*make_network(kind))


@functools.cache
def export_file(kind: str) -> bytes:
    return join_graphs(export_kind(kind))


def write_checkpoint(path: Path, kind: str) -> Card:
    """Save the network as training does."""
    return save_checkpoint(path, *make_network(kind))
