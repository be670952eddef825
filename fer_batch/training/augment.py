"""Augmentation of whole batches on the training device: affine warps, lighting, erasing and mixup.

A still becomes a sequence by a smooth random path: the face drifts, turns and comes nearer as in a video. In
addition the crop of each frame shakes a little, and sometimes more, as detected boxes do (measured on known
faces in videos). Some faces speak and blink. All random numbers come from the generator argument, on its
device.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fer_batch.train_config import TrainConfig

SHAKE = (math.radians(1.5), 0.026, 0.022, 0.022)
"""Standard deviations of a crop's shake: turn in radians, log zoom, and shifts relative to half the side."""
JOLT_PROBABILITY, JOLT_FACTOR = 0.1, 2.5
"""How often a crop shakes more, and how much more."""

SPEECH_SHARE, MOUTH_OPENING = 0.3, 0.12
"""Share of the sequences with a speaking face, and the largest movement of the chin, relative to half the
side."""
BLINK_SHARE, BLINK_PROBABILITY = 0.3, 0.1
"""Share of the sequences with a blinking face, and probability that the eyes of such a frame are closed."""
MOUTH_Y, EYES_Y, EYELID_HEIGHT = 0.45, -0.2, 0.14
"""Height of mouth and eyes in a crop, and of a closed eyelid, relative to half the side; 0 is the middle."""


def augment_stills(crops: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Warp, relight and partly erase each crop of `(N, C, H, W)` grey values from 0 to 1."""
    count = len(crops)
    crops = warp_crops(crops, _draw_motion(count, 1, config, generator)[:, 0])
    crops = relight_crops(crops, _draw_lighting(count, 1, config, generator)[:, 0])
    return erase_rectangles(crops, generator, config.erasing)


def augment_sequences(crops: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Warp and relight `(B, T, 1, H, W)` grey values from 0 to 1, smoothly over T.

    Some faces speak and blink.
    """
    batch, steps = crops.shape[:2]
    crops = crops.flatten(0, 1)
    if steps > 1:
        opening, closing = _draw_speech(batch, steps, generator)
        crops = move_mouths_and_eyelids(crops, opening.flatten(), closing.flatten())
    motion = _draw_motion(batch, steps, config, generator)  # (B, T, 5)
    lighting = _draw_lighting(batch, steps, config, generator)  # (B, T, 2)
    flat = warp_crops(crops, motion.flatten(0, 1))
    return relight_crops(flat, lighting.flatten(0, 1)).unflatten(0, (batch, steps))


def mix_examples(
    crops: Tensor, targets: Tensor, alpha: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each of the `(N, C, H, W)` crops and `(N, K)` targets with another one of the batch.

    The share of a batch is drawn from Beta(α, α); with α = 0 the batch is unchanged. After Zhang et al. 2018,
    "mixup: Beyond Empirical Risk Minimization" (arXiv:1710.09412).
    """
    if not alpha or not len(crops):
        return crops, targets
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(crops))).to(crops.device)
    return share * crops + (1 - share) * crops[other], share * targets + (1 - share) * targets[other]


def warp_crops(crops: Tensor, motion: Tensor) -> Tensor:
    """Warp `(N, C, H, W)` crops by `(N, 5)` motions (turn, log zoom, shift x, shift y, flip).

    The interpolation is bilinear, and the borders are reflected.
    """
    if not len(crops):
        return crops
    turn, zoom, dx, dy, flip = motion.unbind(1)
    scale = torch.exp(-zoom)
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    rows = [torch.stack([cos * flip, -sin, dx], 1), torch.stack([sin * flip, cos, dy], 1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(crops.device), list(crops.shape), align_corners=False)
    return F.grid_sample(crops, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def move_mouths_and_eyelids(crops: Tensor, opening: Tensor, closing: Tensor) -> Tensor:
    """Move the chin of `(N, C, H, W)` upright faces down, and their upper eyelids.

    `opening` is `(N,)`: the movement of the chin relative to half the side. `closing` is `(N,)`, from 0 for
    open eyes to 1 for closed ones. The rows of a crop are moved, so the eyebrows do not follow exactly.
    """
    if not len(crops):
        return crops
    height = crops.shape[2]
    y = (2 * torch.arange(height, device=crops.device) + 1) / height - 1  # (H,), from -1 to 1
    chin = torch.sigmoid((y - MOUTH_Y) / 0.05)
    eyelid = EYELID_HEIGHT * torch.exp(-(((y - EYES_Y) / EYELID_HEIGHT) ** 2))
    opening, closing = opening.to(crops.device)[:, None], closing.to(crops.device)[:, None]
    identity = torch.eye(2, 3, device=crops.device).expand(len(crops), 2, 3)
    grid = F.affine_grid(identity, list(crops.shape), align_corners=False).clone()  # (N, H, W, 2)
    grid[..., 1] -= (opening * chin + closing * eyelid)[:, :, None]
    return F.grid_sample(crops, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def relight_crops(crops: Tensor, lighting: Tensor) -> Tensor:
    """Change the light of `(N, C, H, W)` crops by `(N, 2)` (log contrast, brightness offset).

    The contrast is relative to the crop's mean. The result is clipped to 0–1.
    """
    contrast, offset = lighting.to(crops.device).view(-1, 2, 1, 1, 1).unbind(1)
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    return ((crops - mean) * torch.exp(contrast) + mean + offset).clamp(0, 1)


def erase_rectangles(crops: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Fill a rectangle of up to a third of each side with noise, in `share` of the crops.

    After Zhong et al. 2020, "Random Erasing Data Augmentation" (arXiv:1708.04896).
    """
    count, _, height, width = crops.shape
    device = generator.device
    size = 0.1 + 0.23 * torch.rand(count, 2, generator=generator, device=device)
    corner = torch.rand(count, 2, generator=generator, device=device) * (1 - size)
    chosen = torch.rand(count, 1, 1, generator=generator, device=device) < share
    y = (torch.arange(height, device=device) / height).view(1, height, 1)
    x = (torch.arange(width, device=device) / width).view(1, 1, width)
    (top, left), (tall, wide) = corner.view(count, 2, 1, 1).unbind(1), size.view(count, 2, 1, 1).unbind(1)
    hole = chosen & (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    noise = torch.rand(crops.shape, generator=generator, device=device)
    return torch.where(hole[:, None].to(crops.device), noise.to(crops.device), crops)


def _draw_motion(batch: int, steps: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Draw `(B, T, 5)` motions.

    They are the turn in radians, the log zoom, the shifts x and y relative to half the side, and the flip,
    which is 1 or -1 for a whole sequence.
    """
    device = generator.device
    spread = torch.tensor(
        [math.radians(config.rotation_deg), config.zoom, config.shift, config.shift], device=device
    )
    path = _draw_smooth_path(batch, steps, 4, generator) * spread
    if steps > 1:
        jolts = torch.rand(batch, steps, 1, generator=generator, device=device) < JOLT_PROBABILITY
        shake = torch.randn(batch, steps, 4, generator=generator, device=device)
        shake = shake * torch.tensor(SHAKE, device=device)
        path = path + torch.where(jolts, JOLT_FACTOR * shake, shake)
    mirrored = torch.rand(batch, 1, 1, generator=generator, device=device) < config.flip
    flip = torch.where(mirrored, -1.0, 1.0).expand(batch, steps, 1)
    return torch.cat([path, flip], dim=2)


def _draw_speech(batch: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the opening of the mouths and the closing of the eyes, `(B, T)` each.

    At the rate of the frames, the mouth of a speaker is at another place in each.
    """
    device = generator.device
    chosen = torch.rand(2, batch, 1, generator=generator, device=device)
    opening = MOUTH_OPENING * torch.rand(batch, steps, generator=generator, device=device)
    closed = torch.rand(batch, steps, generator=generator, device=device) < BLINK_PROBABILITY
    return opening * (chosen[0] < SPEECH_SHARE), (closed & (chosen[1] < BLINK_SHARE)).float()


def _draw_lighting(batch: int, steps: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Draw `(B, T, 2)`: log contrast and brightness offset."""
    spread = torch.tensor([config.lighting, 0.4 * config.lighting], device=generator.device)
    return _draw_smooth_path(batch, steps, 2, generator) * spread


def _draw_smooth_path(batch: int, steps: int, channels: int, generator: torch.Generator) -> Tensor:
    """Draw `(B, T, C)` of about unit variance: a constant and a slow sinusoid of random phase and speed."""
    device = generator.device
    base = torch.randn(batch, 1, channels, generator=generator, device=device)
    swing = 0.4 * torch.randn(batch, 1, channels, generator=generator, device=device)
    phase = 2 * math.pi * torch.rand(batch, 1, channels, generator=generator, device=device)
    speed = 1.5 * torch.rand(batch, 1, channels, generator=generator, device=device)
    time = torch.arange(steps, device=device).view(1, steps, 1)
    return 0.9 * base + (swing * torch.sin(phase + speed * time) if steps > 1 else 0)
