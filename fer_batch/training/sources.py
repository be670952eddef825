"""What a run learns from: labelled images in memory, and clips of labelled videos read as they are needed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ray.data
import ray.train

from fer_batch.config import TrainConfig
from fer_batch.errors import ConfigError, InputError
from fer_batch.model.weights import Card, read_card
from fer_batch.training.clips import (
    batch_arrays,
    clips_dataset,
    clips_in_memory,
    extract_clips,
    extracted,
)
from fer_batch.training.datasets import Clips, concatenate, load_datasets, no_clips
from fer_batch.training.loop import Batch, Stream

SHUFFLED = 512
"""Clips among which the order is mixed as they are read."""


def images_of(config: TrainConfig) -> tuple[Clips, dict[str, int]]:
    """All data sets of `config` but its clips, in memory, and counts of what is amiss with them."""
    images = [(name, path) for name, path in config.data if name != "clips"]
    if not images:
        return no_clips(config.classes), {}
    return load_datasets(images, classes=config.classes or None)


def clips_of(config: TrainConfig) -> Path | None:
    """The folder of labelled videos, None where there is none; raises ConfigError where there are several."""
    paths = [Path(path) for name, path in config.data if name == "clips"]
    if len(paths) > 1:
        raise ConfigError("--data clips=… is given more than once; put the videos into one folder of classes")
    if paths and not paths[0].is_dir():
        raise InputError(f"--data clips={paths[0]}: there is no such folder")
    return paths[0] if paths else None


def cut_clips(config: TrainConfig, out: Path, on_video: Callable[[int, int], None]) -> dict[str, int]:
    """Cut the videos of `config`, if any, to clips in `out`; returns counts, as `extract_clips`."""
    videos = clips_of(config)
    if videos is None:
        return {}
    scale = read_card(Path(config.init))[1].crop_scale if config.init else Card.crop_scale
    return extract_clips(
        videos,
        out,
        scale,
        length=config.window_length,
        rate_hz=config.window_rate_hz,
        classes=config.classes or None,
        on_video=on_video,
    )


def in_memory(config: TrainConfig, images: Clips, cut: Path) -> Clips:
    """The images, and of the clips in `cut` those for selection and calibration, with the classes of both."""
    if clips_of(config) is None:
        return images
    counts, named = extracted(cut)
    classes = config.classes or (*images.classes, *sorted(set(named) - set(images.classes)))
    if len(images) and classes != images.classes:
        images = load_datasets([d for d in config.data if d[0] != "clips"], classes=classes)[0]
    parts = [images] if len(images) else [no_clips(classes)]
    parts += [
        clips_in_memory(cut, split, classes) for split in ("select", "calibrate", "test") if split in counts
    ]
    return concatenate(parts)


def stream_of(config: TrainConfig, classes: tuple[str, ...], cut: Path, world: int) -> Stream | None:
    """This worker's share of the clips to train on, None where there are none."""
    if clips_of(config) is None:
        return None
    by_class = extracted(cut)[0].get("train", {})
    counts = np.array([by_class.get(name, 0) for name in classes], np.int64)
    share = int(counts.sum()) // world
    batch = min(config.batch_size, share)
    shard = ray.train.get_dataset_shard("clips")

    def batches(epoch: int) -> Iterator[Batch]:
        for rows in shard.iter_batches(
            batch_size=batch,
            batch_format="numpy",
            drop_last=True,
            local_shuffle_buffer_size=SHUFFLED,
            local_shuffle_seed=config.seed + epoch,
        ):
            frames, lengths, labels = batch_arrays(rows)
            there = np.arange(frames.shape[1])[None] < lengths[:, None]
            yield frames, np.where(there, labels[:, None], -1)

    return Stream(counts=counts, steps=share // batch if batch else 0, batches=batches)


def streamed(config: TrainConfig, classes: tuple[str, ...], cut: Path) -> dict[str, ray.data.Dataset]:
    """The data set that Ray Train deals out; raises InputError where it is not enough for all workers."""
    if clips_of(config) is None:
        return {}
    training = sum(extracted(cut)[0].get("train", {}).values())
    if training < config.workers:
        raise InputError(
            f"--data clips={clips_of(config)} gives {training} clips to train on, fewer than --workers "
            f"{config.workers}: give more videos or fewer workers"
        )
    ray.data.DataContext.get_current().execution_options.preserve_order = True  # a resumed run sees the same
    return {"clips": clips_dataset(cut, "train", classes)}
