"""The data of a training run: labelled images in memory, and clips of labelled videos from files."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import ray.data
import ray.train

from fer_batch.config import CROP_SIZE_PX
from fer_batch.data.clip_files import count_clips, load_clips, stream_clips
from fer_batch.data.clips import Clips, concatenate_clips, count_classes, empty_clips
from fer_batch.data.datasets import load_datasets
from fer_batch.data.labels import normalize_label
from fer_batch.data.videos import ClipSettings, ExtractionSummary, extract_clips, list_labelled_videos
from fer_batch.errors import ConfigError, InputError
from fer_batch.model.card import Card, read_card
from fer_batch.schema import find_class_problem
from fer_batch.train_config import TrainConfig
from fer_batch.training.batches import ClipStream, StreamedBatch

MIN_CALIBRATION_CLIPS = 50
"""With fewer clips the temperature would depend on chance, so that it stays at 1."""
SHUFFLE_BUFFER_CLIPS = 512
Streams = dict[str, ray.data.Dataset | Callable[[], ray.data.Dataset]]
IN_ORDER = ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True))
"""Clips arrive in the order of their files, so that a resumed run sees the same order."""


def find_video_folder(config: TrainConfig) -> Path | None:
    """Return the folder of labelled videos, None without one; raises ConfigError for several."""
    paths = [Path(path) for name, path in config.data if name == "clips"]
    if len(paths) > 1:
        raise ConfigError("--data clips=… is given more than once; put all videos into one folder of classes")
    return paths[0] if paths else None


def list_training_videos(config: TrainConfig) -> set[str]:
    """Return the normalized classes of the videos to train on, without opening them; empty without videos.

    Raises ConfigError for several folders, or windows that are too short for a clip; InputError if the folder
    or its videos do not exist, or their classes cannot be trained.
    """
    videos = find_video_folder(config)
    if videos is None:
        return set()
    if config.window_length < 2:
        raise ConfigError(
            f"--window-length must be an odd number from 3 with --data clips=…, got {config.window_length}"
        )
    files, classes, _ = list_labelled_videos(videos, config.classes or None)
    if len(classes) < 2 and len(config.data) == 1:
        raise InputError(
            f"--data clips={videos}: training needs two or more classes, found only {classes[0]}"
        )
    return {normalize_label(file.label) for file in files if file.split in ("", "train")}


def load_images(config: TrainConfig) -> tuple[Clips, Counter[str]]:
    """Load all data sets but the videos, and count their problems as `load_datasets` does."""
    images = [(name, path) for name, path in config.data if name != "clips"]
    if not images:
        return empty_clips(config.classes), Counter()
    return load_datasets(images, classes=config.classes or None, leave_out=config.leave_out)


def check_examples(config: TrainConfig, images: Clips, video_classes: Collection[str] = ()) -> None:
    """Raise InputError unless there are examples to train on and to select by.

    Each worker needs an image, if there are images at all. Each class that `config` names needs examples to
    train on: images, or videos of `video_classes`. So does each class of the head to ship. The splits of
    videos are checked when their clips are known. The classes must be allowed in a card.
    """
    classes = config.classes or (*images.classes, *sorted(set(video_classes) - set(images.classes)))
    if problem := find_class_problem(classes):
        raise InputError(f"the classes of the data {problem}; rename them, or give others with --classes")
    for split in ("train", "select"):
        if split not in images.splits and find_video_folder(config) is None:
            raise InputError(
                f"the data has no images of the split {split!r}, only of "
                f"{', '.join(sorted(set(images.splits.tolist())))}; give more images"
            )
    count = int((images.splits == "train").sum())
    if 0 < count < config.workers:
        raise InputError(
            f"the data has {count} training images, fewer than --workers {config.workers}: give fewer workers"
        )
    present = count_classes(images.take(images.splits == "train"))
    absent = [c for c in config.classes if c not in present and normalize_label(c) not in video_classes]
    if absent:
        raise InputError(
            f"the data has no training examples of {', '.join(absent)}, but the classes are "
            f"{', '.join(config.classes)}; add examples, or give other classes with --classes"
        )
    for name in config.head_names[:1]:
        known = count_classes(images.take((images.splits == "train") & (images.datasets == name)))
        of_videos = video_classes if name == "clips" else ()
        if absent := [c for c in classes if c not in known and normalize_label(c) not in of_videos]:
            raise InputError(
                f"the data set {name} has no training examples of {', '.join(absent)}, which its head must "
                "know to be shipped; give another --ship-head, or leave the classes out with --leave-out"
            )


def extract_video_clips(
    config: TrainConfig, out: Path, on_video: Callable[[int, int], None]
) -> ExtractionSummary:
    """Cut the videos of `config`, if any, into clips in `out`."""
    videos = find_video_folder(config)
    if videos is None:
        return ExtractionSummary()
    settings = ClipSettings(
        crop_scale=read_crop_scale(config), length=config.window_length, rate_hz=config.window_rate_hz
    )
    return extract_clips(videos, out, settings, classes=config.classes or None, on_video=on_video)


def read_crop_scale(config: TrainConfig) -> float:
    """Return the side of a crop, relative to the face box, that the initial model was trained on."""
    return read_card(Path(config.init))[1].crop_scale if config.init else Card.crop_scale


def load_in_memory(config: TrainConfig, images: Clips, clip_folder: Path) -> Clips:
    """Combine the images with the clips for selection and calibration, over the classes of both."""
    if find_video_folder(config) is None:
        return images
    counts, extracted_classes = count_clips(clip_folder)
    classes = config.classes or (*images.classes, *sorted(set(extracted_classes) - set(images.classes)))
    if len(images) and classes != images.classes:
        images = load_images(dataclasses.replace(config, classes=classes))[0]
    held_out = [split for split in ("select", "calibrate") if split in counts]
    return concatenate_clips(
        [
            images if len(images) else empty_clips(classes),
            *(load_clips(clip_folder, split, classes) for split in held_out),
        ]
    )


def count_training_clips(config: TrainConfig, data: Clips, clip_folder: Path) -> dict[str, int]:
    """Count the training clips of each class, in memory and streamed; empty classes are left out."""
    counts = np.bincount(data.labels[data.splits == "train"], minlength=len(data.classes))
    counts += count_streamed_clips(config, data.classes, clip_folder)
    return {name: count for name, count in zip(data.classes, counts.tolist(), strict=True) if count}


def build_streams(config: TrainConfig, data: Clips, clip_folder: Path) -> Streams:
    """Build the streams that Ray Train splits among the workers; empty without videos.

    `data` is the data in memory. Raises InputError if there are too few clips to train on or to select by.
    """
    videos = find_video_folder(config)
    if videos is None:
        return {}
    option = f"--data clips={videos}"
    classes = count_training_clips(config, data, clip_folder)
    if len(classes) < 2:
        raise InputError(
            f"{option}: training needs clips of two or more classes, found {', '.join(classes) or 'none'}"
        )
    if "select" not in data.splits:
        raise InputError(
            f"{option}: there are no clips for selection; give two or more videos with faces for each class, "
            "or a folder val/ of classes"
        )
    clips = int(count_streamed_clips(config, data.classes, clip_folder).sum())
    if clips < config.workers:
        raise InputError(
            f"{option}: {clips} training clips are fewer than --workers {config.workers}; "
            "give more videos or fewer workers"
        )
    return {"clips": stream_clips(clip_folder, "train", data.classes)}


def open_stream(config: TrainConfig, counts: np.ndarray, world: int) -> ClipStream | None:
    """Open this worker's share of the streamed training clips; returns None without videos.

    `counts` is `(C,) int64`, the streamed clips of each class.

    The clips arrive in the order of their files, shuffled within a buffer by the seed and the epoch. With one
    worker on the same number of CPUs, a resumed run sees the same order. "balanced-sampling" does not apply
    to these clips: each occurs once in an epoch, and as a still with one random frame.
    """
    if find_video_folder(config) is None:
        return None
    share = int(counts.sum()) // world
    batch = min(config.batch_size, share)
    shard = ray.train.get_dataset_shard("clips")

    def read_epoch(epoch: int) -> Iterator[StreamedBatch]:
        for rows in shard.iter_batches(
            batch_size=batch,
            batch_format="numpy",
            drop_last=True,
            local_shuffle_buffer_size=SHUFFLE_BUFFER_CLIPS,
            local_shuffle_seed=config.seed + epoch,
        ):
            yield decode_batch(rows)

    return ClipStream(counts=counts, steps=share // batch, read_epoch=read_epoch)


def decode_batch(rows: dict[str, np.ndarray]) -> StreamedBatch:
    """Decode rows of `TRAINING_SCHEMA`, as `iter_batches(batch_format="numpy")` returns them.

    T is the length of the longest clip. Shorter clips are padded with frames of 0 and labels of -1.
    """
    lengths = rows["steps"].astype(np.int64)
    frames = np.zeros((len(lengths), lengths.max(initial=0), CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)
    for clip, content, steps in zip(frames, rows["frames"], lengths, strict=True):
        clip[:steps] = np.frombuffer(content, np.uint8).reshape(steps, CROP_SIZE_PX, CROP_SIZE_PX)
    known = np.arange(frames.shape[1])[None] < lengths[:, None]
    return frames, np.where(known, rows["label"].astype(np.int64)[:, None], -1)


def describe_data(data: Clips, training: dict[str, int]) -> list[str]:
    """Describe the splits of a run in lines of text, with a warning for each that is too small."""
    select, calibrate = (int((data.splits == split).sum()) for split in ("select", "calibrate"))
    total = sum(training.values())
    stills = total == int((data.splits == "train").sum()) and bool((np.diff(data.starts) == 1).all())
    classes = ", ".join(f"{count} {name}" for name, count in training.items())
    lines = [
        f"data: {total} training {'images' if stills else 'clips'} ({classes}), {select} for selection, "
        f"{calibrate} for calibration"
    ]
    if calibrate < MIN_CALIBRATION_CLIPS:
        lines[0] += f": fewer than {MIN_CALIBRATION_CLIPS}, so that confidences are not calibrated"
    selection = count_classes(data.take(data.splits == "select"))
    for counts, purpose in ((training, "training"), (selection, "selection")):
        if absent := [name for name in data.classes if not counts.get(name)]:
            lines.append(
                f"data: warning: no {purpose} examples of {', '.join(absent)}, so that the metrics of this "
                "class mean nothing; add examples, or leave the class out with --leave-out"
            )
    return lines


def describe_counts(counts: Counter[str]) -> list[str]:
    """Describe the problems that `load_datasets` and `extract_clips` count, one line each."""
    return [f"data: {count} {name.replace('_', ' ')}" for name, count in sorted(counts.items())]


def choose_worker_cpus(workers: int) -> float:
    """Choose the CPUs of each worker of a run that streams clips.

    All workers together get at most half of the cluster's CPUs, which leaves room for the readers.
    """
    return min(0.5, int(5000 * ray.cluster_resources().get("CPU", 1) / workers) / 10000)


def count_streamed_clips(config: TrainConfig, classes: tuple[str, ...], clip_folder: Path) -> np.ndarray:
    """Count the streamed training clips of each class, `(C,) int64`; zeros without videos."""
    counts = {} if find_video_folder(config) is None else count_clips(clip_folder)[0].get("train", {})
    return np.array([counts.get(normalize_label(name), 0) for name in classes], np.int64)
