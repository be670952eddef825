"""The batches of a training phase, from clips in memory and from a stream of clips."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.data.clips import Clips
from fer_batch.train_config import TrainConfig
from fer_batch.training.imbalance import draw_epoch_order
from fer_batch.training.sequences import Windows, build_windows, draw_sequences, stretch_clips

StreamedBatch = tuple[np.ndarray, np.ndarray]
"""Frames `(B, T, 48, 48) uint8` and labels `(B, T) int64`, -1 beyond a clip's end."""


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
        return build_windows(frames, labels, moving=True)

    def _draw_in_memory(self, chosen: np.ndarray, generator: torch.Generator) -> Windows:
        length = self.config.window_length
        if self.phase == "sequences":
            return draw_sequences(self.training, chosen, length, self.config.window_rate_hz, generator)
        labels = self.labels[chosen][:, None]
        if self.phase == "clips":
            frames = stretch_clips(self.training, chosen, length)
            return build_windows(frames, np.repeat(labels, length, axis=1), moving=True)
        return build_windows(self.training.frames[chosen][:, None], labels, moving=False)
