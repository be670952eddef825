"""The search space of a study: training settings around those of a base configuration."""

import dataclasses
import inspect
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from fer_batch.model.registry import NETWORKS
from fer_batch.train_config import IMBALANCE, TrainConfig
from fer_batch.training.initialize import choose_architecture
from fer_batch.training.recipes import Settings

LR_FACTORS = (1 / 10, 3.0)
WIDTH_FACTORS = (0.5, 0.75, 1.0, 1.5)
DROPOUT_FACTORS = (0.0, 1.5)
AUGMENTATION_FACTORS = (0.0, 2.0)
CHANNEL_MULTIPLE = 8
"""Channels are rounded to a multiple of this number."""
MAX_DROPOUT = 0.9
AUGMENTATIONS = ("rotation_deg", "zoom", "shift", "lighting", "flip", "erasing")
MAX_SHARES = {"flip": 0.5, "erasing": 1.0}
"""Upper limits of shares. Mirroring more than half of the images would only exchange the sides."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the search space; a parameter that is not searched is None."""

    lr: float
    width: float | None = None
    """Factor of the base's own channels."""
    dropout: float | None = None
    """Factor of the base's own dropouts."""
    augmentation: float
    """Factor of the base's own augmentation."""
    imbalance: str

    def to_dict(self) -> dict[str, float | str]:
        """Return the values of the searched parameters."""
        return {name: value for name, value in vars(self).items() if value is not None}


PARAMETERS = tuple(field.name for field in dataclasses.fields(Point))


def build_space(config: TrainConfig) -> dict[str, BaseDistribution]:
    """Build the distributions of the parameters that can be searched around `config`.

    The width is fixed by a checkpoint to start from or a backbone; a checkpoint of another network than the
    CNN-BiLSTM also fixes the dropouts.
    """
    low, high = LR_FACTORS
    space: dict[str, BaseDistribution] = {
        "lr": FloatDistribution(low * config.lr, high * config.lr, log=True)
    }
    if not config.init and not config.backbone:
        space["width"] = CategoricalDistribution(WIDTH_FACTORS)
    if not config.init or _network_name(config) == "cnn-bilstm":
        space["dropout"] = FloatDistribution(*DROPOUT_FACTORS)
    space["augmentation"] = FloatDistribution(*AUGMENTATION_FACTORS)
    space["imbalance"] = CategoricalDistribution(IMBALANCE)
    return space


def locate_base(config: TrainConfig) -> Point:
    """Return the point of the base itself."""
    space = build_space(config)
    return Point(
        lr=config.lr,
        width=1.0 if "width" in space else None,
        dropout=float(any(_own_dropouts(config))) if "dropout" in space else None,
        augmentation=float(_has_augmentation(config)),
        imbalance=config.imbalance,
    )


def apply_point(config: TrainConfig, point: Point) -> TrainConfig:
    """Return the configuration at a point of the base's space.

    If the base has no dropout or no augmentation, the factor applies to the defaults instead: those of
    `TrainConfig`, and the dropouts of the network.
    """
    changes: Settings = {"lr": point.lr, "imbalance": point.imbalance}
    if point.width not in (None, 1):
        multiples = (round(point.width * width / CHANNEL_MULTIPLE) for width in config.filters)
        changes["filters"] = tuple(CHANNEL_MULTIPLE * max(1, multiple) for multiple in multiples)
    if point.dropout not in (None, float(any(_own_dropouts(config)))):
        scaled = _scale_dropouts(config, point.dropout)
        changes |= {"dropout": scaled[0]} if _network_name(config) == "cnn-bilstm" else {"dropouts": scaled}
    if point.augmentation != float(_has_augmentation(config)):
        changes |= _scale_augmentation(config, point.augmentation)
    return dataclasses.replace(config, **changes)


def _scale_dropouts(config: TrainConfig, factor: float) -> tuple[float, ...]:
    own = _own_dropouts(config)
    shares = own if any(own) else _default_dropouts(config)
    return tuple(min(factor * share, max(share, MAX_DROPOUT)) for share in shares)


def _scale_augmentation(config: TrainConfig, factor: float) -> dict[str, float]:
    base = config if _has_augmentation(config) else TrainConfig(data=config.data)
    strengths = {name: getattr(base, name) for name in AUGMENTATIONS}
    return {
        name: min(factor * strength, max(strength, MAX_SHARES.get(name, float("inf"))))
        for name, strength in strengths.items()
    }


def _has_augmentation(config: TrainConfig) -> bool:
    return any(getattr(config, name) for name in AUGMENTATIONS)


def _own_dropouts(config: TrainConfig) -> tuple[float, ...]:
    if _network_name(config) == "cnn-bilstm":
        return (config.dropout,)
    return config.dropouts or _default_dropouts(config)


def _default_dropouts(config: TrainConfig) -> tuple[float, ...]:
    network = _network_name(config)
    if network == "cnn-bilstm":
        return (TrainConfig(data=config.data).dropout,)
    return tuple(inspect.signature(NETWORKS[network]).parameters["dropouts"].default)


def _network_name(config: TrainConfig) -> str:
    return choose_architecture(config, len(config.classes))[0]
