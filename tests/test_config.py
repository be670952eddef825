"""Test the ranges, the fingerprint and the differences of configurations."""

import dataclasses
import math
import pickle
from typing import Any

import pytest

from fer_batch.config import AnalyzeConfig, Limits, difference
from fer_batch.errors import ConfigError, FerBatchError
from fer_batch.fields import FieldError
from fer_batch.train_config import TrainConfig

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
