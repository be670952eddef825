"""Configurations: every range is checked when made, and a fingerprint tells what answers depend on."""

import dataclasses
import json
import math
from typing import Any

import pytest

from fer_batch.config import CLASS_WEIGHTS, SCHEDULES, AnalyzeConfig, TrainConfig, difference
from fer_batch.errors import ConfigError, FerBatchError

DATA = (("fer2013", "fer2013.csv"),)


def test_the_defaults_are_allowed() -> None:
    assert AnalyzeConfig().fps == 5.0
    assert TrainConfig(data=DATA).window_length % 2 == 1


@pytest.mark.parametrize(
    ("name", "low", "high", "wrong"),
    [
        ("fps", 0.01, 1000, [0, -1, 1000.1, math.nan, math.inf]),
        ("min_face", 0.001, 1, [0, -0.1, 1.01, math.nan]),
        ("min_score", 0, 0.999, [-0.1, 1, math.nan]),
        ("max_gap_s", 0, 60, [-0.1, 60.1, math.nan, math.inf]),
        ("segment_s", 1, 600, [0.9, 3601, math.nan, math.inf]),
        ("bundle_s", 60, 1e6, [59.9, 0, math.nan]),
    ],
)
def test_how_videos_are_analyzed_has_ranges(name: str, low: float, high: float, wrong: list[float]) -> None:
    for allowed in (low, high):
        assert getattr(AnalyzeConfig(**{name: allowed}), name) == allowed
    option = "--" + name.removesuffix("_s").replace("_", "-")
    for value in wrong:
        with pytest.raises(ConfigError) as caught:
            AnalyzeConfig(**{name: value})
        assert str(caught.value).startswith(f"{option} is {value}; allowed is ")


@pytest.mark.parametrize(
    ("name", "allowed", "wrong"),
    [
        ("data", [DATA, DATA * 2], [()]),
        ("epochs", [1], [0, -1]),
        ("sequence_epochs", [0, 1], [-1]),
        ("batch_size", [2], [1, 0]),
        ("lr", [1e-9, 10.0], [0, -0.1, math.nan]),
        ("schedule", SCHEDULES, ["", "linear"]),
        ("class_weights", CLASS_WEIGHTS, ["", "focal"]),
        ("ema_decay", [0, 0.999], [-0.1, 1, math.nan]),
        ("dropout", [0, 0.9], [-0.1, 1, math.nan]),
        ("workers", [1, 64], [0]),
        ("threads", [1, 64], [0]),
    ],
)
def test_how_a_model_is_trained_has_ranges(name: str, allowed: list[Any], wrong: list[Any]) -> None:
    for value in allowed:
        assert getattr(TrainConfig(**{"data": DATA, name: value}), name) == value
    for value in wrong:
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is .*; allowed is "):
            TrainConfig(**{"data": DATA, name: value})


@pytest.mark.parametrize("config", [AnalyzeConfig(), TrainConfig(data=DATA)])
def test_configurations_are_frozen_and_take_names_only(config: Any) -> None:
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, 1)
    with pytest.raises(TypeError):
        type(config)(getattr(config, name))


def test_errors_of_a_user_are_of_one_kind() -> None:
    assert issubclass(ConfigError, FerBatchError)
    assert not issubclass(FerBatchError, ValueError)


def test_the_fingerprint_depends_on_every_setting_and_on_the_model() -> None:
    other = {
        "fps": 10.0, "every_frame": True, "min_face": 0.1, "min_score": 0.8, "max_gap_s": 1.0,
        "segment_s": 30.0, "bundle_s": 700.0, "flip": True,
    }  # fmt: skip
    assert other.keys() | {"checkpoint"} == {field.name for field in dataclasses.fields(AnalyzeConfig)}
    prints = [AnalyzeConfig().fingerprint("m"), AnalyzeConfig().fingerprint("n")]
    prints += [AnalyzeConfig(**{name: value}).fingerprint("m") for name, value in other.items()]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 for text in prints)


def test_the_fingerprint_does_not_depend_on_where_the_model_lies() -> None:
    places = [AnalyzeConfig(checkpoint=path).fingerprint("m") for path in (None, "a.safetensors", "/b")]
    assert len(set(places)) == 1


def test_the_fingerprint_of_the_defaults_is_that_of_the_first_release() -> None:
    """A setting that is added must not make what is done look undone."""
    assert AnalyzeConfig().fingerprint("m") == "3e5741e533717839"


def test_a_training_configuration_survives_json() -> None:
    config = TrainConfig(data=DATA, filters=(8, 8, 8, 8))
    plain = config.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["data"] == [["fer2013", "fer2013.csv"]]
    assert plain["filters"] == [8, 8, 8, 8]
    assert plain.keys() == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({}, {}, ""),
        ({"fps": 5.0}, {"fps": 5.0}, ""),
        ({"fps": 5.0}, {"fps": 10.0}, "fps was 5.0, is 10.0"),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, "a was 1, is 2; b was 1, is 2"),
        ({}, {"new": 1}, "new was None, is 1"),
        ({"old": 1}, {}, "old was 1, is None"),
    ],
)
def test_a_difference_names_what_is_not_shared(old: dict[str, Any], new: dict[str, Any], said: str) -> None:
    assert difference(old, new) == said
