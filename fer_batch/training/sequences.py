"""Training sequences: windows in which expressions last, change quickly or slowly, and return.

They are drawn from labelled clips, mostly of one frame. The times between changes have a log-uniform
distribution, so that short and long expressions are equally frequent per octave.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.data.clips import Clips

HOLD_S = (0.4, 4.0)
"""Shortest and longest duration of an expression, in seconds."""
FADE_S = (0.1, 1.5)
"""Shortest and longest duration of a change, in seconds. A change is not longer than either expression."""
CHANGING_SHARE = 0.6
"""Share of the windows in which expressions change."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A batch of training windows of T frames each."""

    frames: np.ndarray
    """`(B, T, 48, 48) uint8`."""
    labels: np.ndarray
    """`(B, T) int64`, -1 beyond a window's end. In a change, the label of the clip with the larger share."""
    clip_ids: np.ndarray
    """`(B, T) int64`: frames of the same clip have the same number within a window."""
    first_labels: np.ndarray
    """`(B, T) int64`: label of the clip `clip_ids`."""
    next_labels: np.ndarray
    """`(B, T) int64`: label of the next clip, which has the number `clip_ids` + 1."""
    next_shares: np.ndarray
    """`(B, T) float32`, 0 to 1: share of the next clip in the frame, 0 outside a change."""
    moving: np.ndarray
    """`(B, T) bool`: whether the clip has several frames, so that its motion is real."""


def draw_sequences(
    clips: Clips, chosen: np.ndarray, length: int, rate_hz: float, generator: torch.Generator
) -> Windows:
    """Draw windows of 1 to `length` frames that begin with the clips `chosen`, `(B,) int64`.

    In 60 % of the windows other random clips follow, as expressions change, and faces in edited videos. One
    fades into the next. In half of the windows some frames are dropped, as when a face is lost for a while,
    and half are reversed. A clip of several frames is stretched over the window. `rate_hz` is the number of
    frames per second.
    """
    steps = length
    if torch.rand((), generator=generator) < 0.5:
        steps = 1 + int(torch.randint(length, (), generator=generator))
    batch = len(chosen)
    time = _draw_times(batch, steps, generator)  # (B, T)
    span = int(time.max(initial=0)) + 1
    clip_ids, shares, count = _draw_changes(time, span, rate_hz, generator)
    drawn = torch.randint(max(len(clips), 1), (batch, count), generator=generator).numpy()
    drawn[:, 0] = chosen
    rows = np.arange(batch)[:, None]
    source, following = drawn[rows, clip_ids], drawn[rows, np.minimum(clip_ids + 1, count - 1)]
    frames = take_frames(clips, source, time, span)
    fading = shares > 0
    frames[fading] = _blend(
        frames[fading],
        take_frames(clips, following[fading], time[fading], span),
        shares[fading][:, None, None],
    )
    main = np.where(shares > 0.5, following, source)
    return Windows(
        frames=frames,
        labels=clips.labels[main],
        clip_ids=clip_ids,
        first_labels=clips.labels[source],
        next_labels=clips.labels[following],
        next_shares=shares,
        moving=np.diff(clips.starts)[main] > 1,
    )


def stretch_clips(clips: Clips, chosen: np.ndarray, length: int) -> np.ndarray:
    """Stretch the clips `chosen`, `(B,) int64`, to `length` frames: `(B, length, 48, 48) uint8`."""
    return take_frames(clips, np.asarray(chosen)[:, None], np.arange(length)[None], length)


def build_windows(frames: np.ndarray, labels: np.ndarray, *, moving: bool) -> Windows:
    """Build windows of one clip each."""
    return Windows(
        frames=frames,
        labels=labels,
        clip_ids=np.zeros_like(labels),
        first_labels=labels,
        next_labels=labels,
        next_shares=np.zeros(labels.shape, np.float32),
        moving=np.full(labels.shape, moving),
    )


def take_frames(clips: Clips, source: np.ndarray, time: np.ndarray, span: int) -> np.ndarray:
    """Take the frame at each time from clips that are stretched over `span` frames, `(…, 48, 48)`."""
    lengths = np.diff(clips.starts)[source]
    frame = np.minimum(time * lengths // span, lengths - 1)
    return clips.frames[clips.starts[source] + frame]


def _draw_changes(
    time: np.ndarray, span: int, rate_hz: float, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw when the clips of each window change.

    `time` is `(B, T) int64`, from 0 to `span` − 1. Returns the number of the clip, `(B, T) int64`, the share
    of the next clip, `(B, T) float32`, and the number of clips of a window.
    """
    batch = len(time)
    count = math.ceil(span / (HOLD_S[0] * rate_hz)) + 2
    holds = _draw_log_uniform(batch, count, HOLD_S, generator) * rate_hz  # (B, K), in frames
    holds[:, 0] *= torch.rand(batch, generator=generator).numpy()  # the first began before the window
    ends = np.cumsum(holds, axis=1)[:, :-1]  # (B, K − 1)
    changing = torch.rand(batch, 1, generator=generator).numpy() < CHANGING_SHARE
    ends = np.where(changing, ends, np.inf)
    fades = _draw_log_uniform(batch, count - 1, FADE_S, generator) * rate_hz
    fades = np.minimum(fades, np.minimum(holds[:, :-1], holds[:, 1:]))
    progress = (time[:, :, None] - ends[:, None]) / np.maximum(fades, 1e-6)[:, None] + 0.5  # (B, T, K − 1)
    complete = progress >= 1
    shares = np.where(complete, 0, np.clip(progress, 0, 1)).max(axis=2, initial=0)
    return complete.sum(axis=2), shares.astype(np.float32), count


def _draw_log_uniform(
    batch: int, count: int, limits: tuple[float, float], generator: torch.Generator
) -> np.ndarray:
    low, high = (math.log(value) for value in limits)
    return np.exp(low + (high - low) * torch.rand(batch, count, generator=generator).numpy().astype(float))


def _blend(frames: np.ndarray, others: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.rint(frames + shares * (others.astype(np.float32) - frames)).astype(np.uint8)


def _draw_times(batch: int, steps: int, generator: torch.Generator) -> np.ndarray:
    """Draw the times of the frames in a span that is a third longer, rising or falling: `(B, T) int64`."""
    span = steps + steps // 3
    shuffled = torch.rand(batch, span, generator=generator).argsort(dim=1)[:, :steps].sort(dim=1).values
    complete = torch.arange(steps).expand(batch, steps)
    dropped = torch.rand(batch, 1, generator=generator) < 0.5
    times = torch.where(dropped, shuffled, complete)
    reverse = torch.rand(batch, 1, generator=generator) < 0.5
    return torch.where(reverse, times.flip(1), times).numpy()
