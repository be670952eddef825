"""Training sequences, drawn from labelled clips, in which expressions last for a while and change."""

from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.data.clips import Clips

CHANGE_PROBABILITY = 0.12
"""Probability, at each frame of a changing sequence, that another clip begins."""
CHANGING_SHARE = 0.6
"""Share of the windows in which expressions change."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A batch of training windows of T frames each."""

    frames: np.ndarray
    """`(B, T, 48, 48) uint8`."""
    labels: np.ndarray
    """`(B, T) int64`, -1 beyond a window's end."""
    clip_ids: np.ndarray
    """`(B, T) int64`: frames of the same clip have the same number within a window."""
    moving: np.ndarray
    """`(B, T) bool`: whether the clip has several frames, so that its motion is real."""


def draw_sequences(clips: Clips, chosen: np.ndarray, length: int, generator: torch.Generator) -> Windows:
    """Draw windows of 1 to `length` frames that begin with the clips `chosen`, `(B,) int64`.

    In 60 % of the windows other random clips follow at random times, as expressions change, and faces in
    edited videos. In half of the windows some frames are dropped, as when a face is lost for a while, and
    half are reversed. A clip of several frames is stretched over the window.
    """
    steps = length
    if torch.rand((), generator=generator) < 0.5:
        steps = 1 + int(torch.randint(length, (), generator=generator))
    batch = len(chosen)
    time = _draw_times(batch, steps, generator)  # (B, T)
    span = int(time.max(initial=0)) + 1
    changing = torch.rand(batch, 1, generator=generator) < CHANGING_SHARE
    change = (torch.rand(batch, span, generator=generator) < CHANGE_PROBABILITY) & changing
    change[:, :1] = False
    clip_ids = np.take_along_axis(np.cumsum(change.numpy(), axis=1), time, 1)  # (B, T)
    drawn = torch.randint(max(len(clips), 1), (batch, span), generator=generator).numpy()
    drawn[:, 0] = chosen
    source = drawn[np.arange(batch)[:, None], clip_ids]  # (B, T), index of the clip
    lengths = np.diff(clips.starts)[source]
    return Windows(
        frames=_take_frames(clips, source, time, span),
        labels=clips.labels[source],
        clip_ids=clip_ids,
        moving=lengths > 1,
    )


def stretch_clips(clips: Clips, chosen: np.ndarray, length: int) -> np.ndarray:
    """Stretch the clips `chosen`, `(B,) int64`, to `length` frames: `(B, length, 48, 48) uint8`."""
    return _take_frames(clips, np.asarray(chosen)[:, None], np.arange(length)[None], length)


def _take_frames(clips: Clips, source: np.ndarray, time: np.ndarray, span: int) -> np.ndarray:
    """Take the frame at each time from clips that are stretched over `span` frames, `(B, T, 48, 48)`."""
    lengths = np.diff(clips.starts)[source]
    frame = np.minimum(time * lengths // span, lengths - 1)
    return clips.frames[clips.starts[source] + frame]


def _draw_times(batch: int, steps: int, generator: torch.Generator) -> np.ndarray:
    """Draw the times of the frames in a span that is a third longer, rising or falling: `(B, T) int64`."""
    span = steps + steps // 3
    shuffled = torch.rand(batch, span, generator=generator).argsort(dim=1)[:, :steps].sort(dim=1).values
    complete = torch.arange(steps).expand(batch, steps)
    dropped = torch.rand(batch, 1, generator=generator) < 0.5
    times = torch.where(dropped, shuffled, complete)
    reverse = torch.rand(batch, 1, generator=generator) < 0.5
    return torch.where(reverse, times.flip(1), times).numpy()
