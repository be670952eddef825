"""Read and write checkpoints: `NAME.safetensors` and its card `NAME.json`. No file is unpickled.

A checkpoint can be from anywhere, so its files are limited in size and checked before they are used.
"""

import dataclasses
import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from fer_batch.config import CROP_SIZE_PX
from fer_batch.errors import CheckpointError
from fer_batch.model.card import Card, read_card, shorten
from fer_batch.model.network import Network
from fer_batch.model.registry import build_network
from fer_batch.storage.atomic import write_bytes, write_json
from fer_batch.storage.user_files import read_bounded

OLD_STAY_PROBABILITY = 1e-6
"""Files without the "stay" weight come from a version that did not smooth predictions. Those without the
"change_slope" weight smooth them in the same way whether a face changes or not, with a slope of 0."""
MAX_HEADER_BYTES, MAX_WEIGHT_BYTES = 1_000_000, 8
"""Limits of the header of a weights file, and of the memory of one weight in the file."""


def save_checkpoint(path: Path, model: Network, card: Card) -> Card:
    """Write weights to `path` (.safetensors) and the card next to it; returns the card with the sha256."""
    data, card = encode_checkpoint(model, card)
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), dataclasses.asdict(card))
    return card


def encode_checkpoint(model: Network, card: Card) -> tuple[bytes, Card]:
    """Return the weights as .safetensors, and the card with their sha256.

    The weights have half precision, which halves the size and keeps the predictions. Loading converts to
    single precision.
    """
    tensors = {}
    for name, value in model.state_dict().items():
        tensor = value.cpu().contiguous()
        tensors[name] = tensor.half() if tensor.is_floating_point() else tensor
    data = safetensors.torch.save(tensors)
    return data, dataclasses.replace(card, sha256=hashlib.sha256(data).hexdigest())


def load_checkpoint(path: Path | None = None) -> tuple[Network, Card]:
    """Load a model, in eval mode, and its card; by default the packaged checkpoint.

    Raises CheckpointError if a file is missing, is not safetensors, or does not match its card.
    """
    path, card = read_card(path)
    if not card.sha256:
        raise CheckpointError(
            f"{path.with_suffix('.json')} has no sha256, so it cannot be matched to {path.name}; if you "
            "trust the file, add the output of `sha256sum` to the card"
        )
    try:
        with torch.device("meta"):  # takes no memory, even for a huge architecture
            empty_network = build_network(card.network, card.architecture)
        size = sum(value.numel() for value in empty_network.state_dict().values())
        data = read_bounded(path, MAX_WEIGHT_BYTES * size + MAX_HEADER_BYTES)
        if size > len(data):
            raise ValueError(f"the network has {size} weights, but the file has {len(data)} bytes")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the model of its card: {shorten(error)}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(
            f"{path} does not match its card: the sha256 is {digest[:12]}…, in the card {card.sha256[:12]}…"
        )
    try:
        if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
            raise ValueError(f"its header has more than {MAX_HEADER_BYTES} bytes")
        model = build_network(card.network, card.architecture).eval()
        tensors = safetensors.torch.load(data)
        if card.network == "cnn-bilstm":
            tensors.setdefault("stay", torch.tensor(OLD_STAY_PROBABILITY).logit())
            tensors.setdefault("change_slope", torch.zeros(()))
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        _check_predictions(model, card)
    except Exception as error:  # safetensors and torch raise many types, all caused by the file
        raise CheckpointError(f"{path} does not hold the model of its card: {shorten(error)}") from error
    return model, card


@torch.inference_mode()
def _check_predictions(model: Network, card: Card) -> None:
    """Raise ValueError unless a network has finite weights, and predicts the classes of its card."""
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise ValueError("it has weights that are not finite")
    greys = torch.linspace(0, 1, 2 * CROP_SIZE_PX**2).view(1, 2, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    log_probs = model((greys - card.mean) / card.std)
    check_output(log_probs.exp(), (1, 2, len(card.classes)))


def check_output(probs: torch.Tensor, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless `probs` are probabilities of the shape that the card requires."""
    if probs.shape != expected:
        raise ValueError(f"its output has the shape {tuple(probs.shape)}, but its card requires {expected}")
    if not probs.isfinite().all():
        raise ValueError("its predictions are not finite")
