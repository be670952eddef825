"""Configurations: every range is checked when made, and a fingerprint tells what answers depend on."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.config import (
    BACKBONES,
    FAST,
    IMBALANCE,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
    AnalyzeConfig,
    TrainConfig,
    difference,
)
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
        ("detect_every", 0.01, 60, [0, -1, 60.1, math.nan, math.inf]),
        ("max_faces", 1, 1000, [0, -1]),
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


@pytest.mark.parametrize("wrong", ["", "fastest", "NONREF"])
def test_what_a_survey_leaves_out_has_names(wrong: str) -> None:
    assert {AnalyzeConfig(fast=name).fast for name in (None, *FAST)} == {None, "nonref", "keyframes"}
    with pytest.raises(ConfigError, match=r"^--fast is .*; allowed is nonref or keyframes"):
        AnalyzeConfig(fast=wrong)


@pytest.mark.parametrize(("fast", "seconds"), [(None, 1.0), ("nonref", 2.0), ("keyframes", 2.0)])
def test_how_often_faces_are_searched_is_filled_in(fast: str | None, seconds: float) -> None:
    """So that the default, when it is given later, is no other configuration."""
    assert AnalyzeConfig(fast=fast) == AnalyzeConfig(fast=fast, detect_every=seconds)


def test_a_survey_is_not_of_every_frame() -> None:
    with pytest.raises(ConfigError, match=r"^--every-frame is given for a survey"):
        AnalyzeConfig(every_frame=True, fast="nonref")


NUMBERS = ["many", None, (1,), True, math.nan, math.inf]
WHOLE = ["3", 1.5, 2.0, None, True]
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "data": ([DATA, DATA * 2], [()]),
    "classes": ([(), ("a", "b")], [("a",), ("a", "b", "a"), "angry", (1, 2)]),
    "leave_out": ([(), ("disgust",)], ["disgust", (1,), None]),
    "preset": (["", "cnn4-fer2013"], [3, None]),
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
    "ema_decay": ([0, 0.999], [-0.1, 1, *NUMBERS]),
    "filters": ([(8, 8, 8, 8)], [(8, 8), (8, 8, 8, 0), (8, 8, 8, "8"), 8, None, (8,) * 5]),
    "depths": ([(1, 1, 1, 1)], [(1, 1), (1, 1, 1, 0), (1, 1, 1, 1.0), 1, None]),
    "fold": ([1, 3], [0, -1, 2, 5, *WHOLE]),
    "window_length": ([1, 9], [0, 8, -1, *WHOLE]),
    "window_rate_hz": ([0.5, 25], [0, -5, *NUMBERS]),
    "seed": ([0, 2**31], [-1, *WHOLE]),
    "workers": ([1, 64], [0, *WHOLE]),
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
        ({"network": "cnn4", "backbone": "resnet18"}, "--backbone"),
        ({"network": "cnn4", "fold": 2}, "--fold"),
        ({"network": "cnn4", "dropouts": (0.1, 1.0)}, "dropouts"),
        ({"network": "cnn4bn", "filters": (8,) * 5, "depths": (1,) * 5}, "filters"),
        ({"backbone": "resnet18", "backbone_weights": "resnet18.safetensors"}, None),
    ],
)
def test_what_only_some_networks_have_is_refused_with_others(
    given: dict[str, Any], named: str | None
) -> None:
    if named is None:
        TrainConfig(data=DATA, **given)
        return
    with pytest.raises(ConfigError, match=rf"^{named} is "):
        TrainConfig(data=DATA, **given)


def test_every_option_of_training_has_its_range_tested() -> None:
    assert RANGES.keys() == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (allowed, _) in RANGES.items() for value in allowed]
)
def test_a_model_can_be_trained_so(name: str, value: Any) -> None:
    assert getattr(TrainConfig(**{"data": DATA, name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, wrong) in RANGES.items() for value in wrong]
)
def test_a_model_cannot_be_trained_so_and_the_error_says_how(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{"data": DATA, name: value})
    said = str(caught.value)
    assert name.replace("_", "-") in said
    assert "; allowed is " in said
    assert "\n" not in said


def test_a_run_has_an_epoch_of_one_kind_at_least() -> None:
    with pytest.raises(ConfigError, match="--epochs is 0"):
        TrainConfig(data=DATA, network="cnn4", epochs=0)
    TrainConfig(data=DATA, epochs=0)
    with pytest.raises(ConfigError, match="--epochs is 0"):
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
def test_an_encoder_halves_48_pixels_without_rest(
    filters: tuple[int, ...], depths: tuple[int, ...], fold: int, allowed: bool
) -> None:
    shape = {"filters": filters, "depths": depths, "fold": fold}
    if allowed:
        assert TrainConfig(data=DATA, **shape).fold == fold
    else:
        with pytest.raises(ConfigError, match=r"fold is|filters, depths is"):
            TrainConfig(data=DATA, **shape)


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
        "fps": 10.0, "every_frame": True, "min_face": 0.1, "min_score": 0.9, "max_gap_s": 1.0,
        "segment_s": 30.0, "bundle_s": 700.0, "flip": False, "detect_every": 2.0, "fast": "nonref",
        "max_faces": 2,
    }  # fmt: skip
    assert other.keys() | {"checkpoint"} == {field.name for field in dataclasses.fields(AnalyzeConfig)}
    prints = [AnalyzeConfig().fingerprint("m"), AnalyzeConfig().fingerprint("n")]
    prints += [AnalyzeConfig(**{name: value}).fingerprint("m") for name, value in other.items()]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 16 for text in prints)


def test_the_fingerprint_is_as_it_was_before_faces_could_be_left_out() -> None:
    """Else the results of older runs would be those of another configuration."""
    assert AnalyzeConfig().fingerprint("m") == "b788a45d62a9273b"


def test_the_fingerprint_does_not_depend_on_where_the_model_lies() -> None:
    places = [AnalyzeConfig(checkpoint=path).fingerprint("m") for path in (None, "a.safetensors", "/b")]
    assert len(set(places)) == 1


def test_a_training_configuration_survives_json() -> None:
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
def test_a_training_configuration_comes_back_from_plain_values(changes: dict[str, Any]) -> None:
    try:
        config = TrainConfig(data=DATA, **changes)
    except ConfigError:  # each is allowed alone, not all of them together
        return
    plain = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig.from_dict(plain) == config
    assert TrainConfig.from_dict(plain).to_dict() == plain


def test_what_a_recipe_leaves_out_is_as_by_default() -> None:
    plain = {"data": [["fer2013", "fer2013.csv"]], "epochs": 2, "filters": [8, 8, 8, 8]}
    assert TrainConfig.from_dict(plain) == TrainConfig(data=DATA, epochs=2, filters=(8, 8, 8, 8))


@pytest.mark.parametrize("names", [["colour"], ["Epochs"], ["batch-size"], ["a", "b"], [""]])
def test_an_unknown_name_is_refused_with_those_allowed(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{', '.join(names)}; allowed is data, classes, .*threads"):
        TrainConfig.from_dict({"data": [["fer2013", "x"]]} | dict.fromkeys(names, 1))


@pytest.mark.parametrize("values", [{}, {"epochs": 3}, {"data": []}])
def test_plain_values_without_data_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--data is nothing"):
        TrainConfig.from_dict(values)


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
