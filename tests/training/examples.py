"""Small clips, configurations and epochs for the tests of training."""

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from fer_batch.data.clips import Clips
from fer_batch.train_config import TrainConfig
from fer_batch.training.loop import WorkerContext
from fer_batch.training.state import EpochResult
from fer_batch.training.status import StatusCallback
from tests.clips import make_clips

CPU = WorkerContext(device=torch.device("cpu"))
CLASSES = ("a", "b", "c")
SMALL_NETWORK: dict[str, Any] = {
    "filters": (8, 8),
    "depths": (1, 1),
    "fold": 2,
    "window_length": 3,
    "batch_size": 8,
}
SMALL_RECIPE: dict[str, Any] = {
    "epochs": 3,
    "sequence_epochs": 1,
    "batch_size": 16,
    "filters": [8, 8],
    "depths": [1, 1],
    "fold": 2,
}
"""Settings that `write_recipe` can write."""


@contextlib.contextmanager
def connect_cluster(**head: int) -> Iterator[Cluster]:
    """Start a cluster whose first node has these resources, and connect this process to it."""
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def make_config(**changes: Any) -> TrainConfig:
    settings = SMALL_NETWORK | {"epochs": 1, "sequence_epochs": 1} | changes
    return TrainConfig(data=(("folder", "faces"),), **settings)


def make_bars(labels: list[int], *, frames: int = 1, votes: bool = False, seed: int = 0) -> Clips:
    """Make clips of noise with a bright bar; the height of the bar shows the class."""
    random = np.random.default_rng(seed)
    count = len(labels)
    images = random.integers(0, 60, (count * frames, 48, 48)).astype(np.uint8)
    for number, label in enumerate(np.repeat(np.array(labels, np.int64), frames)):
        images[number, 14 * label + 2 : 14 * label + 12, 6:42] = 220
    shares = np.eye(3, dtype=np.float32)[labels] * 0.8 + 0.2 / 3 if votes and count else None
    return make_clips(images, [frames] * count, classes=CLASSES, labels=labels, votes=shares)


def make_epoch(epoch: int, accuracy: float, **changes: Any) -> EpochResult:
    """Make the result of an epoch of two seconds; its macro-F1 is half of the accuracy."""
    values = {"loss": 1.0, "train_accuracy": accuracy, "lr": 0.1, "select_loss": 1.0, "n": 4, "seconds": 2.0}
    values |= {"epoch": epoch, "phase": "stills", "accuracy": accuracy, "macro_f1": accuracy / 2}
    return EpochResult(**values | changes)


def make_history(*accuracies: float) -> list[EpochResult]:
    return [make_epoch(number, accuracy) for number, accuracy in enumerate(accuracies, 1)]


def find_differences(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """List the weights that differ."""
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def write_bars_csv(path: Path, images: int = 200) -> Path:
    """Write images of noise with a bar as FER2013's CSV; the height of the bar shows the class.

    Every fifth image is PublicTest, and the last image of Training occurs there as well.
    """
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for number in range(images):
            emotion = number % 7
            image = random.integers(0, 120, (48, 48))
            image[6 * emotion : 6 * emotion + 8, 8:40] = 220
            row = [emotion, " ".join(map(str, image.ravel().tolist()))]
            writer.writerow([*row, "Training" if number % 5 else "PublicTest"])
        writer.writerow([*row, "PublicTest"])
    return path


def write_recipe(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    return path


def collect_lines(lines: list[str]) -> StatusCallback:
    """Return a callback that collects the lasting messages."""
    return lambda message: None if message.transient else lines.append(message.text)
