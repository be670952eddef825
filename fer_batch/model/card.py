"""Read the card of a checkpoint: `NAME.json` beside `NAME.safetensors`.

The card describes the weights: classes, architecture, framing and normalization of crops, rate and length of
a window, the training record, and the sha256 of the weights. This module does not import torch, so that
commands that run no network start fast.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fer_batch.config import GREY_MEAN, GREY_STD, MAX_WINDOW_S
from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.fields import FieldError, Range, check_value, field_types, require
from fer_batch.model.window import SLOT_TOLERANCE
from fer_batch.schema import find_class_problem
from fer_batch.storage.user_files import parse_json, read_bounded
from fer_batch.train_config import NETWORKS

DEFAULT_CHECKPOINT = Path(__file__).parent.parent / "weights" / "default.safetensors"
CARD_VERSION = 1
PREDICTION_FIELDS = ("crop_scale", "mean", "std", "temperature", "window_rate_hz", "window_length")
"""Fields of a card, besides its classes, on which predictions depend."""
USES = (
    "The output is a facial expression as a model classifies it, not the feeling of a person. For research, "
    "and for archives of people who agreed to it. Forbidden: inferring emotions of people at work or in "
    "education (EU AI Act, Article 5(1)(f)), and any decision about a person."
)

MAX_CARD_BYTES = 1_000_000
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


def shorten(error: Exception) -> str:
    """Return the message of a library's error as one line of at most `MAX_REASON_LENGTH` characters."""
    return " ".join(str(error).split())[:MAX_REASON_LENGTH] or type(error).__name__
