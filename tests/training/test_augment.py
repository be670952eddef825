"""Augmentation of stills and sequences."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fer_batch.train_config import TrainConfig
from fer_batch.training.augment import (
    augment_sequences,
    augment_stills,
    erase_rectangles,
    mix_examples,
    move_mouths_and_eyelids,
    relight_crops,
    warp_crops,
)

OFF = {"flip": 0.0, "rotation_deg": 0.0, "zoom": 0.0, "shift": 0.0, "lighting": 0.0, "erasing": 0.0}


def make_config(**changes: float) -> TrainConfig:
    return TrainConfig(data=(("fer2013", "fer2013.csv"),), **changes)


def make_images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Make smooth random images from 0 to 1, `(*shape, 1, 48, 48)`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(math.prod(shape), 1, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic", align_corners=False)
    return fine.clamp(0, 1).view(*shape, 1, 48, 48)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_motion(**changes: float) -> torch.Tensor:
    """Make one row of a motion; without `changes` it does not move the crop."""
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
def test_shape_and_range_are_kept(augment: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> None:
    crops = make_images(*shape)
    before = crops.clone()
    augmented = augment(crops, make_config(), seeded(0))
    assert augmented.shape == crops.shape
    assert augmented.dtype == torch.float32
    assert ((augmented >= 0) & (augmented <= 1)).all()
    assert torch.equal(crops, before)


@pytest.mark.parametrize(("augment", "steps"), [(augment_stills, []), (augment_sequences, [4])])
def test_the_result_depends_on_the_seed_only_and_differs_between_examples(
    augment: Callable[..., torch.Tensor], steps: list[int]
) -> None:
    crops = make_images(1, *[1 for _ in steps]).expand(32, *steps, 1, 48, 48)
    first, again, other = (augment(crops, make_config(), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first.flatten(1), dim=0)) == 32


@pytest.mark.parametrize("shape", [(5,), (2, 1)])
def test_nothing_changes_if_all_options_are_off(shape: tuple[int, ...]) -> None:
    crops = make_images(*shape)
    augment = augment_stills if len(shape) == 1 else augment_sequences
    torch.testing.assert_close(augment(crops, make_config(**OFF), seeded(0)), crops, atol=1e-3, rtol=0)


def test_sequences_only_shake_if_all_options_are_off() -> None:
    crops = make_images(4, 1).expand(4, 9, 1, 48, 48)
    made = augment_sequences(crops, make_config(**OFF), seeded(0))
    change = (made - crops).abs().mean()
    assert 0 < change < 0.5 * (augment_sequences(crops, make_config(), seeded(0)) - crops).abs().mean()


@pytest.mark.parametrize(
    ("name", "value"), [(name, 0.5) for name in OFF if name != "rotation_deg"] + [("rotation_deg", 20.0)]
)
def test_each_option_changes_stills(name: str, value: float) -> None:
    crops = make_images(8)
    made = augment_stills(crops, make_config(**OFF | {name: value}), seeded(0))
    assert ((made - crops).abs().flatten(1).amax(1) > 0.05).any()


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.3, 100, 200), (1.0, 500, 500)])
def test_the_given_share_of_stills_is_mirrored(share: float, low: int, high: int) -> None:
    crops = make_images(1).expand(500, 1, 48, 48)
    made = augment_stills(crops, make_config(**OFF | {"flip": share}), seeded(0))
    mirrored = (made - crops.flip(-1)).abs().flatten(1).amax(1) < 1e-2
    assert low <= mirrored.sum() <= high


def test_a_larger_zoom_spreads_the_sizes_more() -> None:
    square = torch.zeros(200, 1, 48, 48)
    square[..., 20:28, 20:28] = 1
    sizes = [
        augment_stills(square, make_config(**OFF | {"zoom": zoom}), seeded(0)).sum((1, 2, 3)) / 64
        for zoom in (0.05, 0.2)
    ]
    assert 2 * sizes[0].log().std() < sizes[1].log().std()


def test_neighbouring_frames_of_a_sequence_are_more_similar_than_distant_ones() -> None:
    made = augment_sequences(make_images(1, 1).expand(64, 9, 1, 48, 48), make_config(), seeded(0))
    near = (made[:, 1:] - made[:, :-1]).abs().mean()
    far = (made[:, 4:] - made[:, :-4]).abs().mean()
    other = (made[1:] - made[:-1]).abs().mean()
    assert 0 < near < 0.8 * far
    assert far < other


def test_all_frames_of_a_sequence_are_flipped_together() -> None:
    left = torch.zeros(32, 9, 1, 48, 48)
    left[..., :16] = 1
    made = augment_sequences(left, make_config(), seeded(0))
    side = (made[..., :24].mean(dim=(2, 3, 4)) > made[..., 24:].mean(dim=(2, 3, 4))).float()
    assert (side == side[:, :1]).all()
    assert 0.2 < side[:, 0].mean() < 0.8


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_warp_without_motion_only_flips(count: int, flip: float) -> None:
    crops = make_images(count)
    expected = crops if flip > 0 else crops.flip(-1)
    warped = warp_crops(crops, make_motion(flip=flip).expand(count, 5))
    torch.testing.assert_close(warped, expected, atol=1e-3, rtol=0)


def test_a_positive_zoom_enlarges_the_centre() -> None:
    square = torch.zeros(1, 1, 48, 48)
    square[..., 18:30, 18:30] = 1
    size = square.sum()
    assert warp_crops(square, make_motion(zoom=0.3)).sum() > 1.5 * size
    assert warp_crops(square, make_motion(zoom=-0.3)).sum() < 0.7 * size


@pytest.mark.parametrize(("changes", "dim"), [({"dx": 0.25}, -1), ({"dy": 0.25}, -2)])
def test_shifts_are_relative_to_half_the_side(changes: dict[str, float], dim: int) -> None:
    crops = make_images(1)
    moved = warp_crops(crops, make_motion(**changes))
    rolled = crops.roll(-6, dims=dim)
    inner = (..., slice(8, 40), slice(8, 40))
    torch.testing.assert_close(moved[inner], rolled[inner], atol=1e-3, rtol=0)


def test_turns_are_in_radians() -> None:
    crops = make_images(1)
    turned = warp_crops(crops, make_motion(turn=math.pi / 2))
    quarter = [torch.rot90(crops, k, (-2, -1)) for k in (1, -1)]
    assert min((turned - q).abs().max() for q in quarter) < 1e-3


def test_lighting_adds_brightness_and_contrast_around_the_mean_of_the_crop() -> None:
    crops = make_images(2) * 0.4 + 0.3
    same, brighter, sharper = (
        relight_crops(crops, torch.tensor([lighting]).expand(2, 2))
        for lighting in ([0.0, 0.0], [0.0, 0.1], [0.2, 0.0])
    )
    torch.testing.assert_close(same, crops, atol=1e-6, rtol=0)
    torch.testing.assert_close(brighter, crops + 0.1, atol=1e-6, rtol=0)
    torch.testing.assert_close(sharper.mean((1, 2, 3)), crops.mean((1, 2, 3)), atol=1e-3, rtol=0)
    assert (sharper.std((1, 2, 3)) > crops.std((1, 2, 3))).all()


@pytest.mark.parametrize(("share", "erased"), [(0.0, 0), (1.0, 64)])
def test_a_small_rectangle_is_erased_in_the_given_share(share: float, erased: int) -> None:
    crops = torch.full((64, 1, 48, 48), 2.0)
    holes = erase_rectangles(crops, seeded(0), share)[:, 0] != 2.0
    assert holes.any(dim=(1, 2)).sum() == erased
    for hole in holes[holes.any(dim=(1, 2))]:
        tall, wide = hole.any(dim=1).sum(), hole.any(dim=0).sum()
        assert 4 <= tall <= 17
        assert 4 <= wide <= 17
        assert hole.sum() == tall * wide


def mix_images(count: int, alpha: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    targets = torch.nn.functional.one_hot(torch.arange(count) % 3, 3).float()
    return mix_examples(make_images(count), targets, alpha, np.random.default_rng(seed))


@pytest.mark.parametrize(("count", "alpha"), [(0, 0.4), (0, 0.0), (1, 0.0), (5, 0.0), (1, 0.4)])
def test_a_batch_without_mixup_is_unchanged(count: int, alpha: float) -> None:
    crops, targets = mix_images(count, alpha)
    torch.testing.assert_close(crops, make_images(count))
    assert torch.equal(targets.argmax(1), torch.arange(count) % 3)


@given(st.integers(2, 20), st.floats(0.05, 5), st.integers(0, 1000))
def test_mixed_targets_sum_to_1_and_depend_on_the_seed_only(count: int, alpha: float, seed: int) -> None:
    crops, targets = mix_images(count, alpha, seed)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert ((targets >= 0) & (targets <= 1)).all()
    assert ((crops >= 0) & (crops <= 1)).all()
    assert torch.equal(crops, mix_images(count, alpha, seed)[0])


def test_crops_and_targets_are_mixed_with_the_same_examples_and_share() -> None:
    values = torch.arange(6.0)
    crops, targets = mix_examples(values.view(6, 1, 1, 1), torch.eye(6), 1.0, np.random.default_rng(1))
    torch.testing.assert_close(crops.flatten(), targets @ values)
    assert 0.05 < targets[0, 0] < 0.95
    assert (targets.count_nonzero(1) == 2).any()


def make_stripes(count: int) -> torch.Tensor:
    """Make crops whose grey value is the number of the row."""
    return (torch.arange(48.0) / 48).view(1, 1, 48, 1).expand(count, 1, 48, 48)


@pytest.mark.parametrize("count", [0, 2])
def test_a_closed_mouth_and_open_eyes_change_nothing(count: int) -> None:
    crops, zero = make_stripes(count), torch.zeros(count)
    torch.testing.assert_close(move_mouths_and_eyelids(crops, zero, zero), crops)


def test_an_open_mouth_moves_the_chin_down_and_a_blink_the_eyelids() -> None:
    crops = make_stripes(2)
    moved = move_mouths_and_eyelids(crops, torch.tensor([0.25, 0]), torch.tensor([0.0, 1])) * 48
    rows = crops * 48
    shift = (rows - moved)[:, 0, :, 24]  # pixels that the content moved down
    assert shift[0, :30].abs().max() < 0.1
    assert shift[0, 42].item() == pytest.approx(6, abs=0.1)  # a quarter of half the side
    assert shift[1, 19].item() == pytest.approx(0.14 * 24, abs=0.1)
    assert shift[1, 30:].abs().max() < 0.1
