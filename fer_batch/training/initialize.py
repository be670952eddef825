"""The network that a configuration describes, and its initial weights."""

from pathlib import Path
from typing import Any

import torch

from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.card import read_card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.model.registry import build_network
from fer_batch.model.weights import load_checkpoint
from fer_batch.train_config import TrainConfig

Architecture = dict[str, Any]
"""Keyword arguments of a network, as a card stores them."""
CHAIN = ("stay", "change_slope")
"""Weights of the CNN-BiLSTM's smoothing chain."""
HEADS = ("crop_head", "context_head")
"""Parts of the CNN-BiLSTM and of the other networks that have a row of weights for each class."""


def check_initial_weights(config: TrainConfig) -> None:
    """Raise CheckpointError if the files of `init` or `backbone_weights` cannot be used.

    Raises ConfigError for settings that the network of `init` does not have.
    """
    if config.init:
        load_checkpoint(Path(config.init))
    choose_architecture(config, classes=2)
    if config.backbone_weights:
        BackboneEncoder(config.backbone, config.backbone_size).load_pretrained(Path(config.backbone_weights))


def choose_architecture(config: TrainConfig, classes: int) -> tuple[str, Architecture]:
    """Return the network's name in `model.registry` and its architecture.

    A checkpoint to start from (`config.init`) decides both. Raises ConfigError for a head per data set or
    teachers with a network of whole clips.
    """
    card = read_card(Path(config.init))[1] if config.init else None
    network = card.network if card else config.network
    if network == "dcnn-bilstm" and (config.head_names or config.teacher):
        option = "--heads per-dataset" if config.head_names else "--teacher"
        raise ConfigError(
            f"{option} works with networks of stills, but {network} reads whole clips: leave the option out, "
            "or give another network"
        )
    if card:
        dropout = {"dropout": config.dropout} if card.network == "cnn-bilstm" else {}
        return card.network, {**card.architecture, "classes": classes, **dropout}
    blocks = {"filters": list(config.filters), "depths": list(config.depths)}
    if config.network != "cnn-bilstm":
        dropouts = {"dropouts": list(config.dropouts)} if config.dropouts else {}
        return config.network, {"classes": classes, **blocks, **dropouts}
    if config.backbone:
        encoder: Architecture = {"backbone": config.backbone, "size": config.backbone_size}
    else:
        encoder = {**blocks, "fold": config.fold}
    return config.network, {"classes": classes, **encoder, "dropout": config.dropout}


def build_initial_network(
    config: TrainConfig, name: str, architecture: Architecture, classes: tuple[str, ...]
) -> Network:
    """Build a network with random weights, a pretrained backbone, or the weights of `config.init`.

    The heads take over the weights of the classes that both have, by name. Raises CheckpointError if other
    weights of the checkpoint have another shape.
    """
    torch.manual_seed(config.seed)
    network = build_network(name, architecture)
    if config.backbone_weights and isinstance(network.encoder, BackboneEncoder):
        network.encoder.load_pretrained(Path(config.backbone_weights))
    if config.init:
        _load_weights(network, Path(config.init), classes)
    return network


def _load_weights(network: Network, checkpoint: Path, classes: tuple[str, ...]) -> None:
    source, card = load_checkpoint(checkpoint)
    weights = network.state_dict()
    # A chain of an earlier version does not depend on the faces, and would hardly learn to.
    old_chain = CHAIN if isinstance(source, CnnBiLstm) and not source.change_slope else ()
    for name, value in source.state_dict().items():
        if name in old_chain:
            continue
        if name.split(".")[0] in HEADS:
            for row, label in enumerate(classes):
                if label in card.classes:
                    weights[name][row] = value[card.classes.index(label)]
        elif weights[name].shape == value.shape:
            weights[name] = value
        else:
            raise CheckpointError(
                f"{checkpoint}: {name} has the shape {tuple(value.shape)}, "
                f"expected {tuple(weights[name].shape)}"
            )
    network.load_state_dict(weights)
