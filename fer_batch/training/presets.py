"""Published recognizers, each as the settings that train it here.

The networks are in `model.registry`. What a description gives as a uniform range (a rotation of up to 15°, a
zoom or a shift of up to a share of the side) is here the standard deviation of that range; L2
regularization of weight λ is a weight decay of 2 λ. Weights are not averaged over steps, and FER+ votes are
not used, as neither was.
"""

from dataclasses import dataclass
from typing import Any

from fer_batch.errors import ConfigError
from fer_batch.schema import EMOTIONS

AS_PUBLISHED: dict[str, Any] = {
    "sequence_epochs": 0,
    "window_length": 1,
    "ema_decay": 0.0,
    "votes": 0.0,
    "label_smoothing": 0.0,
    "imbalance": "none",
    "weight_decay": 0.0,
    "flip": 0.0,
    "rotation_deg": 0.0,
    "zoom": 0.0,
    "shift": 0.0,
    "lighting": 0.0,
    "erasing": 0.0,
}
"""What all of them have but where they say otherwise: nothing that is ours."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published recognizer."""

    reads: str
    """What it is asked of, in words."""
    made_of: str
    """Its network, in words."""
    published: str
    """What is said of it elsewhere."""
    recipe: dict[str, Any]
    """Fields of `TrainConfig`."""


PRESETS = {
    "cnn4-fer2013": Preset(
        reads="stills",
        made_of="4 convolutions without padding, 2 dense layers",
        published="Training about 71.5 %, validation about 63.7 %",
        recipe={
            **AS_PUBLISHED,
            "network": "cnn4",
            "classes": EMOTIONS,
            "filters": (128, 256, 512, 512),
            "depths": (1, 1, 1, 1),
            "optimizer": "adam",
            "lr": 1e-3,
            "schedule": "plateau",
            "plateau_patience": 100,  # as long as all epochs: the rate stays as it is
            "epochs": 100,
            "batch_size": 128,
        },
    ),
    "cnn4bn-fer2013": Preset(
        reads="stills",
        made_of="9 convolutions with batch norm in 4 blocks, 2 dense layers",
        published="test 66.13 %, F1 .59 .60 .43 .87 .64 .53 .78 in order of the classes",
        recipe={
            **AS_PUBLISHED,
            "network": "cnn4bn",
            "classes": EMOTIONS,
            "filters": (64, 128, 256, 512),
            "depths": (2, 2, 3, 2),
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 2e-4,
            "schedule": "plateau",
            "plateau_factor": 0.5,
            "plateau_patience": 5,
            "min_lr": 1e-6,
            "early_stopping": 15,
            "epochs": 100,
            "batch_size": 64,
            "imbalance": "weighted",
            "flip": 0.5,
            "rotation_deg": 5.8,
            "zoom": 0.058,
            "shift": 0.115,
        },
    ),
    "cnn-lstm-fer2013": Preset(
        reads="stills",
        made_of="8 convolutions with batch norm in 4 blocks, whose map LSTMs 128 and 64 read place by place",
        published="test about 78 % is claimed",
        recipe={
            **AS_PUBLISHED,
            "network": "cnn-lstm",
            "classes": EMOTIONS,
            "filters": (32, 64, 128, 256),
            "depths": (2, 2, 2, 2),
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 2e-4,
            "schedule": "cosine",
            "min_lr": 1e-6,
            "early_stopping": 15,
            "epochs": 60,
            "batch_size": 64,
            "flip": 0.5,
            "rotation_deg": 8.7,
            "zoom": 0.17,
            "shift": 0.115,
        },
    ),
    "dcnn-bilstm-ck48": Preset(
        reads="sequences of 3",
        made_of="8 convolutions with batch norm and ELU, BiLSTMs 128 and 64 over the frames, a dense layer",
        published="250 sequences of CK+48, 70/30 at random",
        recipe={
            **AS_PUBLISHED,
            "network": "dcnn-bilstm",
            "classes": ("happy", "surprise", "angry", "sad", "fear"),
            "leave_out": ("contempt", "disgust"),
            "filters": (64, 128, 256, 512),
            "depths": (2, 2, 2, 2),
            "window_length": 3,
            "optimizer": "nadam",
            "lr": 1e-3,
            "schedule": "plateau",
            "plateau_factor": 0.8,
            "plateau_patience": 7,
            "min_lr": 1e-7,
            "epochs": 100,
            "batch_size": 32,
        },
    ),
    "cnn-bilstm-fer6": Preset(
        reads="stills or sequences",
        made_of="9 convolutions with batch norm in 4 blocks, BiLSTMs 128 and 64 over a window of 17",
        published="FER2013 without disgust",
        recipe={
            "network": "cnn-bilstm",
            "classes": tuple(name for name in EMOTIONS if name != "disgust"),
            "leave_out": ("disgust",),
            "filters": (32, 64, 128, 256),
            "depths": (1, 2, 3, 3),
            "epochs": 80,
            "sequence_epochs": 1,
            "batch_size": 64,
            "optimizer": "sgd",
            "lr": 0.1,
            "schedule": "onecycle",
            "imbalance": "sqrt",
        },
    ),
}


def preset(name: str, option: str = "--preset") -> dict[str, Any]:
    """The fields of `TrainConfig` of a published recognizer; raises ConfigError for another name, given as
    `option`.
    """
    if name not in PRESETS:
        raise ConfigError(f"{option} is {name}; allowed is {', '.join(PRESETS)}")
    return {**PRESETS[name].recipe, "preset": name}
