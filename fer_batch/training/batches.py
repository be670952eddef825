"""The batches of a phase of training: from memory, and between them from a stream."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fer_batch.config import TrainConfig
from fer_batch.data.datasets import Clips
from fer_batch.training.imbalance import draw_order
from fer_batch.training.sequences import Windows, draw_sequences, stretched

Batch = tuple[np.ndarray, np.ndarray]
"""Frames `(B, T, 48, 48) uint8` and labels `(B, T) int64`, -1 beyond a clip's end."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Clips that are read as they are needed, beside those in memory."""

    counts: np.ndarray
    """`(C,) int64`, clips a class, over all workers."""
    steps: int
    """Batches an epoch gives each worker."""
    batches: Callable[[int], Iterator[Batch]]
    """This worker's batches of an epoch, in an order of its own."""


class Feed:
    """One worker's batches: of "stills", every frame on its own, of "sequences", every clip as a moving
    window, or of "clips", every clip as it is.
    """

    def __init__(
        self, config: TrainConfig, training: Clips, stream: Stream | None, phase: str, rank: int, world: int
    ) -> None:
        self.config, self.training, self.stream = config, training, stream
        self.rank, self.world = rank, world
        self.phase = phase
        lengths = np.diff(training.starts) if phase == "stills" else np.ones(len(training), np.int64)
        self.labels = np.repeat(training.labels, lengths)
        self.votes = np.repeat(training.votes, lengths, axis=0)
        self.in_memory = max(1, len(self.labels) // world // config.batch_size) if len(self.labels) else 0
        self.steps = self.in_memory + (stream.steps if stream else 0)
        counts = np.bincount(self.labels, minlength=len(training.classes))
        self.counts = counts + stream.counts if stream else counts

    def epoch(self, epoch: int, generator: torch.Generator) -> Iterator[tuple[Windows, np.ndarray]]:
        """Windows, of one moment for stills, with the annotators' votes `(B, C) float32`."""
        config, classes = self.config, len(self.training.classes)
        random = np.random.default_rng([config.seed, epoch])
        order = draw_order(self.labels, classes, config.imbalance, random)[self.rank :: self.world]
        streamed = random.permutation(self.steps) >= self.in_memory
        from_stream = self.stream.batches(epoch) if self.stream else iter(())
        first = 0
        for is_streamed in streamed:
            if is_streamed:
                frames, labels = next(from_stream)  # as many as `stream.steps` says
                if self.phase == "stills":
                    there = (labels >= 0).sum(axis=1)
                    moment = (torch.rand(len(labels), generator=generator).numpy() * there).astype(np.int64)
                    rows = np.arange(len(labels))
                    frames, labels = frames[rows, moment][:, None], labels[rows, moment][:, None]
                yield _windows(frames, labels, moving=True), np.zeros((len(labels), classes), np.float32)
                continue
            chosen = order[first : first + config.batch_size]
            first += config.batch_size
            if self.phase == "sequences":
                windows = draw_sequences(self.training, chosen, config.window_length, generator)
            elif self.phase == "clips":
                frames = stretched(self.training, chosen, config.window_length)
                labels = np.repeat(self.labels[chosen][:, None], config.window_length, axis=1)
                windows = _windows(frames, labels, moving=True)
            else:
                frames, labels = self.training.frames[chosen][:, None], self.labels[chosen][:, None]
                windows = _windows(frames, labels, moving=False)
            yield windows, self.votes[chosen]


def _windows(frames: np.ndarray, labels: np.ndarray, *, moving: bool) -> Windows:
    return Windows(
        frames=frames, labels=labels, holds=np.zeros_like(labels), moving=np.full(labels.shape, moving)
    )
