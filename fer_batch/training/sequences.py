"""Labelled clips to training sequences in which expressions hold for a while, and change."""

from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.data.datasets import Clips

CHANGE = 0.12
"""Chance that a moment of a changing sequence begins another expression."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Training windows, T moments each, the same T for all."""

    frames: np.ndarray
    """`(B, T, 48, 48) uint8`."""
    labels: np.ndarray
    """`(B, T) int64`, -1 beyond a window's end."""
    holds: np.ndarray
    """`(B, T) int64`: moments of a window that show the same clip have the same number."""
    moving: np.ndarray
    """`(B, T) bool`: whether that clip has several frames, so that its motion is real."""


def draw_sequences(clips: Clips, chosen: np.ndarray, length: int, generator: torch.Generator) -> Windows:
    """Windows that begin with the clips `chosen` `(B,) int64`, of 1 to `length` moments.

    In six of ten windows other random clips follow at random moments, as expressions, and in edited video
    faces, change. In half of them some moments were dropped, as when a face is lost for a while, and half run
    backwards. A clip of several frames is stretched over the window.
    """
    steps = length
    if torch.rand((), generator=generator) < 0.5:
        steps = 1 + int(torch.randint(length, (), generator=generator))
    batch = len(chosen)
    moment = _moments(batch, steps, generator)  # (B, T)
    span = int(moment.max(initial=0)) + 1
    changing = torch.rand(batch, 1, generator=generator) < 0.6
    change = (torch.rand(batch, span, generator=generator) < CHANGE) & changing
    change[:, :1] = False
    part = np.take_along_axis(np.cumsum(change.numpy(), axis=1), moment, 1)  # (B, T): which clip is on
    others = torch.randint(max(len(clips), 1), (batch, span), generator=generator).numpy()
    others[:, 0] = chosen
    source = others[np.arange(batch)[:, None], part]  # (B, T) clip index
    lengths = np.diff(clips.starts)[source]
    return Windows(
        frames=_frames(clips, source, moment, span),
        labels=clips.labels[source],
        holds=part,
        moving=lengths > 1,
    )


def stretched(clips: Clips, chosen: np.ndarray, length: int) -> np.ndarray:
    """The clips `chosen` `(B,) int64` as windows of `length` moments, `(B, length, 48, 48) uint8`."""
    return _frames(clips, np.asarray(chosen)[:, None], np.arange(length)[None], length)


def _frames(clips: Clips, source: np.ndarray, moment: np.ndarray, span: int) -> np.ndarray:
    """`(B, T, 48, 48)`: what the clips `source`, stretched over `span` moments each, show at a `moment`."""
    lengths = np.diff(clips.starts)[source]
    frame = np.minimum(moment * lengths // span, lengths - 1)
    return clips.frames[clips.starts[source] + frame]


def _moments(batch: int, steps: int, generator: torch.Generator) -> np.ndarray:
    """`(B, T) int64`: which moments of a span, a third longer, each window holds, rising or falling."""
    span = steps + steps // 3
    shuffled = torch.rand(batch, span, generator=generator).argsort(dim=1)[:, :steps].sort(dim=1).values
    whole = torch.arange(steps).expand(batch, steps)
    dropped = torch.rand(batch, 1, generator=generator) < 0.5
    moments = torch.where(dropped, shuffled, whole)
    backwards = torch.rand(batch, 1, generator=generator) < 0.5
    return torch.where(backwards, moments.flip(1), moments).numpy()
