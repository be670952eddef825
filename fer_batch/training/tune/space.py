"""The search space of a study: training settings around those of a base configuration.

A point of the space has a value for each of `PARAMETERS`. `lr` and `imbalance` are settings; `width`,
`dropout` and `augmentation` are factors of the base's own settings.
"""

import dataclasses
import inspect
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from fer_batch.config import IMBALANCE, TrainConfig
from fer_batch.model.registry import NETWORKS
from fer_batch.training.initialize import choose_architecture

PARAMETERS = ("lr", "width", "dropout", "augmentation", "imbalance")
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


def locate_base(config: TrainConfig) -> dict[str, Any]:
    """Return the point of the base itself."""
    base = {
        "lr": config.lr,
        "width": 1.0,
        "dropout": float(any(_own_dropouts(config))),
        "augmentation": float(_has_augmentation(config)),
        "imbalance": config.imbalance,
    }
    return {name: base[name] for name in build_space(config)}


def apply_point(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """Return the configuration at a point of the base's space.

    If the base has no dropout or no augmentation, the factor applies to the defaults instead: those of
    `TrainConfig`, and the dropouts of the network.
    """
    return dataclasses.replace(
        config,
        lr=values["lr"],
        imbalance=values["imbalance"],
        **_scale_width(config, values.get("width", 1.0)),
        **_scale_dropout(config, values.get("dropout", float(any(_own_dropouts(config))))),
        **_scale_augmentation(config, values["augmentation"]),
    )


def _scale_width(config: TrainConfig, factor: float) -> dict[str, Any]:
    if factor == 1:
        return {}
    multiples = (round(factor * width / CHANNEL_MULTIPLE) for width in config.filters)
    return {"filters": tuple(CHANNEL_MULTIPLE * max(1, multiple) for multiple in multiples)}


def _scale_dropout(config: TrainConfig, factor: float) -> dict[str, Any]:
    own = _own_dropouts(config)
    if factor == float(any(own)):
        return {}
    given = own if any(own) else _default_dropouts(config)
    scaled = tuple(min(factor * share, max(share, MAX_DROPOUT)) for share in given)
    return {"dropout": scaled[0]} if _network_name(config) == "cnn-bilstm" else {"dropouts": scaled}


def _scale_augmentation(config: TrainConfig, factor: float) -> dict[str, Any]:
    if factor == float(_has_augmentation(config)):
        return {}
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
