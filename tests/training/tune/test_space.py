"""The search space of a study."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from fer_batch.model.card import Card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.registry import NETWORKS, build_network
from fer_batch.model.weights import save_checkpoint
from fer_batch.train_config import IMBALANCE, TrainConfig
from fer_batch.training.initialize import choose_architecture
from fer_batch.training.recipes import list_recipes
from fer_batch.training.tune.space import AUGMENTATIONS, Point, apply_point, build_space, locate_base

DATA: dict[str, Any] = {"data": (("fer2013", "x"),)}
NONE: dict[str, Any] = dict.fromkeys(AUGMENTATIONS, 0.0)
BASES = {
    "default": TrainConfig(**DATA),
    **{recipe.name: TrainConfig.from_dict({**DATA, **recipe.settings}) for recipe in list_recipes()[1:]},
    "narrow": TrainConfig(**DATA, filters=(3, 12), depths=(1, 1)),
    "bare": TrainConfig(**DATA, dropout=0.0, **NONE),
    "own dropouts": TrainConfig(**DATA, network="cnn-lstm", dropouts=(0.1, 0.2, 0.3, 0.98)),
    "no dropouts": TrainConfig(**DATA, network="cnn4", dropouts=(0.0,) * 6, depths=(1, 1, 1, 1)),
    "backbone": TrainConfig(**DATA, backbone="resnet18"),
    "all mirrored": TrainConfig(**DATA, flip=0.9, erasing=1.0),
}


@st.composite
def points(draw: st.DrawFn) -> tuple[TrainConfig, Point]:
    """Draw a base and a point of its space."""
    config = BASES[draw(st.sampled_from(sorted(BASES)))]
    values = {}
    for name, distribution in build_space(config).items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = draw(st.sampled_from(distribution.choices))
        else:
            assert isinstance(distribution, FloatDistribution)
            values[name] = draw(st.floats(distribution.low, distribution.high))
    return config, Point(**values)


@given(points())
def test_points_change_only_the_searched_settings_within_their_limits(
    drawn: tuple[TrainConfig, Point],
) -> None:
    config, point = drawn
    derived = apply_point(config, point)
    assert (derived.lr, derived.imbalance) == (point.lr, point.imbalance)
    searched = {"lr", "imbalance", "filters", "dropout", "dropouts", *AUGMENTATIONS}
    fields = {field.name for field in dataclasses.fields(config)}
    assert all(getattr(derived, name) == getattr(config, name) for name in fields - searched)
    assert len(derived.filters) == len(config.filters)
    if derived.filters != config.filters:
        assert all(width >= 8 and width % 8 == 0 for width in derived.filters)
    for before, share in zip(
        (config.dropout, *config.dropouts), (derived.dropout, *derived.dropouts), strict=False
    ):
        assert share <= max(before, 0.9)
    assert derived.flip <= max(config.flip, 0.5)
    assert derived.erasing <= 1


@settings(max_examples=10)
@given(points())
def test_a_network_can_be_built_at_each_point(drawn: tuple[TrainConfig, Point]) -> None:
    small = dataclasses.replace(drawn[0], backbone="", filters=drawn[0].filters[:1] * len(drawn[0].filters))
    build_network(*choose_architecture(apply_point(small, drawn[1]), 3))


@pytest.mark.parametrize("name", sorted(BASES))
def test_the_base_is_a_point_of_its_space(name: str) -> None:
    config = BASES[name]
    point = locate_base(config)
    values = point.to_dict()
    assert values.keys() == build_space(config).keys()
    for key, distribution in build_space(config).items():
        assert distribution._contains(distribution.to_internal_repr(values[key])), key
    assert apply_point(config, point) == config


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("default", {"width": 0.5}, {"filters": (16, 32, 64, 128)}),
        ("default", {"width": 1.5}, {"filters": (48, 96, 192, 384)}),
        ("narrow", {"width": 0.75}, {"filters": (8, 8)}),
        ("narrow", {"width": 1.5}, {"filters": (8, 16)}),
        ("default", {"dropout": 0.0}, {"dropout": 0.0}),
        ("default", {"dropout": 1.5}, {"dropout": 0.45}),
        ("bare", {"dropout": 0.5}, {"dropout": 0.15}),
        ("cnn4-fer2013", {"dropout": 0.5}, {"dropouts": (0.2, 0.2, 0.2, 0.2, 0.2, 0.15)}),
        ("dcnn-bilstm-ck48", {"dropout": 1.5}, {"dropouts": (0.6, 0.6, 0.6, 0.675, 0.525, 0.675, 0.9)}),
        ("own dropouts", {"dropout": 1.5}, {"dropouts": (0.15, 0.3, 0.45, 0.98)}),
        ("no dropouts", {"dropout": 1.0}, {"dropouts": (0.4, 0.4, 0.4, 0.4, 0.4, 0.3)}),
        ("default", {"augmentation": 0.0}, NONE),
        ("default", {"augmentation": 2.0}, {"rotation_deg": 20.0, "zoom": 0.28, "flip": 0.5, "erasing": 1.0}),
        ("bare", {"augmentation": 0.5}, {"rotation_deg": 5.0, "flip": 0.25, "erasing": 0.25}),
        ("cnn4bn-fer2013", {"augmentation": 2.0}, {"rotation_deg": 11.6, "lighting": 0.0, "erasing": 0.0}),
        ("all mirrored", {"augmentation": 1.5}, {"flip": 0.9, "erasing": 1.0}),
    ],
)
def test_factors_apply_to_the_base_or_to_the_defaults(
    name: str, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    derived = apply_point(BASES[name], dataclasses.replace(locate_base(BASES[name]), **changes))
    for key, value in expected.items():
        assert getattr(derived, key) == pytest.approx(value), key


def test_settings_that_a_checkpoint_or_backbone_fixes_are_not_searched(tmp_path: Path) -> None:
    everything = {"lr", "width", "dropout", "augmentation", "imbalance"}
    assert build_space(BASES["default"]).keys() == everything
    assert build_space(BASES["backbone"]).keys() == everything - {"width"}
    architecture: dict[str, Any] = {"classes": 2, "filters": [8, 8], "depths": [1, 1]}
    card = Card(classes=("a", "b"), architecture=architecture)
    save_checkpoint(tmp_path / "ours.safetensors", CnnBiLstm(**architecture), card)
    config = TrainConfig(**DATA, init=str(tmp_path / "ours.safetensors"))
    assert build_space(config).keys() == everything - {"width"}
    architecture = {"classes": 2, "filters": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    card = Card(classes=("a", "b"), network="cnn-lstm", architecture=architecture, window_length=1)
    save_checkpoint(tmp_path / "other.safetensors", NETWORKS["cnn-lstm"](**architecture), card)
    config = TrainConfig(**DATA, init=str(tmp_path / "other.safetensors"))
    assert build_space(config).keys() == everything - {"width", "dropout"}
    assert apply_point(config, locate_base(config)) == config


def test_the_learning_rate_ranges_from_a_tenth_to_three_times_that_of_the_base() -> None:
    lr = build_space(BASES["default"])["lr"]
    assert isinstance(lr, FloatDistribution)
    assert (lr.low, lr.high, lr.log) == pytest.approx((0.01, 0.3, True))
    imbalance = build_space(BASES["default"])["imbalance"]
    assert isinstance(imbalance, CategoricalDistribution)
    assert imbalance.choices == IMBALANCE
