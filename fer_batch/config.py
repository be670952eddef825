"""What a run is asked to do: frozen, keyword-only, checked when made."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fer_batch.errors import ConfigError

FAST = ("nonref", "keyframes")


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """How videos are analyzed. Everything here changes the answers, so it is part of a run's fingerprint."""

    fps: float = 5.0
    """Moments looked at per second of video."""
    every_frame: bool = False
    """Look at every frame instead; `fps` is then not used."""
    min_face: float = 0.05
    """Smallest face to find, as a share of the frame's height."""
    min_score: float = 0.8
    """Lowest score of the face detector, 0–1."""
    max_faces: int | None = None
    """Of each moment only the largest so many faces are kept, all by default."""
    detect_every: float | None = None
    """Seconds of video from one search for faces to the next, between which they are followed; every other
    one is of what has changed only. None: 1, and 2 for surveys."""
    fast: str | None = None
    """For surveys: "nonref" leaves the frames undecoded that no other refers to, "keyframes" all but key
    frames."""
    max_gap_s: float = 0.5
    """How long a face may be lost and still be the same track, in seconds."""
    segment_s: float = 60.0
    """Longest core of a segment, in seconds."""
    bundle_s: float = 600.0
    """Video in one bundle, the unit that is done or not done, in seconds."""
    checkpoint: str | None = None
    """Path of the model, None for the packaged one."""
    flip: bool = True
    """Answer with the mean of what the model says to a face and to its mirror image."""

    def __post_init__(self) -> None:
        if self.detect_every is None:
            object.__setattr__(self, "detect_every", 2.0 if self.fast else 1.0)
        _require(0 < self.fps <= 1000, "--fps", self.fps, "a number above 0, up to 1000")
        _require(
            0 < self.min_face <= 1,
            "--min-face",
            self.min_face,
            "a share of the frame's height above 0, up to 1",
        )
        _require(
            0 <= self.min_score < 1, "--min-score", self.min_score, "a number from 0 up to, not including, 1"
        )
        _require(
            self.max_faces is None or self.max_faces >= 1, "--max-faces", self.max_faces, "1 or more faces"
        )
        _require(0 < self.search_s <= 60, "--detect-every", self.search_s, "seconds above 0, up to 60")
        _require(self.fast is None or self.fast in FAST, "--fast", self.fast, " or ".join(FAST))
        _require(
            not (self.every_frame and self.fast), "--every-frame", "given for a survey", "one of the two"
        )
        _require(0 <= self.max_gap_s <= 60, "--max-gap", self.max_gap_s, "seconds from 0 to 60")
        _require(1 <= self.segment_s <= 3600, "--segment", self.segment_s, "seconds from 1 to 3600")
        _require(
            self.bundle_s >= self.segment_s,
            "--bundle",
            self.bundle_s,
            f"at least --segment, {self.segment_s:g} s",
        )

    @property
    def search_s(self) -> float:
        """`detect_every`, which is filled in when it was not given."""
        assert self.detect_every is not None
        return self.detect_every

    def fingerprint(self, model_id: str) -> str:
        """Hash of all that the answers depend on but the inputs: two runs with the same give the same
        rows.
        """
        settings = dataclasses.asdict(self) | {"checkpoint": model_id}
        if self.max_faces is None:
            del settings["max_faces"]  # results from before it could be chosen are still what they were
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a video may cost. No part of a run's settings: within them the answers don't depend on them."""

    timeout_s: float = 120.0
    """Longest time in which nothing comes of a video, in seconds: then it hangs."""
    memory_gb: float = 4.0
    """Most memory that looking at a video may take, on top of what a worker has anyway, in GB."""

    def __post_init__(self) -> None:
        _require(1 <= self.timeout_s <= 86400, "--timeout", self.timeout_s, "seconds from 1 to 86400")
        _require(0.5 <= self.memory_gb <= 1024, "--memory", self.memory_gb, "GB from 0.5 to 1024")


OPTIMIZERS = ("sgd", "adam", "adamw", "nadam")
SCHEDULES = ("onecycle", "cosine", "plateau")
BLOCKS = {
    "cnn-bilstm": ((32, 64, 128, 256), (1, 2, 3, 3)),
    "cnn4": ((128, 256, 512, 512), (1, 1, 1, 1)),
    "cnn4bn": ((64, 128, 256, 512), (2, 2, 3, 2)),
    "cnn-lstm": ((32, 64, 128, 256), (2, 2, 2, 2)),
    "dcnn-bilstm": ((64, 128, 256, 512), (2, 2, 2, 2)),
}
"""Filters and depths of each network where none are given."""
NETWORKS = tuple(BLOCKS)
DROPOUTS = {"cnn4": 2, "cnn4bn": 2, "cnn-lstm": 0, "dcnn-bilstm": 3}
"""How many the networks other than the CNN-BiLSTM have after those of their blocks."""
BACKBONES = (
    "resnet18", "resnet34", "resnet50", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
    "efficientnet_v2_s", "vit_b_16", "vit_b_32",
)  # fmt: skip
IMBALANCE = ("none", "sqrt", "weighted", "effective", "focal", "logit-adjustment", "balanced-sampling")


KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda v: _is(v, int), "a whole number"),
    float: (lambda v: _is(v, int, float) and math.isfinite(v), "a number"),
    str: (lambda v: _is(v, str), "a name"),
    str | None: (lambda v: v is None or _is(v, str), "a path"),
    tuple[int, ...]: (lambda v: _is(v, tuple) and all(_is(x, int) for x in v), "a list of whole numbers"),
    tuple[float, ...]: (
        lambda v: _is(v, tuple) and all(_is(x, int, float) for x in v),
        "a list of numbers",
    ),
    tuple[str, ...]: (lambda v: _is(v, tuple) and all(_is(x, str) for x in v), "a list of names"),
}
"""What a recipe may give for a field of each type; `data` comes from the command line alone."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained."""

    data: tuple[tuple[str, str], ...]
    """(name, path) of each data set."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of the model's outputs; empty: those of the data."""
    leave_out: tuple[str, ...] = ()
    """Classes whose examples are left out of the data."""
    preset: str = ""
    """Name of the published recognizer that all else here comes from, "" for none."""
    init: str | None = None
    """A checkpoint to start from (its network is kept), None for random weights."""
    network: str = "cnn-bilstm"
    """By its name in `model.registry`."""
    backbone: str = ""
    """A network of torchvision as the encoder of the CNN-BiLSTM, "" for its own."""
    backbone_weights: str | None = None
    """Its weights, None for random ones."""
    backbone_size: int = 0
    """Pixels a side that crops are scaled to for it, 0 for what suits it."""
    epochs: int = 36
    """Passes over all frames as stills, or over all clips with a network of those."""
    sequence_epochs: int = 1
    """Passes in which every clip is a moving sequence: LSTMs and heads of the CNN-BiLSTM, the encoder
    frozen. Other networks have none."""
    batch_size: int = 128
    """Clips in a step of one worker."""
    optimizer: str = "sgd"
    """Of the stills; "sgd" has Nesterov momentum 0.9. Sequences are trained with AdamW."""
    lr: float = 0.1
    """Highest learning rate of the stills."""
    sequence_lr: float = 1e-3
    """Highest learning rate of the sequences."""
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    """Epochs without a better accuracy before "plateau" lowers the learning rate."""
    min_lr: float = 1e-5
    """Where "cosine" and "plateau" end."""
    early_stopping: int = 0
    """Epochs without a better accuracy after which the stills end and their best epoch is kept; 0: never."""
    grad_clip: float = 5.0
    """Largest norm of a step's gradient."""
    dropout: float = 0.3
    """Before the heads of the CNN-BiLSTM."""
    dropouts: tuple[float, ...] = ()
    """Those of the other networks, in order: one for each block, then DROPOUTS; empty for their own."""
    label_smoothing: float = 0.05
    imbalance: str = "sqrt"
    """What is done for rare classes; by default each counts by 1/√frequency."""
    votes: float = 0.5
    """Weight of a second head, dropped after training, that learns the annotators' votes (FER+), if any."""
    flip: float = 0.5
    """Share of the images that are mirrored."""
    rotation_deg: float = 10.0
    """Standard deviation, in degrees."""
    zoom: float = 0.14
    """Standard deviation of the logarithm of the size."""
    shift: float = 0.1
    """Standard deviation, as a share of half the side."""
    lighting: float = 0.2
    """Standard deviation of the logarithm of the contrast; brightness goes with it."""
    erasing: float = 0.5
    """Share of the stills with a rectangle of noise."""
    mixup: float = 0.0
    """Parameter α of mixup's Beta distribution; 0: none."""
    ema_decay: float = 0.998
    filters: tuple[int, ...] = ()
    """Of each block's convolutions; empty: the network's own, which are filled in."""
    depths: tuple[int, ...] = ()
    """Convolutions of each block; empty: the network's own, which are filled in."""
    fold: int = 1
    window_length: int = 17
    window_rate_hz: float = 5.0
    seed: int = 0
    workers: int = 1
    threads: int = 1
    """Torch threads of each worker on a CPU: no more than the cores that are really free."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in KINDS:
                fits, kind = KINDS[field.type]
                _require(fits(value), _flag(field.name), repr(value), kind)
        for option, own in zip(("filters", "depths"), BLOCKS.get(self.network, ((), ())), strict=True):
            if not getattr(self, option):
                object.__setattr__(self, option, own)
        _require(len(self.data) > 0, "--data", "nothing", "at least one NAME=PATH")
        _require(
            len(self.classes) != 1 and len(set(self.classes)) == len(self.classes),
            "--classes",
            ",".join(self.classes),
            "two or more different names",
        )
        for option, least in (
            ("epochs", 0),
            ("sequence_epochs", 0),
            ("batch_size", 2),
            ("backbone_size", 0),
            ("plateau_patience", 0),
            ("early_stopping", 0),
            ("seed", 0),
            ("workers", 1),
            ("threads", 1),
        ):
            value = getattr(self, option)
            _require(value >= least, _flag(option), value, f"a whole number from {least}")
        sequence_epochs = self.sequence_epochs if self.network == "cnn-bilstm" or self.init else 0
        _require(self.epochs + sequence_epochs > 0, "--epochs", 0, "a whole number from 1")
        for option in ("lr", "sequence_lr", "grad_clip", "window_rate_hz"):
            _require(getattr(self, option) > 0, _flag(option), getattr(self, option), "a number above 0")
        for option in (
            "weight_decay",
            "min_lr",
            "votes",
            "rotation_deg",
            "zoom",
            "shift",
            "lighting",
            "mixup",
        ):
            _require(getattr(self, option) >= 0, _flag(option), getattr(self, option), "a number from 0")
        for option in ("flip", "erasing"):
            _require(
                0 <= getattr(self, option) <= 1, _flag(option), getattr(self, option), "a share from 0 to 1"
            )
        for option in ("ema_decay", "dropout", "label_smoothing"):
            _require(
                0 <= getattr(self, option) < 1,
                _flag(option),
                getattr(self, option),
                "a number from 0 up to, not including, 1",
            )
        _require(
            0 < self.plateau_factor < 1, "--plateau-factor", self.plateau_factor, "a number between 0 and 1"
        )
        for option, allowed in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("imbalance", IMBALANCE),
            ("network", NETWORKS),
            ("backbone", ("", *BACKBONES)),
        ):
            _require(
                getattr(self, option) in allowed,
                _flag(option),
                getattr(self, option),
                ", ".join(filter(None, allowed)),
            )
        _require(
            self.window_length >= 1 and self.window_length % 2 == 1,
            "--window-length",
            self.window_length,
            "an odd number from 1",
        )
        _require(
            len(self.filters) == len(self.depths)
            and min(self.filters, default=0) > 0
            and min(self.depths) > 0,
            "filters, depths",
            f"{list(self.filters)}, {list(self.depths)}",
            "as many numbers in both, each from 1",
        )
        _require(
            all(0 <= share < 1 for share in self.dropouts),
            "dropouts",
            list(self.dropouts),
            "shares from 0 up to, not including, 1",
        )
        for option in ("backbone", "fold", "dropouts"):
            alone = self.network == "cnn-bilstm"
            default = getattr(self, option) == type(self).__dataclass_fields__[option].default
            _require(
                default or alone != (option == "dropouts"),
                _flag(option),
                getattr(self, option),
                f"its default with --network {self.network}",
            )
        _require(
            not self.backbone_weights or bool(self.backbone),
            "--backbone-weights",
            self.backbone_weights,
            f"weights of a --backbone: {', '.join(BACKBONES)}",
        )
        _require(
            self.network == "cnn-bilstm" or len(self.filters) <= 4,
            "filters",
            list(self.filters),
            "at most four blocks",
        )
        if self.network in DROPOUTS:
            blocks, more = len(self.filters), DROPOUTS[self.network]
            _require(
                len(self.dropouts) == blocks + more or (blocks == 4 and not self.dropouts),
                "dropouts",
                list(self.dropouts),
                f"{blocks + more} shares with --network {self.network}: one for each of {blocks} blocks"
                + (f", {more} for the layers after them" if more else ""),
            )
        side = 48
        for depth in self.depths:
            side = (side - 2 * depth) // 2
        _require(
            self.network != "cnn4" or side >= 1,
            "depths",
            list(self.depths),
            "fewer with --network cnn4: of 48 pixels a side each convolution takes 2, each block half, and "
            "none is left",
        )
        _require(
            self.network != "cnn-bilstm"
            or (self.fold >= 1 and 48 % (self.fold * 2 ** len(self.filters)) == 0),
            "fold",
            self.fold,
            "a number by which, times 2 a block, 48 pixels can be divided",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to `train.json`."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The configuration that `to_dict` or a recipe file gave; raises ConfigError for unknown names."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - fields.keys())
        _require(not unknown, "an option's name", ", ".join(unknown), ", ".join(fields))
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain | {"data": tuple((name, path) for name, path in values.get("data", ()))})


def _is(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What two configurations don't share, as "fps was 5, is 10; …"; empty where they are equal."""
    unlike = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {_shown(old, key)}, is {_shown(new, key)}" for key in unlike)


def _shown(values: dict[str, Any], key: str) -> Any:
    return "empty" if values.get(key) == "" else values.get(key)


def _require(valid: bool, option: str, given: Any, allowed: str) -> None:
    if not valid:
        raise ConfigError(f"{option} is {given}; allowed is {allowed}")
