"""The batches of a training phase, from clips in memory and from a stream of clips.

Training sequences are drawn from labelled clips, so that expressions last for a while and change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.config import TrainConfig
from fer_batch.data.clips import Clips
from fer_batch.training.imbalance import draw_epoch_order

CHANGE_PROBABILITY = 0.12
"""Probability, at each frame of a changing sequence, that another clip begins."""
CHANGING_SHARE = 0.6
"""Share of the windows in which expressions change."""
StreamedBatch = tuple[np.ndarray, np.ndarray]
"""Frames `(B, T, 48, 48) uint8` and labels `(B, T) int64`, -1 beyond a clip's end."""


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


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Facts about the examples of a batch besides their labels."""

    heads: np.ndarray
    """`(B,) int64`: index of the head that learns from the example, in `TrainConfig.head_names`; 0 with a
    shared head."""
    votes: np.ndarray
    """`(B, C) float32`: share of annotators that chose each class. Rows sum to 1, or to 0 without votes."""
    taught: np.ndarray | None = None
    """`(B, C) float32`: mean probabilities of the teachers; None without teachers."""

    def take(self, chosen: np.ndarray) -> "Annotations":
        """Return the annotations of the examples at the indices `chosen`."""
        taught = None if self.taught is None else self.taught[chosen]
        return Annotations(heads=self.heads[chosen], votes=self.votes[chosen], taught=taught)


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """Clips that are read during the epoch, in addition to those in memory."""

    counts: np.ndarray
    """`(C,) int64`, clips of each class, over all workers."""
    steps: int
    """Batches of an epoch for each worker."""
    read_epoch: Callable[[int], Iterator[StreamedBatch]]
    """Reads the batches of an epoch for this worker, in an order that depends on the epoch."""


class BatchSource:
    """One worker's batches of a phase.

    In the phase "stills" each frame is an example, in "sequences" each clip is a moving window, and in
    "clips" each clip is an example. `taught` is `(M, C) float32`: the teachers' predictions for the stills.
    `counts` is `(H, C) int64`: examples of each head and class.
    """

    def __init__(
        self,
        config: TrainConfig,
        training: Clips,
        stream: ClipStream | None,
        phase: str,
        rank: int,
        world: int,
        taught: np.ndarray | None = None,
    ) -> None:
        self.config, self.training, self.stream = config, training, stream
        self.phase, self.rank, self.world = phase, rank, world
        lengths = np.diff(training.starts) if phase == "stills" else np.ones(len(training), np.int64)
        self.labels = np.repeat(training.labels, lengths)
        datasets = np.repeat(training.datasets, lengths)
        self.annotations = Annotations(
            heads=self._number_heads(datasets),
            votes=np.repeat(training.votes, lengths, axis=0),
            taught=taught,
        )
        self.steps_in_memory = (
            max(1, len(self.labels) // world // config.batch_size) if len(self.labels) else 0
        )
        self.steps = self.steps_in_memory + (stream.steps if stream else 0)
        self.counts = np.zeros((max(len(config.head_names), 1), len(training.classes)), np.int64)
        np.add.at(self.counts, (self.annotations.heads, self.labels), 1)
        if stream:
            self.counts[self._number_heads(np.array(["clips"]))[0]] += stream.counts

    def draw_epoch(self, epoch: int, generator: torch.Generator) -> Iterator[tuple[Windows, Annotations]]:
        """Draw the batches of an epoch, counted from 0.

        Windows of stills have one frame. Batches of both sources alternate at random.
        """
        config, classes = self.config, len(self.training.classes)
        random = np.random.default_rng([config.seed, epoch])
        order = draw_epoch_order(self.labels, classes, config.imbalance, random)
        # All workers get the same number of examples: each gradient has the same weight in the average.
        order = order[: len(order) // self.world * self.world][self.rank :: self.world]
        is_streamed = random.permutation(self.steps) >= self.steps_in_memory
        streamed = self.stream.read_epoch(epoch) if self.stream else iter(())
        first = 0
        for from_stream in is_streamed:
            if from_stream:
                frames, labels = next(streamed)
                yield (
                    self._draw_streamed(frames, labels, generator),
                    Annotations(
                        heads=self._number_heads(np.full(len(labels), "clips")),
                        votes=np.zeros((len(labels), classes), np.float32),
                    ),
                )
            else:
                chosen = order[first : first + config.batch_size]
                first += config.batch_size
                yield self._draw_in_memory(chosen, generator), self.annotations.take(chosen)

    def _number_heads(self, datasets: np.ndarray) -> np.ndarray:
        """Return the index of the head, `(N,) int64`, of each name in `datasets`."""
        numbers = {name: number for number, name in enumerate(self.config.head_names)}
        return np.array([numbers[name] if numbers else 0 for name in datasets.tolist()], np.int64)

    def _draw_streamed(self, frames: np.ndarray, labels: np.ndarray, generator: torch.Generator) -> Windows:
        if self.phase == "stills":
            lengths = (labels >= 0).sum(axis=1)
            frame = (torch.rand(len(labels), generator=generator).numpy() * lengths).astype(np.int64)
            rows = np.arange(len(labels))
            frames, labels = frames[rows, frame][:, None], labels[rows, frame][:, None]
        return _build_windows(frames, labels, moving=True)

    def _draw_in_memory(self, chosen: np.ndarray, generator: torch.Generator) -> Windows:
        length = self.config.window_length
        if self.phase == "sequences":
            return draw_sequences(self.training, chosen, length, generator)
        labels = self.labels[chosen][:, None]
        if self.phase == "clips":
            frames = stretch_clips(self.training, chosen, length)
            return _build_windows(frames, np.repeat(labels, length, axis=1), moving=True)
        return _build_windows(self.training.frames[chosen][:, None], labels, moving=False)


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


def _build_windows(frames: np.ndarray, labels: np.ndarray, *, moving: bool) -> Windows:
    return Windows(
        frames=frames, labels=labels, clip_ids=np.zeros_like(labels), moving=np.full(labels.shape, moving)
    )


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
