"""Settings of a training: a frozen, keyword-only dataclass that checks its values when made."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from fer_batch.config import CROP_SIZE_PX, MAX_WINDOW_S
from fer_batch.errors import ConfigError
from fer_batch.fields import Range, Topic, check_fields, require

HeadsMode = Literal["shared", "per-dataset"]
OptimizerName = Literal["sgd", "adam", "adamw", "nadam"]
ScheduleName = Literal["onecycle", "cosine", "plateau"]
NetworkName = Literal["cnn-bilstm", "cnn4", "cnn4bn", "cnn-lstm", "dcnn-bilstm"]
BackboneName = Literal[
    "resnet18", "resnet34", "resnet50", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
    "efficientnet_v2_s", "vit_b_16", "vit_b_32",
]  # fmt: skip
ImbalanceMethod = Literal[
    "none", "sqrt", "weighted", "effective", "focal", "logit-adjustment", "balanced-sampling"
]

OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
NETWORKS: tuple[str, ...] = get_args(NetworkName)
BACKBONES: tuple[str, ...] = get_args(BackboneName)
IMBALANCE: tuple[str, ...] = get_args(ImbalanceMethod)

BLOCKS = {
    "cnn-bilstm": ((32, 64, 128, 256), (1, 2, 3, 3)),
    "cnn4": ((128, 256, 512, 512), (1, 1, 1, 1)),
    "cnn4bn": ((64, 128, 256, 512), (2, 2, 3, 2)),
    "cnn-lstm": ((32, 64, 128, 256), (2, 2, 2, 2)),
    "dcnn-bilstm": ((64, 128, 256, 512), (2, 2, 2, 2)),
}
"""Default filters and depths of each network."""
DROPOUTS = {"cnn4": 2, "cnn4bn": 2, "cnn-lstm": 0, "dcnn-bilstm": 3}
"""Number of dropout layers after the blocks of each network other than the CNN-BiLSTM."""

NETWORK = Topic("Network")
LENGTH = Topic("Length of the training")
OPTIMIZATION = Topic("Optimization")
LABELS = Topic("Classes and labels")
MIXED_HEAD = "mix"
"""Value of `ship_head` that averages the heads of all data sets."""
AUGMENTATION = Topic("Augmentation")
MACHINE = Topic("Machine")

Count = Annotated[int, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
FractionBelowOne = Annotated[float, Range(at_least=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained."""

    data: tuple[tuple[str, str], ...]
    """(name, path) of each data set."""
    classes: Annotated[tuple[str, ...], LABELS] = ()
    """Class names in the order of the model's outputs. By default the seven emotions, or the classes of the
    data."""
    leave_out: Annotated[tuple[str, ...], LABELS] = ()
    """Classes whose examples are left out of the data."""
    init: Annotated[str | None, NETWORK] = None
    """Checkpoint to start from, also one with other classes; its network is kept. The word `default` names
    the packaged checkpoint. By default weights are random."""
    network: Annotated[NetworkName, NETWORK] = "cnn-bilstm"
    """Network to train; `fer-batch models` describes the networks."""
    backbone: Annotated[Literal["", BackboneName], NETWORK] = ""
    """Network of torchvision that replaces the encoder of cnn-bilstm."""
    backbone_weights: Annotated[str | None, NETWORK] = None
    """File with torchvision's weights for the backbone, as .safetensors. By default weights are random."""
    backbone_size: Annotated[int, Range(at_least=0, at_most=512), NETWORK] = 0
    """Side to which crops are scaled for the backbone, in pixels; 0 selects a suitable one."""
    epochs: Annotated[Count, LENGTH] = 36
    """Passes over all frames as stills; with dcnn-bilstm passes over all clips."""
    sequence_epochs: Annotated[Count, LENGTH] = 1
    """Passes over moving sequences, which train the LSTMs and heads of cnn-bilstm with a frozen encoder."""
    early_stopping: Annotated[Count, LENGTH] = 0
    """Epochs without a better accuracy after which the training of stills ends; 0 turns this off."""
    batch_size: Annotated[int, Range(at_least=2), OPTIMIZATION] = 128
    """Clips per step of one worker; all workers together take this number times their number."""
    optimizer: Annotated[OptimizerName, OPTIMIZATION] = "sgd"
    """Optimizer of the stills; "sgd" has Nesterov momentum 0.9. Sequences are trained with AdamW."""
    lr: Annotated[Positive, OPTIMIZATION] = 0.1
    """Highest learning rate of the stills."""
    sequence_lr: Annotated[Positive, OPTIMIZATION] = 1e-3
    """Highest learning rate of the sequences."""
    weight_decay: Annotated[NotNegative, OPTIMIZATION] = 5e-4
    """Weight decay of the stills."""
    scale_lr: Annotated[bool, OPTIMIZATION] = True
    """Multiply the learning rates by the number of workers and let them rise slowly at the start. The moving
    average of the weights follows the examples instead of the steps. Few epochs with many workers still lose
    accuracy: eight workers had 1.8 points less than one after 8 epochs, and 1.1 more after 20. One worker is
    not affected."""
    schedule: Annotated[ScheduleName, OPTIMIZATION] = "onecycle"
    """Schedule of the learning rate."""
    plateau_factor: Annotated[float, Range(above=0, below=1), OPTIMIZATION] = 0.5
    """Factor by which "plateau" lowers the learning rate."""
    plateau_patience: Annotated[Count, OPTIMIZATION] = 3
    """Epochs without a better accuracy after which "plateau" lowers the learning rate."""
    min_lr: Annotated[NotNegative, OPTIMIZATION] = 1e-5
    """Last learning rate of "cosine" and "plateau"."""
    grad_clip: Annotated[Positive, OPTIMIZATION] = 5.0
    """Largest norm of a step's gradient."""
    dropout: Annotated[FractionBelowOne, OPTIMIZATION] = 0.3
    """Dropout before the heads of cnn-bilstm."""
    dropouts: tuple[FractionBelowOne, ...] = ()
    """Dropouts of the other networks: one per block, then `DROPOUTS`; empty selects the defaults."""
    label_smoothing: Annotated[FractionBelowOne, OPTIMIZATION] = 0.05
    """Part of each label that is spread over all classes."""
    imbalance: Annotated[ImbalanceMethod, LABELS] = "sqrt"
    """Method against rare classes; "sqrt" weights each class by 1/√frequency."""
    votes: Annotated[NotNegative, LABELS] = 0.5
    """Weight of a second head that learns the annotators' votes of FER+. It is dropped after training."""
    heads: Annotated[HeadsMode, LABELS] = "shared"
    """Heads that classify stills. "per-dataset" trains one head for each data set over the same encoder, so
    that different habits of labelling do not mix. Classes that a data set lacks are masked in its head."""
    ship_head: Annotated[str | None, LABELS] = None
    """Data set whose head the checkpoint keeps, by the name in --data; the others are dropped after training.
    "mix" averages the heads' logits, with shares and class biases that suit the selection splits of all data
    sets. By default the first data set."""
    teacher: Annotated[tuple[str, ...], LABELS] = ()
    """Checkpoints of the same classes, whose mean probabilities for an image and its mirror image the stills
    learn together with the labels. The word `default` names the packaged checkpoint."""
    teacher_weight: Annotated[Fraction, LABELS] = 0.5
    """Part of a target that comes from the teachers; the rest is the label."""
    flip: Annotated[Fraction, AUGMENTATION] = 0.5
    """Fraction of the images that are mirrored."""
    rotation_deg: Annotated[NotNegative, AUGMENTATION] = 10.0
    """Standard deviation of the rotation, in degrees."""
    zoom: Annotated[NotNegative, AUGMENTATION] = 0.14
    """Standard deviation of the logarithm of the size."""
    shift: Annotated[NotNegative, AUGMENTATION] = 0.1
    """Standard deviation of the shift, as a fraction of half the side."""
    lighting: Annotated[NotNegative, AUGMENTATION] = 0.2
    """Standard deviation of the logarithm of the contrast; it scales changes of brightness too."""
    erasing: Annotated[Fraction, AUGMENTATION] = 0.5
    """Fraction of the stills with a rectangle of noise."""
    mixup: Annotated[NotNegative, AUGMENTATION] = 0.0
    """Parameter α of mixup's Beta distribution; 0 turns mixup off."""
    ema_decay: Annotated[FractionBelowOne, OPTIMIZATION] = 0.998
    """Decay of the moving average of the weights. The average is saved."""
    filters: tuple[Annotated[int, Range(at_least=1, at_most=4096)], ...] = ()
    """Filters of each block; empty selects the network's defaults."""
    depths: tuple[Annotated[int, Range(at_least=1, at_most=32)], ...] = ()
    """Convolutions of each block; empty selects the network's defaults."""
    fold: Annotated[int, Range(at_least=1)] = 1
    """Side of the squares of pixels that become channels before the first block of the CNN-BiLSTM."""
    window_length: Annotated[int, Range(at_least=1, at_most=999)] = 17
    """Sampled frames in a window, an odd number."""
    window_rate_hz: Annotated[float, Range(above=0, at_most=1000)] = 5.0
    """Sampled frames per second in a window."""
    seed: Annotated[int, Range(at_least=0, at_most=4e9), MACHINE] = 0
    """Seed. Runs with the same seed give the same weights on the same machine."""
    workers: Annotated[int, Range(at_least=1), MACHINE] = 1
    """Training processes."""
    min_workers: Annotated[Count, MACHINE] = 0
    """Fewest training processes. A run continues with fewer than `workers` when nodes are lost, and with more
    when nodes join. 0 keeps the number."""
    threads: Annotated[int, Range(at_least=1), MACHINE] = 1
    """Torch threads of each process on a CPU, at most the number of idle cores."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, default in zip(("filters", "depths"), BLOCKS[self.network], strict=True):
            if not getattr(self, name):
                object.__setattr__(self, name, default)
        require(
            self.min_workers <= self.workers,
            "min_workers",
            f"be at most the number of workers, {self.workers}",
            self.min_workers,
        )
        require(len(self.data) > 0, "data", "name at least one data set", "none")
        distinct = len(self.classes) != 1 and len(set(self.classes)) == len(self.classes)
        require(distinct, "classes", "be two or more different names", ", ".join(self.classes))
        has_sequences = self.network == "cnn-bilstm" or self.init
        epochs = self.epochs + (self.sequence_epochs if has_sequences else 0)
        require(epochs > 0, "epochs", "be at least 1", 0)
        require(self.window_length % 2 == 1, "window_length", "be an odd number", self.window_length)
        require(
            self.window_length / self.window_rate_hz <= MAX_WINDOW_S,
            "window_length",
            f"last at most {MAX_WINDOW_S:g} s at {self.window_rate_hz:g} frames per second",
            self.window_length,
        )
        require(
            not self.backbone_weights or bool(self.backbone),
            "backbone_weights",
            f"be given with a backbone ({', '.join(BACKBONES)})",
            self.backbone_weights,
        )
        self._check_heads()
        self._check_applicable_settings()
        self._check_blocks()

    @property
    def head_names(self) -> tuple[str, ...]:
        """Data sets that have a head of their own, the head to ship first; empty with a shared head."""
        if self.heads == "shared":
            return ()
        names = [name for name, _ in self.data]
        first = names[0] if self.ship_head in (None, MIXED_HEAD) else self.ship_head
        return tuple(dict.fromkeys([first, *names]))

    def _check_heads(self) -> None:
        """Check the settings that depend on `heads`."""
        if self.heads == "shared":
            require(self.ship_head is None, "ship_head", 'be given with heads "per-dataset"', self.ship_head)
            return
        names = list(dict.fromkeys(name for name, _ in self.data))
        allowed = self.ship_head is None or self.ship_head in (*names, MIXED_HEAD)
        wanted = f"be {MIXED_HEAD} or one of the data sets {', '.join(names)}"
        require(allowed, "ship_head", wanted, self.ship_head)
        has_sequences = self.network == "cnn-bilstm" and self.sequence_epochs > 0
        require(
            self.ship_head != MIXED_HEAD or has_sequences,
            "ship_head",
            f"be a data set without an epoch of sequences, before which the heads are mixed; {MIXED_HEAD} "
            "needs --sequence-epochs of 1 or more and the network cnn-bilstm",
            self.ship_head,
        )
        require(not self.mixup, "mixup", 'be 0 with heads "per-dataset"', self.mixup)

    def _check_applicable_settings(self) -> None:
        """Check that settings of some networks only are not changed for another network."""
        for name in ("backbone", "fold", "dropouts"):
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            applies = (self.network == "cnn-bilstm") != (name == "dropouts")
            require(
                applies or value == default, name, f"keep its default with the network {self.network}", value
            )

    def _check_blocks(self) -> None:
        """Check that the network can be built from `filters`, `depths`, `dropouts` and `fold`."""
        blocks, shape = len(self.filters), [list(self.filters), list(self.depths)]
        require(blocks == len(self.depths), "filters", "have as many numbers as depths", shape)
        if self.network == "cnn-bilstm":
            require(
                CROP_SIZE_PX % (self.fold * 2**blocks) == 0,
                "fold",
                f"divide {CROP_SIZE_PX} pixels after it is doubled once per block ({blocks})",
                self.fold,
            )
            return
        require(blocks <= 4, "filters", "have at most four blocks", list(self.filters))
        dropouts = blocks + DROPOUTS[self.network]
        require(
            len(self.dropouts) == dropouts or (blocks == 4 and not self.dropouts),
            "dropouts",
            f"have {dropouts} numbers with the network {self.network}: one for each of {blocks} blocks"
            f" and {DROPOUTS[self.network]} for the layers after them",
            list(self.dropouts),
        )
        side_px = CROP_SIZE_PX
        for depth in self.depths:
            side_px = (side_px - 2 * depth) // 2
        require(
            self.network != "cnn4" or side_px >= 1,
            "depths",
            f"leave at least one of {CROP_SIZE_PX} pixels with the network cnn4, in which each convolution"
            " removes two pixels and each block halves the rest",
            list(self.depths),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `train.json` has them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Build the configuration from `to_dict` or a recipe; raises ConfigError for unknown names."""
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(values.keys() - set(names)):
            raise ConfigError(f"unknown setting {', '.join(unknown)}; the settings are {', '.join(names)}")
        plain = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain | {"data": tuple((name, path) for name, path in values.get("data", ()))})
