"""Test the ranges and the JSON form of the configuration of a training."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.errors import ConfigError
from fer_batch.train_config import BACKBONES, IMBALANCE, NETWORKS, OPTIMIZERS, SCHEDULES, TrainConfig

DATA = (("fer2013", "fer2013.csv"),)
NUMBERS = ["many", None, (1,), True, math.nan, math.inf]
WHOLE = ["3", 1.5, 2.0, None, True]
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "data": ([DATA, DATA * 2], [()]),
    "classes": ([(), ("a", "b")], [("a",), ("a", "b", "a"), "angry", (1, 2)]),
    "leave_out": ([(), ("disgust",)], ["disgust", (1,), None]),
    "network": ([*NETWORKS], ["", "resnet18", None]),
    "backbone": (["", *BACKBONES], ["resnet", "cnn4", None]),
    "backbone_weights": ([None], ["of-no-backbone.safetensors", 3]),
    "backbone_size": ([0, 96], [-1, *WHOLE]),
    "dropouts": ([()], [(0.5,), (1.0,), ("0.5",), 0.5, None]),
    "init": ([None, "model.safetensors"], [3, True]),
    "epochs": ([0, 1], [-1, *WHOLE]),
    "sequence_epochs": ([0, 1], [-1, *WHOLE]),
    "batch_size": ([2], [1, 0, *WHOLE]),
    "optimizer": ([*OPTIMIZERS], ["", "SGD", "lion", None, 1]),
    "lr": ([1e-9, 10.0, 1], [0, -0.1, *NUMBERS]),
    "sequence_lr": ([1e-9, 10.0], [0, -0.1, *NUMBERS]),
    "weight_decay": ([0, 0.1], [-0.1, *NUMBERS]),
    "schedule": ([*SCHEDULES], ["", "linear", None]),
    "plateau_factor": ([0.01, 0.99], [0, 1, -0.5, *NUMBERS]),
    "plateau_patience": ([0, 5], [-1, *WHOLE]),
    "min_lr": ([0, 1e-5], [-1e-9, *NUMBERS]),
    "early_stopping": ([0, 5], [-1, *WHOLE]),
    "grad_clip": ([1e-3, 1e9], [0, -1, *NUMBERS]),
    "dropout": ([0, 0.9], [-0.1, 1, *NUMBERS]),
    "label_smoothing": ([0, 0.9], [-0.1, 1, *NUMBERS]),
    "imbalance": ([*IMBALANCE], ["", "smote", None]),
    "votes": ([0, 2.0], [-0.1, *NUMBERS]),
    "flip": ([0, 1], [-0.1, 1.1, *NUMBERS]),
    "rotation_deg": ([0, 90.0], [-1, *NUMBERS]),
    "zoom": ([0, 0.5], [-0.1, *NUMBERS]),
    "shift": ([0, 0.5], [-0.1, *NUMBERS]),
    "lighting": ([0, 0.5], [-0.1, *NUMBERS]),
    "erasing": ([0, 1], [-0.1, 1.1, *NUMBERS]),
    "mixup": ([0, 0.4], [-0.1, *NUMBERS]),
    "heads": (["shared", "per-dataset"], ["", "two", None]),
    "ship_head": ([None], ["ck48", 3]),
    "teacher": ([(), ("a.safetensors",)], ["a.safetensors", (1,), None]),
    "teacher_weight": ([0, 0.5, 1], [-0.1, 1.1, *NUMBERS]),
    "ema_decay": ([0, 0.999], [-0.1, 1, *NUMBERS]),
    "filters": ([(8, 8, 8, 8)], [(8, 8), (8, 8, 8, 0), (8, 8, 8, "8"), 8, None, (8,) * 5]),
    "depths": ([(1, 1, 1, 1)], [(1, 1), (1, 1, 1, 0), (1, 1, 1, 1.0), 1, None]),
    "fold": ([1, 3], [0, -1, 2, 5, *WHOLE]),
    "window_length": ([1, 9], [0, 8, -1, *WHOLE]),
    "window_rate_hz": ([0.5, 25], [0, -5, *NUMBERS]),
    "seed": ([0, 2**31], [-1, *WHOLE]),
    "workers": ([1, 64], [0, *WHOLE]),
    "min_workers": ([0, 1], [-1, 2, *WHOLE]),
    "scale_lr": ([True, False], [1, "yes"]),
    "threads": ([1, 64], [0, *WHOLE]),
}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"network": "cnn4"}, None),
        ({"network": "cnn4", "dropouts": (0.1,) * 6}, None),
        ({"network": "cnn4", "filters": (4,), "depths": (1,), "dropouts": (0.1, 0.2, 0.3)}, None),
        ({"network": "cnn-lstm", "dropouts": (0.1,) * 4}, None),
        ({"network": "cnn4", "dropouts": (0.1,) * 5}, "dropouts"),
        ({"network": "cnn4bn", "filters": (4, 4), "depths": (1, 1)}, "dropouts"),
        ({"network": "cnn-lstm", "dropouts": (0.1,) * 5}, "dropouts"),
        ({"network": "dcnn-bilstm", "dropouts": (0.1,) * 4}, "dropouts"),
        ({"network": "cnn4", "depths": (1, 2, 3, 3)}, "depths"),
        ({"network": "cnn4", "backbone": "resnet18"}, "backbone"),
        ({"network": "cnn4", "fold": 2}, "fold"),
        ({"network": "cnn4", "dropouts": (0.1, 1.0)}, "dropouts"),
        ({"network": "cnn4bn", "filters": (8,) * 5, "depths": (1,) * 5}, "filters"),
        ({"backbone": "resnet18", "backbone_weights": "resnet18.safetensors"}, None),
    ],
)
def test_settings_of_one_network_are_rejected_for_another(given: dict[str, Any], named: str | None) -> None:
    if named is None:
        TrainConfig(data=DATA, **given)
        return
    with pytest.raises(ConfigError, match=rf"^{named} must "):
        TrainConfig(data=DATA, **given)


def test_every_training_setting_has_test_values() -> None:
    assert RANGES.keys() == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (allowed, _) in RANGES.items() for value in allowed]
)
def test_valid_training_setting_is_accepted(name: str, value: Any) -> None:
    assert getattr(TrainConfig(**{"data": DATA, name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, wrong) in RANGES.items() for value in wrong]
)
def test_invalid_training_setting_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{"data": DATA, name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} must ") or name in ("filters", "depths", "dropouts")
    assert ", got " in message
    assert "\n" not in message


def test_training_without_epochs_is_rejected() -> None:
    with pytest.raises(ConfigError, match="epochs must be at least 1, got 0"):
        TrainConfig(data=DATA, network="cnn4", epochs=0)
    TrainConfig(data=DATA, epochs=0)
    with pytest.raises(ConfigError, match="epochs must be at least 1, got 0"):
        TrainConfig(data=DATA, epochs=0, sequence_epochs=0)


@pytest.mark.parametrize(
    ("filters", "depths", "fold", "allowed"),
    [
        ((8,), (1,), 24, True),
        ((8,), (1,), 12, True),
        ((8,), (1,), 16, False),
        ((8, 8, 8, 8), (1, 1, 1, 1), 1, True),
        ((8, 8, 8, 8), (1, 1, 1, 1), 2, False),
        ((8, 8, 8, 8, 8), (1, 1, 1, 1, 1), 1, False),
        ((8, 8), (1,), 1, False),
    ],
)
def test_encoder_halves_48_pixels_without_remainder(
    filters: tuple[int, ...], depths: tuple[int, ...], fold: int, allowed: bool
) -> None:
    shape = {"filters": filters, "depths": depths, "fold": fold}
    if allowed:
        assert TrainConfig(data=DATA, **shape).fold == fold
    else:
        with pytest.raises(ConfigError, match=r"^(fold|filters) must "):
            TrainConfig(data=DATA, **shape)


def test_training_configuration_survives_json() -> None:
    config = TrainConfig(data=DATA, filters=(8, 8, 8, 8))
    plain = config.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["data"] == [["fer2013", "fer2013.csv"]]
    assert plain["filters"] == [8, 8, 8, 8]
    assert plain.keys() == {field.name for field in dataclasses.fields(config)}


@given(
    st.fixed_dictionaries(
        {},
        optional={name: st.sampled_from(allowed) for name, (allowed, _) in RANGES.items() if name != "data"},
    )
)
def test_training_configuration_is_restored_from_plain_values(changes: dict[str, Any]) -> None:
    try:
        config = TrainConfig(data=DATA, **changes)
    except ConfigError:  # values that are valid alone may contradict each other
        return
    plain = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig.from_dict(plain) == config
    assert TrainConfig.from_dict(plain).to_dict() == plain


def test_settings_missing_from_a_recipe_have_their_defaults() -> None:
    plain = {"data": [["fer2013", "fer2013.csv"]], "epochs": 2, "filters": [8, 8, 8, 8]}
    assert TrainConfig.from_dict(plain) == TrainConfig(data=DATA, epochs=2, filters=(8, 8, 8, 8))


@pytest.mark.parametrize("names", [["colour"], ["Epochs"], ["batch-size"], ["a", "b"], [""]])
def test_unknown_names_are_rejected_with_the_valid_names(names: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=f"unknown setting {', '.join(names)}; the settings are data, classes, .*threads"
    ):
        TrainConfig.from_dict({"data": [["fer2013", "x"]]} | dict.fromkeys(names, 1))


@pytest.mark.parametrize("values", [{}, {"epochs": 3}, {"data": []}])
def test_plain_values_without_data_are_rejected(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="data must name at least one data set"):
        TrainConfig.from_dict(values)
