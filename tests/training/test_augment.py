"""Augmentation: shapes and range stay, a seed decides, stills differ and sequences move smoothly."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.config import TrainConfig
from fer_batch.training.augment import (
    augment_sequences,
    augment_stills,
    erase_rectangles,
    mix_examples,
    relight_crops,
    warp_crops,
)

OFF = {"flip": 0.0, "rotation_deg": 0.0, "zoom": 0.0, "shift": 0.0, "lighting": 0.0, "erasing": 0.0}


def configured(**changes: float) -> TrainConfig:
    return TrainConfig(data=(("fer2013", "fer2013.csv"),), **changes)


def faces(*shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures in 0–1, `(*shape, 1, 48, 48)`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(math.prod(shape), 1, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic", align_corners=False)
    return fine.clamp(0, 1).view(*shape, 1, 48, 48)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def motion(**changes: float) -> torch.Tensor:
    """One row of motion that leaves a crop as it is, but for `changes`."""
    still = {"turn": 0.0, "zoom": 0.0, "dx": 0.0, "dy": 0.0, "flip": 1.0}
    return torch.tensor([list((still | changes).values())])


@pytest.mark.parametrize(
    ("augment", "shape"),
    [
        (augment_stills, (0,)),
        (augment_stills, (1,)),
        (augment_stills, (7,)),
        (augment_sequences, (0, 3)),
        (augment_sequences, (1, 1)),
        (augment_sequences, (3, 1)),
        (augment_sequences, (2, 9)),
    ],
)
def test_shapes_stay_and_values_stay_in_0_to_1(
    augment: Callable[..., torch.Tensor], shape: tuple[int, ...]
) -> None:
    crops = faces(*shape)
    before = crops.clone()
    made = augment(crops, configured(), seeded(0))
    assert made.shape == crops.shape
    assert made.dtype == torch.float32
    assert ((made >= 0) & (made <= 1)).all()
    assert torch.equal(crops, before)


@pytest.mark.parametrize(("augment", "shape"), [(augment_stills, (5,)), (augment_sequences, (2, 5))])
def test_the_same_seed_gives_the_same_pictures(
    augment: Callable[..., torch.Tensor], shape: tuple[int, ...]
) -> None:
    crops = faces(*shape)
    first, again, other = (augment(crops, configured(), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(5,), (2, 1)])
def test_with_everything_off_nothing_changes(shape: tuple[int, ...]) -> None:
    crops = faces(*shape)
    augment = augment_stills if len(shape) == 1 else augment_sequences
    torch.testing.assert_close(augment(crops, configured(**OFF), seeded(0)), crops, atol=1e-3, rtol=0)


def test_with_everything_off_a_sequence_only_shakes() -> None:
    crops = faces(4, 1).expand(4, 9, 1, 48, 48)
    made = augment_sequences(crops, configured(**OFF), seeded(0))
    change = (made - crops).abs().mean()
    assert 0 < change < 0.5 * (augment_sequences(crops, configured(), seeded(0)) - crops).abs().mean()


@pytest.mark.parametrize(
    ("name", "value"), [(name, 0.5) for name in OFF if name != "rotation_deg"] + [("rotation_deg", 20.0)]
)
def test_each_option_alone_changes_stills(name: str, value: float) -> None:
    crops = faces(8)
    made = augment_stills(crops, configured(**OFF | {name: value}), seeded(0))
    assert ((made - crops).abs().flatten(1).amax(1) > 0.05).any()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.3, 100, 200), (1.0, 500, 500)])
def test_as_many_are_mirrored_as_asked(share: float, low: int, high: int) -> None:
    crops = faces(1).expand(500, 1, 48, 48)
    made = augment_stills(crops, configured(**OFF | {"flip": share}), seeded(0))
    mirrored = (made - crops.flip(-1)).abs().flatten(1).amax(1) < 1e-2
    assert low <= mirrored.sum() <= high


def test_a_larger_zoom_is_a_larger_spread_of_sizes() -> None:
    square = torch.zeros(200, 1, 48, 48)
    square[..., 20:28, 20:28] = 1
    sizes = [
        augment_stills(square, configured(**OFF | {"zoom": zoom}), seeded(0)).sum((1, 2, 3)) / 64
        for zoom in (0.05, 0.2)
    ]
    assert 2 * sizes[0].log().std() < sizes[1].log().std()


def test_stills_are_each_changed_in_their_own_way() -> None:
    made = augment_stills(faces(1).expand(32, 1, 48, 48), configured(), seeded(0)).flatten(1)
    assert len(torch.unique(made, dim=0)) == 32


def test_sequences_are_each_changed_in_their_own_way() -> None:
    made = augment_sequences(faces(1, 1).expand(16, 4, 1, 48, 48), configured(), seeded(0)).flatten(1)
    assert len(torch.unique(made, dim=0)) == 16


def test_neighbouring_moments_of_a_sequence_are_closer_than_distant_ones() -> None:
    made = augment_sequences(faces(1, 1).expand(64, 9, 1, 48, 48), configured(), seeded(0))
    near = (made[:, 1:] - made[:, :-1]).abs().mean()
    far = (made[:, 4:] - made[:, :-4]).abs().mean()
    other = (made[1:] - made[:-1]).abs().mean()
    assert 0 < near < 0.8 * far
    assert far < other


def test_a_sequence_is_not_flipped_on_its_way() -> None:
    left = torch.zeros(32, 9, 1, 48, 48)
    left[..., :16] = 1
    made = augment_sequences(left, configured(), seeded(0))
    side = (made[..., :24].mean(dim=(2, 3, 4)) > made[..., 24:].mean(dim=(2, 3, 4))).float()
    assert (side == side[:, :1]).all()
    assert 0.2 < side[:, 0].mean() < 0.8


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_warp_without_motion_changes_nothing(count: int) -> None:
    crops = faces(count)
    torch.testing.assert_close(warp_crops(crops, motion().expand(count, 5)), crops, atol=1e-3, rtol=0)


def test_a_flip_flips() -> None:
    crops = faces(3)
    flipped = warp_crops(crops, motion(flip=-1.0).expand(3, 5))
    torch.testing.assert_close(flipped, crops.flip(-1), atol=1e-3, rtol=0)


def test_a_zoom_brings_the_middle_nearer() -> None:
    square = torch.zeros(1, 1, 48, 48)
    square[..., 18:30, 18:30] = 1
    size = square.sum()
    assert warp_crops(square, motion(zoom=0.3)).sum() > 1.5 * size
    assert warp_crops(square, motion(zoom=-0.3)).sum() < 0.7 * size


@pytest.mark.parametrize(("changes", "dim"), [({"dx": 0.25}, -1), ({"dy": 0.25}, -2)])
def test_a_shift_moves_by_its_share_of_half_the_side(changes: dict[str, float], dim: int) -> None:
    crops = faces(1)
    moved = warp_crops(crops, motion(**changes))
    rolled = crops.roll(-6, dims=dim)
    inner = (..., slice(8, 40), slice(8, 40))
    torch.testing.assert_close(moved[inner], rolled[inner], atol=1e-3, rtol=0)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    crops = faces(1)
    turned = warp_crops(crops, motion(turn=math.pi / 2))
    quarter = [torch.rot90(crops, k, (-2, -1)) for k in (1, -1)]
    assert min((turned - q).abs().max() for q in quarter) < 1e-3


def test_no_light_changes_nothing_and_brightness_adds() -> None:
    crops = faces(2) * 0.5 + 0.2
    torch.testing.assert_close(relight_crops(crops, torch.zeros(2, 2)), crops, atol=1e-6, rtol=0)
    brighter = relight_crops(crops, torch.tensor([[0.0, 0.1]]).expand(2, 2))
    torch.testing.assert_close(brighter, crops + 0.1, atol=1e-6, rtol=0)


def test_contrast_is_about_the_crops_own_mean() -> None:
    crops = faces(2) * 0.4 + 0.3
    sharper = relight_crops(crops, torch.tensor([[0.2, 0.0]]).expand(2, 2))
    torch.testing.assert_close(sharper.mean((1, 2, 3)), crops.mean((1, 2, 3)), atol=1e-3, rtol=0)
    assert (sharper.std((1, 2, 3)) > crops.std((1, 2, 3))).all()


@pytest.mark.parametrize(("share", "erased"), [(0.0, 0), (1.0, 64)])
def test_erasing_takes_a_small_rectangle_of_the_chosen_share(share: float, erased: int) -> None:
    crops = torch.full((64, 1, 48, 48), 2.0)
    holes = erase_rectangles(crops, seeded(0), share)[:, 0] != 2.0
    assert holes.any(dim=(1, 2)).sum() == erased
    for hole in holes[holes.any(dim=(1, 2))]:
        tall, wide = hole.any(dim=1).sum(), hole.any(dim=0).sum()
        assert 4 <= tall <= 17
        assert 4 <= wide <= 17
        assert hole.sum() == tall * wide


def mixed(count: int, alpha: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    targets = torch.nn.functional.one_hot(torch.arange(count) % 3, 3).float()
    return mix_examples(faces(count), targets, alpha, np.random.default_rng(seed))


@pytest.mark.parametrize(("count", "alpha"), [(0, 0.4), (0, 0.0), (1, 0.0), (5, 0.0), (1, 0.4)])
def test_a_batch_with_nothing_to_mix_stays_as_it_is(count: int, alpha: float) -> None:
    crops, targets = mixed(count, alpha)
    torch.testing.assert_close(crops, faces(count))
    assert torch.equal(targets.argmax(1), torch.arange(count) % 3)


@given(st.integers(2, 20), st.floats(0.05, 5), st.integers(0, 1000))
def test_mixed_targets_are_shares_of_sum_1(count: int, alpha: float, seed: int) -> None:
    crops, targets = mixed(count, alpha, seed)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert ((targets >= 0) & (targets <= 1)).all()
    assert ((crops >= 0) & (crops <= 1)).all()


def test_crops_and_targets_are_mixed_by_the_same_share_of_the_same_others() -> None:
    values = torch.arange(6.0)
    crops, targets = mix_examples(values.view(6, 1, 1, 1), torch.eye(6), 1.0, np.random.default_rng(1))
    torch.testing.assert_close(crops.flatten(), targets @ values)
    assert 0.05 < targets[0, 0] < 0.95
    assert (targets.count_nonzero(1) == 2).any()


def test_the_seed_decides_what_is_mixed() -> None:
    first, again, other = (mixed(6, 0.4, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
