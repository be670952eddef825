"""What a study searches: settings of training around those of a base.

A point of the space has values by name: `lr`, and around the base's own `width`, `dropout` and
`augmentation`, which are factors, and `imbalance`.
"""

import dataclasses
import inspect
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from fer_batch.config import IMBALANCE, TrainConfig
from fer_batch.model.registry import NETWORKS
from fer_batch.training.loop import architecture_of

LR = (1 / 10, 3.0)
"""Of the base's learning rate."""
WIDTHS = (0.5, 0.75, 1.0, 1.5)
"""Of the base's channels."""
DROPOUT = (0.0, 1.5)
AUGMENTATION = (0.0, 2.0)
MULTIPLE = 8
"""What channels are rounded to a multiple of."""
MOST_DROPPED = 0.9
AUGMENTED = ("rotation_deg", "zoom", "shift", "lighting", "flip", "erasing")
MOST = {"flip": 0.5, "erasing": 1.0}
"""Shares: beyond a half, mirroring is a picture's usual side, and so teaches less again."""


def space(config: TrainConfig) -> dict[str, BaseDistribution]:
    """What can be searched around `config`, by name. The width is not where the network is given, by a
    checkpoint or a backbone, and neither are dropouts that a checkpoint brings.
    """
    found: dict[str, BaseDistribution] = {
        "lr": FloatDistribution(LR[0] * config.lr, LR[1] * config.lr, log=True)
    }
    if not config.init and not config.backbone:
        found["width"] = CategoricalDistribution(WIDTHS)
    if not config.init or _network(config) == "cnn-bilstm":
        found["dropout"] = FloatDistribution(*DROPOUT)
    found["augmentation"] = FloatDistribution(*AUGMENTATION)
    found["imbalance"] = CategoricalDistribution(IMBALANCE)
    return found


def base_point(config: TrainConfig) -> dict[str, Any]:
    """The point of the space at which the base itself is."""
    own = {
        "lr": config.lr,
        "width": 1.0,
        "dropout": float(any(_dropouts(config))),
        "augmentation": float(_augments(config)),
        "imbalance": config.imbalance,
    }
    return {name: own[name] for name in space(config)}


def derived(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """The base at a point of its space.

    A base without dropout or augmentation has the defaults' multiplied instead: those of `TrainConfig`, and
    the dropouts of its network.
    """
    return dataclasses.replace(
        config,
        lr=values["lr"],
        imbalance=values["imbalance"],
        **_wider(config, values.get("width", 1.0)),
        **_dropping(config, values.get("dropout", float(any(_dropouts(config))))),
        **_augmenting(config, values["augmentation"]),
    )


def _wider(config: TrainConfig, factor: float) -> dict[str, Any]:
    if factor == 1:
        return {}
    filters = (max(MULTIPLE, MULTIPLE * round(factor * width / MULTIPLE)) for width in config.filters)
    return {"filters": tuple(filters)}


def _dropping(config: TrainConfig, factor: float) -> dict[str, Any]:
    if factor == float(any(_dropouts(config))):
        return {}
    name = "dropout" if _network(config) == "cnn-bilstm" else "dropouts"
    given = _dropouts(config) if any(_dropouts(config)) else _default_dropouts(config)
    shares = tuple(min(factor * share, max(share, MOST_DROPPED)) for share in given)
    return {name: shares[0] if name == "dropout" else shares}


def _augmenting(config: TrainConfig, factor: float) -> dict[str, Any]:
    if factor == float(_augments(config)):
        return {}
    given = config if _augments(config) else TrainConfig(data=config.data)
    strengths = {name: getattr(given, name) for name in AUGMENTED}
    return {
        name: min(factor * strength, max(strength, MOST[name])) if name in MOST else factor * strength
        for name, strength in strengths.items()
    }


def _augments(config: TrainConfig) -> bool:
    return any(getattr(config, name) for name in AUGMENTED)


def _dropouts(config: TrainConfig) -> tuple[float, ...]:
    """Those that the base itself has."""
    if _network(config) == "cnn-bilstm":
        return (config.dropout,)
    return config.dropouts or _default_dropouts(config)


def _default_dropouts(config: TrainConfig) -> tuple[float, ...]:
    network = _network(config)
    if network == "cnn-bilstm":
        return (TrainConfig(data=config.data).dropout,)
    return tuple(inspect.signature(NETWORKS[network]).parameters["dropouts"].default)


def _network(config: TrainConfig) -> str:
    return architecture_of(config, len(config.classes))[0]
