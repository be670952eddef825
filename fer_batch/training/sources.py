"""What a run learns from: labelled images in memory, and clips of labelled videos read as they are needed."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ray.data
import ray.train

from fer_batch.config import TrainConfig
from fer_batch.data.datasets import Clips, class_counts, concatenate, load_datasets, no_clips
from fer_batch.data.images import SIZE
from fer_batch.data.labels import canonical
from fer_batch.data.videos import (
    clips_dataset,
    clips_in_memory,
    extract_clips,
    extracted,
    labelled_videos,
)
from fer_batch.errors import ConfigError, InputError
from fer_batch.model.weights import Card, read_card
from fer_batch.training.batches import Batch, Stream

CALIBRATE_LEAST = 50
"""Images below which a temperature would be chance."""
SHUFFLED = 512
"""Clips among which the order is mixed as they are read."""
IN_ORDER = ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True))
"""Clips come as their files are named, whichever is read first, so that a resumed run sees them as it would
have."""


def check_clips(config: TrainConfig) -> None:
    """Look for the labelled videos of `config`, if any, without reading one.

    Raises ConfigError where there are several folders of them or windows too short for a clip, InputError
    where there is no such folder, no video in it, a class that is not asked for, or only one to learn.
    """
    videos = clips_of(config)
    if videos is None:
        return
    if config.window_length < 2:
        raise ConfigError(
            f"--window-length is {config.window_length}; allowed with --data clips=… is an odd number from 3"
        )
    _, classes, _ = labelled_videos(videos, config.classes or None)
    if len(classes) < 2 and len(config.data) == 1:
        raise InputError(
            f"--data clips={videos}: there is only the class {classes[0]}; training takes two or more"
        )


def images_of(config: TrainConfig) -> tuple[Clips, dict[str, int]]:
    """All data sets of `config` but its clips, in memory, and counts of what is amiss with them."""
    images = [(name, path) for name, path in config.data if name != "clips"]
    if not images:
        return no_clips(config.classes), {}
    return load_datasets(images, classes=config.classes or None, leave_out=config.leave_out)


def clips_of(config: TrainConfig) -> Path | None:
    """The folder of labelled videos, None where there is none; raises ConfigError where there are several."""
    paths = [Path(path) for name, path in config.data if name == "clips"]
    if len(paths) > 1:
        raise ConfigError("--data clips=… is given more than once; put the videos into one folder of classes")
    return paths[0] if paths else None


def crop_scale_of(config: TrainConfig) -> float:
    """How much of a face's box the crops show: what the model to start from was trained on."""
    return read_card(Path(config.init))[1].crop_scale if config.init else Card.crop_scale


def cut_clips(config: TrainConfig, out: Path, on_video: Callable[[int, int], None]) -> dict[str, int]:
    """Cut the videos of `config`, if any, to clips in `out`; returns counts, as `extract_clips`."""
    videos = clips_of(config)
    if videos is None:
        return {}
    return extract_clips(
        videos,
        out,
        crop_scale_of(config),
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
        images = images_of(dataclasses.replace(config, classes=classes))[0]
    parts = [images] if len(images) else [no_clips(classes)]
    parts += [clips_in_memory(cut, split, classes) for split in ("select", "calibrate") if split in counts]
    return concatenate(parts)


def training_counts(config: TrainConfig, data: Clips, cut: Path) -> dict[str, int]:
    """How many clips there are to train on, in memory and streamed, of each class that has some."""
    counts = np.bincount(data.labels[data.splits == "train"], minlength=len(data.classes))
    counts += _streamed_counts(config, data.classes, cut)
    return {name: count for name, count in zip(data.classes, counts.tolist(), strict=True) if count}


def stream_of(config: TrainConfig, classes: tuple[str, ...], cut: Path, world: int) -> Stream | None:
    """This worker's share of the clips to train on, None where there are none.

    The clips come in the order of their files, mixed within a buffer by the seed and the epoch. With one
    worker, on as many CPUs, that order is the same however often the run is killed and resumed. Among these
    clips "balanced-sampling" does not choose: each comes once an epoch, as a still one random moment of it.
    """
    if clips_of(config) is None:
        return None
    counts = _streamed_counts(config, classes, cut)
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

    return Stream(counts=counts, steps=share // batch, batches=batches)


def batch_arrays(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of `SHARD`, from `iter_batches(batch_format="numpy")`, as arrays.

    Returns frames `(B, T, 48, 48) uint8`, T the most steps of a clip in it and shorter ones filled up with
    0; lengths `(B,) int64`, from 2; and labels `(B,) int64`.
    """
    lengths = batch["steps"].astype(np.int64)
    frames = np.zeros((len(lengths), lengths.max(initial=0), SIZE, SIZE), np.uint8)
    for clip, content, steps in zip(frames, batch["frames"], lengths, strict=True):
        clip[:steps] = np.frombuffer(content, np.uint8).reshape(steps, SIZE, SIZE)
    return frames, lengths, batch["label"].astype(np.int64)


def streamed(config: TrainConfig, data: Clips, cut: Path) -> dict[str, ray.data.Dataset]:
    """The data set that Ray Train deals out, nothing where there are no clips.

    `data` is what stands in memory. Raises InputError where there is not enough to train on and select by.
    """
    videos = clips_of(config)
    if videos is None:
        return {}
    of_classes = training_counts(config, data, cut)
    if len(of_classes) < 2:
        raise InputError(
            f"--data clips={videos} gives clips to train on of only {len(of_classes)} class"
            f"{'' if of_classes else 'es'} ({', '.join(of_classes) or 'none'}); training takes two or more"
        )
    if "select" not in data.splits:
        raise InputError(
            f"--data clips={videos} gives no clips to choose the epoch by: give two or more videos of a "
            "class in which a face is found, or a folder val/ of classes"
        )
    clips = int(_streamed_counts(config, data.classes, cut).sum())
    if clips < config.workers:
        raise InputError(
            f"--data clips={videos} gives {clips} clips to train on, fewer than --workers {config.workers}: "
            "give more videos or fewer workers"
        )
    return {"clips": clips_dataset(cut, "train", data.classes)}


def division(data: Clips, training: dict[str, int]) -> list[str]:
    """What a run has to learn from, in words, and what is missing there."""
    select, calibrate = (int((data.splits == split).sum()) for split in ("select", "calibrate"))
    listed = ", ".join(f"{count} {name}" for name, count in training.items())
    total = sum(training.values())
    stills = total == int((data.splits == "train").sum()) and bool((np.diff(data.starts) == 1).all())
    lines = [
        f"data: {total} {'images' if stills else 'clips'} to train on ({listed}), {select} to choose the "
        f"epoch by, {calibrate} to calibrate by"
        + (
            ""
            if calibrate >= CALIBRATE_LEAST
            else f": fewer than {CALIBRATE_LEAST}, confidences stay as they come"
        )
    ]
    selected = class_counts(data.take(data.splits == "select"))
    for there, purpose in ((training, "train on"), (selected, "choose the epoch by")):
        if absent := [name for name in data.classes if not there.get(name)]:
            lines.append(
                f"data: nothing to {purpose} of the class {', '.join(absent)}: figures of it mean nothing; "
                "give more of it, or --leave-out what is not to be learned"
            )
    return lines


def cpu_share(workers: int) -> float:
    """Of a CPU, for each worker of a run that reads clips: together no more than half of what Ray has, so
    that what reads them finds a place beside them.
    """
    return min(0.5, int(5000 * ray.cluster_resources().get("CPU", 1) / workers) / 10000)


def _streamed_counts(config: TrainConfig, classes: tuple[str, ...], cut: Path) -> np.ndarray:
    """`(C,) int64`, clips to train on that are streamed, by class."""
    of_label = extracted(cut)[0].get("train", {}) if clips_of(config) is not None else {}
    return np.array([of_label.get(canonical(name), 0) for name in classes], np.int64)
