"""Augmentation of whole batches on the training device: one affine warp, light, erasing and mixup.

A still becomes a sequence by a smooth random path through the same space: the face drifts, turns and comes
nearer as it would in a video, and each moment's crop shakes a little, now and then more, as detected boxes do
(measured against known faces in videos). All randomness comes from the generator that is passed in, on the
device where the generator lives.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fer_batch.config import TrainConfig


def augment_stills(crops: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """`(N, 1, H, W)` grey values in 0–1 to the same: each crop warped, lit and partly erased on its own."""
    count = len(crops)
    crops = warp(crops, _motion(count, 1, config, generator)[:, 0])
    crops = light(crops, _lighting(count, 1, config, generator)[:, 0])
    return erase(crops, generator, config.erasing)


def augment_sequences(crops: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """`(B, T, 1, H, W)` grey values in 0–1 to the same, moving smoothly over T."""
    batch, steps = crops.shape[:2]
    motion = _motion(batch, steps, config, generator)  # (B, T, 5)
    lighting = _lighting(batch, steps, config, generator)  # (B, T, 2)
    flat = warp(crops.flatten(0, 1), motion.flatten(0, 1))
    return light(flat, lighting.flatten(0, 1)).unflatten(0, (batch, steps))


def _motion(batch: int, steps: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """`(B, T, 5)`: turn in radians, log zoom, shift x, shift y (of the half width), and flip (±1, one a
    sequence).
    """
    device = generator.device
    spread = torch.tensor(
        [math.radians(config.rotation_deg), config.zoom, config.shift, config.shift], device=device
    )
    shake = torch.tensor([math.radians(1.5), 0.026, 0.022, 0.022], device=device)
    path = _smooth(batch, steps, 4, generator) * spread
    if steps > 1:
        jolt = torch.rand(batch, steps, 1, generator=generator, device=device) < 0.1
        shaken = torch.randn(batch, steps, 4, generator=generator, device=device) * shake
        path = path + torch.where(jolt, 2.5 * shaken, shaken)
    mirrored = torch.rand(batch, 1, 1, generator=generator, device=device) < config.flip
    flip = torch.where(mirrored, -1.0, 1.0).expand(batch, steps, 1)
    return torch.cat([path, flip], dim=2)


def _lighting(batch: int, steps: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """`(B, T, 2)`: log contrast and brightness offset."""
    spread = torch.tensor([config.lighting, 0.4 * config.lighting], device=generator.device)
    return _smooth(batch, steps, 2, generator) * spread


def _smooth(batch: int, steps: int, channels: int, generator: torch.Generator) -> Tensor:
    """`(B, T, C)` of about unit variance: a constant and a slow sinusoid of random phase and speed."""
    device = generator.device
    base = torch.randn(batch, 1, channels, generator=generator, device=device)
    swing = 0.4 * torch.randn(batch, 1, channels, generator=generator, device=device)
    phase = 2 * math.pi * torch.rand(batch, 1, channels, generator=generator, device=device)
    speed = 1.5 * torch.rand(batch, 1, channels, generator=generator, device=device)
    time = torch.arange(steps, device=device).view(1, steps, 1)
    return 0.9 * base + (swing * torch.sin(phase + speed * time) if steps > 1 else 0)


def warp(crops: Tensor, motion: Tensor) -> Tensor:
    """`(N, 1, H, W)` by `(N, 5)` (turn, log zoom, shift x, shift y, flip), bilinear, edges reflected."""
    if not len(crops):
        return crops
    turn, zoom, dx, dy, flip = motion.unbind(1)
    scale = torch.exp(-zoom)
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    rows = [torch.stack([cos * flip, -sin, dx], 1), torch.stack([sin * flip, cos, dy], 1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(crops.device), list(crops.shape), align_corners=False)
    return F.grid_sample(crops, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def light(crops: Tensor, lighting: Tensor) -> Tensor:
    """`(N, 1, H, W)` by `(N, 2)` (log contrast about the crop's mean, brightness offset), clipped to 0–1."""
    contrast, offset = lighting.to(crops.device).view(-1, 2, 1, 1, 1).unbind(1)
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    return ((crops - mean) * torch.exp(contrast) + mean + offset).clamp(0, 1)


def erase(crops: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """A rectangle of up to a third of each side filled with noise, in `share` of the crops.

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


def mixup(crops: Tensor, targets: Tensor, alpha: float, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """`(N, 1, H, W)` crops and `(N, C)` targets, each blended with another of the batch by one share drawn
    from Beta(α, α); unchanged with α = 0.

    After Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (arXiv:1710.09412).
    """
    if not alpha or not len(crops):
        return crops, targets
    share = float(random.beta(alpha, alpha))
    other = torch.from_numpy(random.permutation(len(crops))).to(crops.device)
    return share * crops + (1 - share) * crops[other], share * targets + (1 - share) * targets[other]
