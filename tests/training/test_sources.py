"""Training on labelled videos, alone and with images; continuing killed runs; unusable videos."""

import dataclasses
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fer_batch.cli.main import main
from fer_batch.data.clip_files import VideoClips, count_clips, write_index
from fer_batch.data.clips import empty_clips
from fer_batch.errors import ConfigError, InputError
from fer_batch.model.weights import load_checkpoint
from fer_batch.runtime import ray_session
from fer_batch.storage.atomic import write_json
from fer_batch.train_config import TrainConfig
from fer_batch.training.export import TrainSummary
from fer_batch.training.run import train
from fer_batch.training.sources import (
    build_streams,
    check_examples,
    count_training_clips,
    describe_data,
    list_training_videos,
)
from tests.clips import make_clips
from tests.conftest import write_video
from tests.training.examples import collect_lines, make_bars
from tests.training.processes import find_children, wait_for

CLASSES = ("serious", "smiling")
VideoRun = tuple[Path, TrainSummary, list[str]]
IMAGES = 12
"""Training images of each of two classes."""


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def videos(sample_frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four videos of two seconds, two of each class, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for number, label in enumerate(CLASSES * 2):
        (folder / label).mkdir(exist_ok=True)
        write_video(folder / label / f"{number}.mp4", sample_frames[50 * number : 50 * number + 50])
    (folder / "serious" / "broken.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of images of two classes; the videos have one of them as well."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 2)):
        for row, label in enumerate(("happy", "serious")):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 140, (48, 48), np.uint8)
                image[20 * row : 20 * row + 9] = 220
                Image.fromarray(image).save(folder / split / label / f"{number}.png")
    return folder


def make_config(*data: tuple[str, Path], **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"epochs": 1, "sequence_epochs": 1, "batch_size": 4, "window_length": 5}
    tiny = {"filters": (4, 4), "depths": (1, 1)}
    return TrainConfig(data=tuple((n, str(p)) for n, p in data), **settings | tiny | changes)


def prepare_run(out: Path, config: TrainConfig, clips: Path) -> Path:
    """Make the folder of a run that was stopped after the extraction of its clips."""
    out.mkdir()
    shutil.copytree(clips, out / "clips")
    write_json(out / "train.json", config.to_dict())
    return out


@pytest.fixture(scope="module")
def alone(_ray: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoRun:
    """Train on the videos; return the folder of the run, its summary and its lines."""
    out, lines = tmp_path_factory.mktemp("runs") / "alone", []
    return out, train(make_config(("clips", videos)), out, on_progress=collect_lines(lines)), lines


@pytest.mark.slow
def test_a_model_is_trained_on_videos_alone(alone: VideoRun) -> None:
    out, summary, lines = alone
    counts, _ = count_clips(out / "clips")
    assert set(counts) == {"train", "select"}
    assert summary.train_clips == dict(sorted(counts["train"].items()))
    assert summary.select_clips == counts["select"]
    assert set(summary.train_clips) == set(CLASSES)
    assert summary.calibrate_clips == {}
    assert summary.left_out == {"failed": 1}
    assert summary.n == sum(counts["select"].values())
    text = "\n".join(lines)
    total, selected = sum(counts["train"].values()), sum(counts["select"].values())
    assert f"data: {total} training clips (" in text
    assert f"{selected} for selection, 0 for calibration: fewer than 50, so that confidences" in text
    assert "data: 1 failed" in text
    assert f"data: {total + selected} clips of " in text
    card = load_checkpoint(out / "model.safetensors")[1]
    assert (card.classes, card.temperature, card.window_length) == (CLASSES, 1.0, 5)


@pytest.mark.slow
def test_a_run_with_a_killed_worker_ends_with_the_same_weights(
    alone: VideoRun, videos: Path, tmp_path: Path
) -> None:
    config = make_config(("clips", videos))
    out = prepare_run(tmp_path / "killed", config, alone[0] / "clips")
    before = {f: f.stat().st_mtime_ns for f in (out / "clips" / "videos").iterdir()}
    killed: list[int] = []
    watch = threading.Thread(target=kill_workers_after_an_epoch, args=(out, killed), daemon=True)
    watch.start()
    train(config, out)
    watch.join(10)
    assert killed
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (alone[0], out))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    assert {f: f.stat().st_mtime_ns for f in (out / "clips" / "videos").iterdir()} == before


def kill_workers_after_an_epoch(out: Path, killed: list[int]) -> None:
    """Kill the training workers below this process after the first epoch of a run."""
    wait_for((out / "history.json").exists)
    for worker in find_children("RayTrainWorker"):
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)


@pytest.mark.slow
def test_two_workers_train_on_images_and_videos_of_different_classes(
    alone: VideoRun, videos: Path, images: Path, tmp_path: Path
) -> None:
    config = make_config(("folder", images), ("clips", videos), workers=2, batch_size=2)
    out = prepare_run(tmp_path / "mixed", config, alone[0] / "clips")
    summary = train(config, out)
    clips = alone[1].train_clips
    assert load_checkpoint(out / "model.safetensors")[1].classes == ("happy", *CLASSES)
    assert summary.train_clips == {
        "happy": IMAGES - summary.calibrate_clips.get("happy", 0),
        "serious": IMAGES + clips["serious"] - summary.calibrate_clips.get("serious", 0),
        "smiling": clips["smiling"],
    }
    assert sum(summary.select_clips.values()) == 4 + alone[1].n


def write_clip_counts(folder: Path, **labels: dict[str, int]) -> Path:
    """Write the index of an extraction with these numbers of clips, by split and class."""
    videos = [
        VideoClips(
            video=f"{split}/{label}", label=label, split=split, windows=count, file="x.parquet", content=""
        )
        for split, counts in labels.items()
        for label, count in counts.items()
    ]
    write_index(folder, {}, sorted({video.label for video in videos}), videos)
    return folder


@pytest.mark.parametrize(
    ("training", "select", "workers", "message"),
    [
        ({}, True, 1, "clips of two or more classes, found none"),
        ({"a": 3}, True, 1, "clips of two or more classes, found a"),
        ({"a": 3, "b": 1}, False, 1, "there are no clips for selection; give two or more videos"),
        ({"a": 3, "b": 1}, True, 5, "4 training clips are fewer than --workers 5; give more videos or fewer"),
    ],
)
def test_too_few_clips_are_refused(
    tmp_path: Path, training: dict[str, int], select: bool, workers: int, message: str
) -> None:
    config = make_config(("clips", tmp_path), workers=workers)
    clip_folder = write_clip_counts(tmp_path, train=training, calibrate={"a": 1})
    held = make_clips(np.zeros((1, 48, 48), np.uint8), [1], classes="ab", split="select")
    with pytest.raises(InputError, match=message) as caught:
        build_streams(config, held if select else held.take(np.array([], int)), clip_folder)
    assert str(caught.value).startswith(f"--data clips={tmp_path}: ")


def test_clips_are_counted_by_the_class_names_of_the_configuration(tmp_path: Path) -> None:
    config = make_config(("clips", tmp_path), classes=("Happiness", "bored", "sad"))
    clip_folder = write_clip_counts(tmp_path, train={"happy": 3, "bored": 2}, select={"happy": 1})
    counts = count_training_clips(config, empty_clips(config.classes), clip_folder)
    assert counts == {"Happiness": 3, "bored": 2}
    splits, *warnings = describe_data(empty_clips(config.classes), counts)
    assert splits.startswith(
        "data: 5 training clips (3 Happiness, 2 bored), 0 for selection, 0 for calibration: fewer"
    )
    assert warnings[0].startswith("data: warning: no training examples of sad, ")
    assert warnings[1].startswith("data: warning: no selection examples of Happiness, bored, sad, ")
    assert all("--leave-out" in line for line in warnings)


@pytest.mark.parametrize(
    ("frames", "streamed_clips", "noun"),
    [([1, 1], 0, "images"), ([1, 3], 0, "clips"), ([1, 1], 2, "clips")],
)
def test_training_examples_are_called_images_or_clips(
    frames: list[int], streamed_clips: int, noun: str
) -> None:
    data = make_clips(np.zeros((sum(frames), 48, 48), np.uint8), frames, classes="ab", labels=[0, 1])
    training = {"a": 1 + streamed_clips, "b": 1}
    assert describe_data(data, training)[0].startswith(f"data: {2 + streamed_clips} training {noun} (")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (None, [], "clips=videos: there is no such file or folder"),
        ([], [], "no files like"),
        (["happy/notes.txt"], [], "no files like"),
        (["a.mp4"], [], "and 1 outside them"),
        (["happy/a.mp4"], [], "training needs two or more classes, found only happy"),
        (["happy/a.mp4", "sad/b.mp4"], ["--data", "clips=videos"], "given more than once"),
        (["happy/a.mp4", "dull/b.mp4", "odd/c.mp4"], ["--classes", "happy", "sad"], "dull, odd; allowed are"),
        (
            ["train/happy/a.mp4", "train/sad/b.mp4", "val/dull/c.mp4"],
            ["--classes", "Happiness", "sad", "dull", "odd"],
            "no training examples of dull, odd, but the classes are Happiness, sad, dull, odd; add examples",
        ),
    ],
)
def test_unusable_videos_are_one_line_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    files: list[str] | None,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files or ():
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text("not a video")
    if files == []:
        (tmp_path / "videos").mkdir()
    assert main(["train", "--data", "clips=videos", *options, "--out", "run"]) == 2
    streams = capfd.readouterr()
    assert message in streams.err.replace(f"{tmp_path}/", "")
    assert streams.err.count("\n") == 1
    assert streams.out == ""
    assert not (tmp_path / "run").exists()


def test_windows_of_one_frame_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--window-length must be an odd number from 3"):
        list_training_videos(make_config(("clips", tmp_path), window_length=1))


@pytest.mark.slow
def test_videos_without_a_face_are_one_error(
    _ray: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for label in CLASSES:
        (tmp_path / "videos" / label).mkdir(parents=True)
        (tmp_path / "videos" / label / "a.mp4").write_text("not a video")
    data = f"clips={tmp_path / 'videos'}"
    assert main(["train", "--data", data, "--out", str(tmp_path / "run")]) == 2
    assert "no face was found in 2 videos; 2 failed" in capfd.readouterr().err


def test_a_worker_without_an_image_is_refused() -> None:
    bars = dataclasses.replace(make_bars([0, 1, 2, 0]), splits=np.array(["train"] * 3 + ["select"]))
    data = ("folder", Path("faces"))
    check_examples(make_config(data, workers=3), bars)
    with pytest.raises(InputError, match=r"3 training images, fewer than --workers 4: give fewer workers"):
        check_examples(make_config(data, workers=4), bars)
