"""Test the ranges, the fingerprint and the JSON form of the configurations."""

import dataclasses
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.config import (
    BACKBONES,
    IMBALANCE,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
    AnalyzeConfig,
    Limits,
    TrainConfig,
    difference,
)
from fer_batch.errors import ConfigError, FerBatchError
from fer_batch.fields import FieldError

DATA = (("fer2013", "fer2013.csv"),)


def test_defaults_are_valid() -> None:
    assert AnalyzeConfig().fps == 5.0
    assert Limits().timeout_s == 120.0
    assert TrainConfig(data=DATA).window_length % 2 == 1


@pytest.mark.parametrize(
    ("name", "low", "high", "wrong", "must"),
    [
        ("fps", 0.01, 1000, [0, -1, 1000.1, math.nan, math.inf], "above 0 and at most 1000"),
        ("min_face", 0.001, 1, [0, -0.1, 1.01, math.nan], "above 0 and at most 1"),
        ("min_score", 0, 0.999, [-0.1, 1, math.nan], "at least 0 and below 1"),
        ("detect_every", 0.01, 60, [0, -1, 60.1, math.nan, math.inf], "above 0 and at most 60"),
        ("max_faces", 1, 1000, [0, -1], "at least 1"),
        ("max_gap_s", 0, 60, [-0.1, 60.1, math.nan, math.inf], "at least 0 and at most 60"),
        ("segment_s", 1, 600, [0.9, 3601, math.nan, math.inf], "at least 1 and at most 3600"),
        ("bundle_s", 60, 1e6, [0, math.nan], "above 0"),
        ("bundle_s", 60, 1e6, [59.9], "at least the length of a segment, 60 s"),
        ("fps", 1, 25, ["5", None, True], "a number"),
        ("every_frame", False, True, [1, None, "yes"], "true or false"),
    ],
)
def test_settings_of_analysis_have_ranges(
    name: str, low: float, high: float, wrong: list[Any], must: str
) -> None:
    for allowed in (low, high):
        assert getattr(AnalyzeConfig(**{name: allowed}), name) == allowed
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            AnalyzeConfig(**{name: value})
        assert str(caught.value) == f"{name} must be {must}, got {value}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timeout_s": 0.5}, "timeout_s must be at least 1 and at most 86400, got 0.5"),
        ({"memory_gb": 0.1}, "memory_gb must be at least 0.5 and at most 1024, got 0.1"),
    ],
)
def test_limits_have_ranges(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**values)


@pytest.mark.parametrize("wrong", ["", "fastest", "NONREF", 1])
def test_fast_is_one_of_two_names(wrong: Any) -> None:
    assert [AnalyzeConfig(fast=name).fast for name in (None, "nonref", "keyframes")]
    with pytest.raises(ConfigError, match=r"^fast must be one of nonref, keyframes, got "):
        AnalyzeConfig(fast=wrong)


@pytest.mark.parametrize(("fast", "seconds"), [(None, 1.0), ("nonref", 2.0), ("keyframes", 2.0)])
def test_explicit_default_of_detect_every_is_the_same_configuration(fast: Any, seconds: float) -> None:
    assert AnalyzeConfig(fast=fast) == AnalyzeConfig(fast=fast, detect_every=seconds)


def test_every_frame_excludes_fast() -> None:
    with pytest.raises(ConfigError, match=r"^every_frame must be false if fast is set"):
        AnalyzeConfig(every_frame=True, fast="nonref")


def test_errors_survive_pickling() -> None:
    error = FieldError("fps", "must be above 0, got 0")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "fps must be above 0, got 0"


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


@pytest.mark.parametrize("config", [AnalyzeConfig(), TrainConfig(data=DATA)])
def test_configurations_are_frozen_and_keyword_only(config: Any) -> None:
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, 1)
    with pytest.raises(TypeError):
        type(config)(getattr(config, name))


def test_config_errors_are_package_errors() -> None:
    assert issubclass(ConfigError, FerBatchError)
    assert not issubclass(FerBatchError, ValueError)


def test_fingerprint_depends_on_every_setting_and_on_the_model() -> None:
    other = {
        "fps": 10.0, "every_frame": True, "min_face": 0.1, "min_score": 0.9, "max_gap_s": 1.0,
        "segment_s": 30.0, "bundle_s": 700.0, "flip": False, "detect_every": 2.0, "fast": "nonref",
        "max_faces": 2, "precision": "fp32", "hardware_decoding": True,
    }  # fmt: skip
    assert other.keys() | {"checkpoint"} == {field.name for field in dataclasses.fields(AnalyzeConfig)}
    prints = [AnalyzeConfig().fingerprint("m"), AnalyzeConfig().fingerprint("n")]
    prints += [AnalyzeConfig(**{name: value}).fingerprint("m") for name, value in other.items()]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 for text in prints)


def test_fingerprint_matches_older_runs() -> None:
    assert AnalyzeConfig().fingerprint("m") == "b788a45d62a9273b"


def test_fingerprint_does_not_depend_on_the_checkpoint_path() -> None:
    places = [AnalyzeConfig(checkpoint=path).fingerprint("m") for path in (None, "a.safetensors", "/b")]
    assert len(set(places)) == 1


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


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, ""),
        ({"fps": 5.0}, {"fps": 5.0}, ""),
        ({"fps": 5.0}, {"fps": 10.0}, "fps was 5.0, is 10.0"),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, "a was 1, is 2; b was 1, is 2"),
        ({}, {"new": 1}, "new was None, is 1"),
        ({"old": 1}, {}, "old was 1, is None"),
    ],
)
def test_difference_names_changed_settings(old: dict[str, Any], new: dict[str, Any], expected: str) -> None:
    assert difference(old, new) == expected
