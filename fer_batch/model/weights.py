"""A checkpoint: `NAME.safetensors` and its card `NAME.json`, read and written together.

The card says what the weights are: classes, architecture, how crops are framed and normalised, the rate and
length of a window, the training record, and the weights' sha256. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fer_batch.errors import CheckpointError, ConfigError
from fer_batch.model.network import GREY_MEAN, GREY_STD, Network
from fer_batch.model.registry import build_network
from fer_batch.model.window import PLACE_TOLERANCE
from fer_batch.storage.atomic import write_bytes, write_json

DEFAULT_CHECKPOINT = Path(__file__).parent.parent / "weights" / "default.safetensors"
CARD_VERSION = 1
ANSWERS = ("crop_scale", "mean", "std", "temperature", "window_rate_hz", "window_length")
"""What a card says, beside its classes, that answers depend on."""
USES = (
    "The output is a facial expression as a model sees it, not what a person feels. For research, and for "
    "archives of people who agreed to it. Out of bounds: inferring emotions of people at work or in "
    "education (EU AI Act, Article 5(1)(f)), and any decision about a person."
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint says of itself."""

    classes: tuple[str, ...]
    """Names of the emotions in the order of the model's outputs; they become the `p_…` columns."""
    architecture: dict[str, Any]
    """Keyword arguments of the network."""
    network: str = "cnn-bilstm"
    """Its name in `model.registry`."""
    crop_scale: float = 0.96
    """Side of the square crop as a share of the face box's height."""
    mean: float = GREY_MEAN
    """Subtracted from grey values in 0–1."""
    std: float = GREY_STD
    """Divides grey values after the mean is taken off."""
    temperature: float = 1.0
    """Divides the logits before the softmax, so that confidences are calibrated."""
    window_rate_hz: float = 5.0
    """Moments a second that the LSTMs were trained at."""
    window_length: int = 17
    """Moments in a window, odd: the answer is for the one in the middle. 1 where each is answered alone."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    uses: str = USES
    """What the model is for, and what it must not be used for."""
    licence: str = "see NOTICE; trained on images that are for research only"
    sha256: str = ""
    card_version: int = CARD_VERSION

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise CheckpointError(
                f"a model needs two or more different classes, its card names {list(self.classes)}"
            )
        if self.window_length < 1 or self.window_length % 2 == 0:
            raise CheckpointError(
                f"window_length is {self.window_length} in the card; it must be odd and at least 1"
            )
        if not all(v > 0 for v in (self.window_rate_hz, self.std, self.crop_scale, self.temperature)):
            raise CheckpointError(
                "window_rate_hz, std, crop_scale and temperature must be above 0 in the card"
            )

    @property
    def model_id(self) -> str:
        """Short name of exactly these answers, as written into the tables: of the weights, and of all in
        the card that changes what they say.
        """
        said = [self.sha256, self.classes, *(getattr(self, name) for name in ANSWERS)]
        return f"{self.network}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}"

    @property
    def half_window_s(self) -> float:
        """How far a moment's window reaches to either side, in seconds."""
        return (self.window_length // 2 + PLACE_TOLERANCE) / self.window_rate_hz


def save_checkpoint(path: Path, model: Network, card: Card) -> Card:
    """Write `path` (.safetensors) and the card beside it (.json); returns the card with its sha256.

    Weights are kept in half precision, and read back as single: half the file, the same answers.
    """
    tensors = {name: _stored(value) for name, value in model.state_dict().items()}
    data = safetensors.torch.save(tensors)
    card = dataclasses.replace(card, sha256=hashlib.sha256(data).hexdigest())
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), dataclasses.asdict(card))
    return card


def _stored(value: Tensor) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if value.is_floating_point() else value


def load_checkpoint(path: Path | None = None) -> tuple[Network, Card]:
    """Read the model, in eval mode, and its card; the packaged default where `path` is None.

    Raises CheckpointError where a file is missing, is not safetensors, or is not what its card says.
    """
    path, card = read_card(path)
    if not card.sha256:
        raise CheckpointError(
            f"{path.with_suffix('.json')} has no sha256, so nothing says that it belongs to {path.name}; if "
            "you trust the file, add what `sha256sum` prints for it"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(
            f"{path}: its sha256 is {digest[:12]}…, its card says {card.sha256[:12]}…: "
            "the weights and the card don't belong together"
        )
    try:
        with torch.device("meta"):  # takes no memory, whatever a card asks for
            meant = build_network(card.network, card.architecture)
            size = sum(value.numel() for value in meant.state_dict().values())
        if size > len(data):
            raise ValueError(f"that has {size} weights, in a file of {len(data)} bytes")
        model = build_network(card.network, card.architecture)
        tensors = safetensors.torch.load(data)
        if card.network == "cnn-bilstm":
            tensors.setdefault("stay", torch.tensor(1e-6).logit())  # older files: each moment for itself
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (safetensors.SafetensorError, ConfigError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the model that its card describes: {error}") from error
    return model.eval(), card


def read_card(path: Path | None = None) -> tuple[Path, Card]:
    """The checkpoint's own path and its card, without reading the weights (a folder means its
    model.safetensors).
    """
    path = DEFAULT_CHECKPOINT if path is None else Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if is_onnx_path(path):
        raise CheckpointError(
            f"{path} is an exported network, for answers alone; this takes the checkpoint that it was "
            "made of, a .safetensors file with its .json card beside it"
        )
    if path.suffix != ".safetensors":
        state = "is not a checkpoint" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{path} {state}; allowed is a training run's folder, or a .safetensors file with its .json card "
            "beside it; for answers alone, also a .onnx file of `fer-batch export`"
        )
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise CheckpointError(
                f"there is no file {needed}: a checkpoint is a .safetensors file and its .json card"
            )
    try:
        card = parse_card(card_path.read_text())
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(f"{card_path} is not a card that this version can read: {error}") from error
    return path, card


def is_onnx_path(path: Path) -> bool:
    """Whether a model is an exported network, by its name: see `model.onnx.network`."""
    return Path(path).suffix.lower() == ".onnx"


def parse_card(text: str) -> Card:
    """A card from its JSON; raises ValueError, TypeError, KeyError or CheckpointError for any other."""
    fields = json.loads(text)
    fields["classes"] = tuple(fields["classes"])
    return Card(**fields)
