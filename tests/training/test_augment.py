"""Augmentation: shapes and range stay, a seed decides, stills differ and sequences move smoothly."""

import math
from collections.abc import Callable

import pytest
import torch

from fer_batch.training.augment import augment_sequences, augment_stills, erase, light, warp


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
    made = augment(crops, seeded(0))
    assert made.shape == crops.shape
    assert made.dtype == torch.float32
    assert ((made >= 0) & (made <= 1)).all()
    assert torch.equal(crops, before)


@pytest.mark.parametrize(("augment", "shape"), [(augment_stills, (5,)), (augment_sequences, (2, 5))])
def test_the_same_seed_gives_the_same_pictures(
    augment: Callable[..., torch.Tensor], shape: tuple[int, ...]
) -> None:
    crops = faces(*shape)
    assert torch.equal(augment(crops, seeded(3)), augment(crops, seeded(3)))
    assert not torch.equal(augment(crops, seeded(3)), augment(crops, seeded(4)))


def test_stills_are_each_changed_in_their_own_way() -> None:
    made = augment_stills(faces(1).expand(32, 1, 48, 48), seeded(0)).flatten(1)
    assert len(torch.unique(made, dim=0)) == 32


def test_sequences_are_each_changed_in_their_own_way() -> None:
    made = augment_sequences(faces(1, 1).expand(16, 4, 1, 48, 48), seeded(0)).flatten(1)
    assert len(torch.unique(made, dim=0)) == 16


def test_neighbouring_moments_of_a_sequence_are_closer_than_distant_ones() -> None:
    made = augment_sequences(faces(1, 1).expand(64, 9, 1, 48, 48), seeded(0))
    near = (made[:, 1:] - made[:, :-1]).abs().mean()
    far = (made[:, 4:] - made[:, :-4]).abs().mean()
    other = (made[1:] - made[:-1]).abs().mean()
    assert 0 < near < 0.8 * far
    assert far < other


def test_a_sequence_is_not_flipped_on_its_way() -> None:
    left = torch.zeros(32, 9, 1, 48, 48)
    left[..., :16] = 1
    made = augment_sequences(left, seeded(0))
    side = (made[..., :24].mean(dim=(2, 3, 4)) > made[..., 24:].mean(dim=(2, 3, 4))).float()
    assert (side == side[:, :1]).all()
    assert 0.2 < side[:, 0].mean() < 0.8


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_warp_without_motion_changes_nothing(count: int) -> None:
    crops = faces(count)
    torch.testing.assert_close(warp(crops, motion().expand(count, 5)), crops, atol=1e-3, rtol=0)


def test_a_flip_flips() -> None:
    crops = faces(3)
    flipped = warp(crops, motion(flip=-1.0).expand(3, 5))
    torch.testing.assert_close(flipped, crops.flip(-1), atol=1e-3, rtol=0)


def test_a_zoom_brings_the_middle_nearer() -> None:
    square = torch.zeros(1, 1, 48, 48)
    square[..., 18:30, 18:30] = 1
    size = square.sum()
    assert warp(square, motion(zoom=0.3)).sum() > 1.5 * size
    assert warp(square, motion(zoom=-0.3)).sum() < 0.7 * size


@pytest.mark.parametrize(("changes", "dim"), [({"dx": 0.25}, -1), ({"dy": 0.25}, -2)])
def test_a_shift_moves_by_its_share_of_half_the_side(changes: dict[str, float], dim: int) -> None:
    crops = faces(1)
    moved = warp(crops, motion(**changes))
    rolled = crops.roll(-6, dims=dim)
    inner = (..., slice(8, 40), slice(8, 40))
    torch.testing.assert_close(moved[inner], rolled[inner], atol=1e-3, rtol=0)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    crops = faces(1)
    turned = warp(crops, motion(turn=math.pi / 2))
    quarter = [torch.rot90(crops, k, (-2, -1)) for k in (1, -1)]
    assert min((turned - q).abs().max() for q in quarter) < 1e-3


def test_no_light_changes_nothing_and_brightness_adds() -> None:
    crops = faces(2) * 0.5 + 0.2
    torch.testing.assert_close(light(crops, torch.zeros(2, 2)), crops, atol=1e-6, rtol=0)
    brighter = light(crops, torch.tensor([[0.0, 0.1]]).expand(2, 2))
    torch.testing.assert_close(brighter, crops + 0.1, atol=1e-6, rtol=0)


def test_contrast_is_about_the_crops_own_mean() -> None:
    crops = faces(2) * 0.4 + 0.3
    sharper = light(crops, torch.tensor([[0.2, 0.0]]).expand(2, 2))
    torch.testing.assert_close(sharper.mean((1, 2, 3)), crops.mean((1, 2, 3)), atol=1e-3, rtol=0)
    assert (sharper.std((1, 2, 3)) > crops.std((1, 2, 3))).all()


@pytest.mark.parametrize(("share", "erased"), [(0.0, 0), (1.0, 64)])
def test_erasing_takes_a_small_rectangle_of_the_chosen_share(share: float, erased: int) -> None:
    crops = torch.full((64, 1, 48, 48), 2.0)
    holes = erase(crops, seeded(0), share)[:, 0] != 2.0
    assert holes.any(dim=(1, 2)).sum() == erased
    for hole in holes[holes.any(dim=(1, 2))]:
        tall, wide = hole.any(dim=1).sum(), hole.any(dim=0).sum()
        assert 4 <= tall <= 17
        assert 4 <= wide <= 17
        assert hole.sum() == tall * wide
