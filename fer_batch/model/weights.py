"""Read and write checkpoints: `NAME.safetensors` and its card `NAME.json`.

The card describes the weights: classes, architecture, framing and normalization of crops, rate and length of
a window, the training record, and the sha256 of the weights. No file is unpickled.

A checkpoint can be from anywhere, so its files are limited in size and checked before they are used.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch

from fer_batch.config import CROP_SIZE_PX, MAX_WINDOW_S, NETWORKS
from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.fields import FieldError, Range, check_value, field_types, require
from fer_batch.model.network import GREY_MEAN, GREY_STD, Network
from fer_batch.model.registry import build_network
from fer_batch.model.window import SLOT_TOLERANCE
from fer_batch.schema import find_class_problem
from fer_batch.storage.atomic import write_bytes, write_json
from fer_batch.storage.user_files import parse_json, read_bounded

DEFAULT_CHECKPOINT = Path(__file__).parent.parent / "weights" / "default.safetensors"
CARD_VERSION = 1
PREDICTION_FIELDS = ("crop_scale", "mean", "std", "temperature", "window_rate_hz", "window_length")
"""Fields of a card, besides its classes, on which predictions depend."""
OLD_STAY_PROBABILITY = 1e-6
"""Files without the "stay" weight come from a version that did not smooth predictions. Those without the
"change_slope" weight smooth them in the same way whether a face changes or not, with a slope of 0."""
USES = (
    "The output is a facial expression as a model classifies it, not the feeling of a person. For research, "
    "and for archives of people who agreed to it. Forbidden: inferring emotions of people at work or in "
    "education (EU AI Act, Article 5(1)(f)), and any decision about a person."
)

MAX_CARD_BYTES, MAX_HEADER_BYTES, MAX_WEIGHT_BYTES = 1_000_000, 1_000_000, 8
"""Limits of a card, of the header of a weights file, and of the memory of one weight in the file."""
MAX_REASON_LENGTH = 300


@dataclass(frozen=True, kw_only=True)
class Card:
    """Description of a checkpoint. Raises CheckpointError for a value that is not allowed."""

    classes: tuple[str, ...]
    """Names of the emotions in the order of the model's outputs; they name the `p_…` columns."""
    architecture: dict[str, Any]
    """Keyword arguments of the network."""
    network: str = "cnn-bilstm"
    crop_scale: Annotated[float, Range(at_least=0.1, at_most=10)] = 0.96
    """Side of the square crop over the height of the face box."""
    mean: Annotated[float, Range(at_least=-10, at_most=10)] = GREY_MEAN
    std: Annotated[float, Range(at_least=0.001, at_most=10)] = GREY_STD
    """Crops are normalized as (grey - mean) / std, with grey values 0–1."""
    temperature: Annotated[float, Range(at_least=0.01, at_most=100)] = 1.0
    """Divides the logits before the softmax, so that confidences are calibrated."""
    window_rate_hz: Annotated[float, Range(above=0, at_most=1000)] = 5.0
    """Frames per second in the training of the LSTMs."""
    window_length: Annotated[int, Range(at_least=1, at_most=999)] = 17
    """Frames in a window, odd; the prediction is for the middle one. 1 if each is classified by itself."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Record of the training."""
    uses: str = USES
    licence: str = "see NOTICE; trained on images that are for research only"
    sha256: str = ""
    """Hash of the weights file."""
    card_version: int = CARD_VERSION

    def __post_init__(self) -> None:
        try:
            for name, hint in field_types(Card).items():
                if name in ("architecture", "training"):
                    require(isinstance(getattr(self, name), dict), name, "be an object", getattr(self, name))
                else:
                    check_value(name, getattr(self, name), hint)
            require(
                self.network in NETWORKS, "network", f"be one of {', '.join(NETWORKS)}", repr(self.network)
            )
            if problem := find_class_problem(self.classes):
                raise FieldError("classes", problem)
            require(self.window_length % 2 == 1, "window_length", "be odd", self.window_length)
            require(
                self.window_length / self.window_rate_hz <= MAX_WINDOW_S,
                "window_length",
                f"last at most {MAX_WINDOW_S:g} s at {self.window_rate_hz:g} frames per second",
                self.window_length,
            )
            is_hash = re.fullmatch("([0-9a-f]{64})?", self.sha256) is not None
            require(is_hash, "sha256", "be 64 hexadecimal digits", self.sha256)
        except ConfigError as error:
            raise CheckpointError(f"The card's {error}") from error

    @property
    def model_id(self) -> str:
        """Short name of the predictions: a hash of the weights and of `PREDICTION_FIELDS`."""
        values = [self.sha256, self.classes, *(getattr(self, name) for name in PREDICTION_FIELDS)]
        return f"{self.network}-{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]}"

    @property
    def half_window_s(self) -> float:
        """Time from a frame to either end of its window, in seconds."""
        return (self.window_length // 2 + SLOT_TOLERANCE) / self.window_rate_hz


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


def shorten(error: Exception) -> str:
    """Return the message of a library's error as one line of at most `MAX_REASON_LENGTH` characters."""
    return " ".join(str(error).split())[:MAX_REASON_LENGTH] or type(error).__name__


def read_card(path: Path | None = None) -> tuple[Path, Card]:
    """Return the path and the card of a checkpoint, by default the packaged one, without its weights.

    A folder stands for its model.safetensors. Raises CheckpointError if a file is missing or not valid.
    """
    path = DEFAULT_CHECKPOINT if path is None else Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if is_onnx_path(path):
        raise CheckpointError(
            f"{path} is an exported network, which can only predict; give the checkpoint from which it was "
            "exported, a .safetensors file with its .json card"
        )
    if path.suffix != ".safetensors":
        state = "is not a checkpoint" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{path} {state}; give the folder of a training run, a .safetensors file with its .json card, "
            "or, for predictions only, an .onnx file of `fer-batch export`"
        )
    card_path = path.with_suffix(".json")
    for required in (path, card_path):
        if not required.is_file():
            state = "is not a regular file" if required.exists() else "does not exist"
            raise CheckpointError(
                f"{required} {state}; a checkpoint is a .safetensors file and its .json card"
            )
    try:
        card = parse_card(read_bounded(card_path, MAX_CARD_BYTES))
    except (OSError, ValueError, CheckpointError) as error:
        raise CheckpointError(f"Cannot read the card {card_path}: {shorten(error)}") from error
    return path, card


def is_onnx_path(path: Path) -> bool:
    """Return whether a path names an exported network, see `model.onnx.network`."""
    return Path(path).suffix.lower() == ".onnx"


def parse_card(text: str | bytes) -> Card:
    """Parse the JSON of a card; raises ValueError or CheckpointError if it is not one."""
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    if unknown := sorted(values.keys() - field_types(Card).keys()):
        raise ValueError(f"unknown field {unknown[0]}; a newer version of fer_batch may have written it")
    if missing := sorted({"classes", "architecture"} - values.keys()):
        raise ValueError(f"the field {missing[0]} is missing")
    if isinstance(values["classes"], list):
        values["classes"] = tuple(values["classes"])
    return Card(**values)
