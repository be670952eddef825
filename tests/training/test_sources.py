"""Runs on labelled videos: alone and beside images, killed and resumed, and what can't be trained on."""

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fer_batch.cli.main import main
from fer_batch.config import TrainConfig
from fer_batch.data.datasets import Clips, no_clips
from fer_batch.data.videos import extracted
from fer_batch.errors import ConfigError, InputError
from fer_batch.model.weights import load_checkpoint
from fer_batch.runtime import ray_session
from fer_batch.storage.atomic import write_json
from fer_batch.training.run import train
from fer_batch.training.sources import check_clips, division, streamed, training_counts
from tests.conftest import write_video

CLASSES = ("serious", "smiling")
IMAGES = 12
"""Of each of two classes to train on."""


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def videos(sample_frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of two seconds, two of each class, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for number, label in enumerate(CLASSES * 2):
        (folder / label).mkdir(exist_ok=True)
        write_video(folder / label / f"{number}.mp4", sample_frames[50 * number : 50 * number + 50])
    (folder / "serious" / "broken.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of two classes, one of which the videos have as well."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 2)):
        for row, label in enumerate(("happy", "serious")):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 60, (48, 48), np.uint8)
                image[20 * row : 20 * row + 9] = 220
                Image.fromarray(image).save(folder / split / label / f"{number}.png")
    return folder


def configured(*data: tuple[str, Path], **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"epochs": 1, "sequence_epochs": 1, "batch_size": 4, "window_length": 5}
    tiny = {"filters": (4, 4), "depths": (1, 1)}
    return TrainConfig(data=tuple((n, str(p)) for n, p in data), **settings | tiny | changes)


def begun(out: Path, config: TrainConfig, cut: Path) -> Path:
    """A run that has cut its videos, and nothing more."""
    out.mkdir()
    shutil.copytree(cut, out / "clips")
    write_json(out / "train.json", config.to_dict())
    return out


@pytest.fixture(scope="module")
def alone(_ray: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[str]]:
    """A run on the videos: its folder, record and lines."""
    out, lines = tmp_path_factory.mktemp("runs") / "alone", []
    return out, train(configured(("clips", videos)), out, on_line=lines.append), lines


@pytest.mark.slow
def test_videos_alone_give_a_model_that_says_what_it_learned_from(
    alone: tuple[Path, dict, list[str]],
) -> None:
    out, record, lines = alone
    counts, _ = extracted(out / "clips")
    assert set(counts) == {"train", "select"}
    assert record["train_clips"] == dict(sorted(counts["train"].items()))
    assert record["select_clips"] == counts["select"]
    assert set(record["train_clips"]) == set(CLASSES)
    assert record["calibrate_clips"] == {}
    assert record["left_out"] == {"failed": 1}
    assert record["selection"]["n"] == sum(counts["select"].values())
    said = "\n".join(lines)
    total, selected = sum(counts["train"].values()), sum(counts["select"].values())
    assert f"data: {total} clips to train on (" in said
    assert f"{selected} to choose the epoch by, 0 to calibrate by: fewer than 50, confidences" in said
    assert "data: 1 failed" in said
    card = load_checkpoint(out / "model.safetensors")[1]
    assert (card.classes, card.temperature, card.window_length) == (CLASSES, 1.0, 5)


@pytest.mark.slow
def test_a_run_whose_worker_was_killed_ends_with_the_same_weights(
    alone: tuple[Path, dict, list[str]], videos: Path, tmp_path: Path
) -> None:
    config = configured(("clips", videos))
    out = begun(tmp_path / "killed", config, alone[0] / "clips")
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
    """Kill the training workers below this process as soon as a run's first epoch is told."""
    while not (out / "history.json").exists():
        time.sleep(0.01)
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(after_name[1]), (folder / "cmdline").read_text()
        except OSError:
            continue
    for worker, (parent, command) in parents.items():
        while parent in parents and parent != os.getpid():
            parent = parents[parent][0]
        if parent == os.getpid() and "RayTrainWorker" in command:
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)


@pytest.mark.slow
def test_two_workers_learn_from_images_and_videos_of_other_classes(
    alone: tuple[Path, dict, list[str]], videos: Path, images: Path, tmp_path: Path
) -> None:
    config = configured(("folder", images), ("clips", videos), workers=2, batch_size=2)
    out = begun(tmp_path / "mixed", config, alone[0] / "clips")
    record = train(config, out)
    clips = alone[1]["train_clips"]
    assert load_checkpoint(out / "model.safetensors")[1].classes == ("happy", *CLASSES)
    assert record["train_clips"] == {
        "happy": IMAGES - record["calibrate_clips"].get("happy", 0),
        "serious": IMAGES + clips["serious"] - record["calibrate_clips"].get("serious", 0),
        "smiling": clips["smiling"],
    }
    assert sum(record["select_clips"].values()) == 4 + alone[1]["selection"]["n"]


def made_up(folder: Path, **labels: dict[str, int]) -> Path:
    """The index of an extraction that has so many clips of each class, by split."""
    videos = [
        {"video": f"{split}/{label}", "label": label, "split": split, "windows": count, "file": "x.parquet"}
        for split, counts in labels.items()
        for label, count in counts.items()
    ]
    classes = sorted({video["label"] for video in videos})
    write_json(folder / "clips.json", {"settings": {}, "classes": classes, "videos": videos})
    return folder


@pytest.mark.parametrize(
    ("training", "select", "workers", "message"),
    [
        ({}, True, 1, r"of only 0 classes \(none\)"),
        ({"a": 3}, True, 1, r"of only 1 class \(a\); training takes two or more"),
        ({"a": 3, "b": 1}, False, 1, "no clips to choose the epoch by: give two or more videos"),
        ({"a": 3, "b": 1}, True, 5, "4 clips to train on, fewer than --workers 5: give more videos or fewer"),
    ],
)
def test_too_few_clips_are_counted(
    tmp_path: Path, training: dict[str, int], select: bool, workers: int, message: str
) -> None:
    config = configured(("clips", tmp_path), workers=workers)
    cut = made_up(tmp_path, train=training, calibrate={"a": 1})
    held = Clips(
        frames=np.zeros((1, 48, 48), np.uint8),
        starts=np.array([0, 1]),
        labels=np.array([0]),
        splits=np.array(["select"]),
        classes=("a", "b"),
        votes=np.zeros((1, 2), np.float32),
        subjects=np.array([""]),
    )
    with pytest.raises(InputError, match=message) as caught:
        streamed(config, held if select else held.take(np.array([], int)), cut)
    assert str(caught.value).startswith(f"--data clips={tmp_path} gives ")


def test_clips_of_synonyms_are_counted_by_the_names_asked_for(tmp_path: Path) -> None:
    config = configured(("clips", tmp_path), classes=("Happiness", "bored", "sad"))
    cut = made_up(tmp_path, train={"happy": 3, "bored": 2}, select={"happy": 1})
    counts = training_counts(config, no_clips(config.classes), cut)
    assert counts == {"Happiness": 3, "bored": 2}
    said = division(no_clips(config.classes), counts)
    assert said[0].startswith(
        "data: 5 clips to train on (3 Happiness, 2 bored), 0 to choose the epoch by, 0 to calibrate by: fewer"
    )
    assert said[1].startswith("data: nothing to train on of the class sad: ")
    assert said[2].startswith("data: nothing to choose the epoch by of the class Happiness, bored, sad: ")
    assert all("--leave-out" in line for line in said[1:])


@pytest.mark.parametrize(
    ("frames", "streamed_clips", "noun"),
    [([1, 1], 0, "images"), ([1, 3], 0, "clips"), ([1, 1], 2, "clips")],
)
def test_what_a_run_learns_from_is_named(frames: list[int], streamed_clips: int, noun: str) -> None:
    ends = np.cumsum([0, *frames])
    data = dataclasses.replace(
        no_clips(("a", "b")),
        frames=np.zeros((ends[-1], 48, 48), np.uint8),
        starts=ends,
        labels=np.array([0, 1]),
        splits=np.array(["train", "train"]),
        votes=np.zeros((2, 2), np.float32),
        subjects=np.array(["", ""]),
    )
    training = {"a": 1 + streamed_clips, "b": 1}
    assert division(data, training)[0].startswith(f"data: {2 + streamed_clips} {noun} to train on (")


@pytest.mark.parametrize(
    ("files", "given", "said"),
    [
        (None, {}, "clips=videos: does not exist"),
        ([], {}, "no files like"),
        (["happy/notes.txt"], {}, "no files like"),
        (["a.mp4"], {}, "(1 in none)"),
        (["happy/a.mp4"], {}, "there is only the class happy; training takes two or more"),
        (["happy/a.mp4", "sad/b.mp4"], {"--data": "clips=videos"}, "given more than once"),
        (["happy/a.mp4", "dull/b.mp4", "odd/c.mp4"], {"--classes": "happy,sad"}, "dull, odd; allowed are"),
    ],
)
def test_videos_that_cannot_be_trained_on_are_one_line_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    files: list[str] | None,
    given: dict[str, str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in files or ():
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text("not a video")
    if files == []:
        (tmp_path / "videos").mkdir()
    words = [word for option in given.items() for word in option]
    assert main(["train", "--data", "clips=videos", *words, "--out", "run"]) == 2
    streams = capfd.readouterr()
    assert said in streams.err.replace(f"{tmp_path}/", "")
    assert streams.err.count("\n") == 1
    assert streams.out == ""
    assert not (tmp_path / "run").exists()


def test_windows_of_one_moment_are_no_clips(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--window-length is 1"):
        check_clips(configured(("clips", tmp_path), window_length=1))


def test_videos_without_a_face_end_the_run_by_one_error(
    _ray: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for label in CLASSES:
        (tmp_path / "videos" / label).mkdir(parents=True)
        (tmp_path / "videos" / label / "a.mp4").write_text("not a video")
    data = f"clips={tmp_path / 'videos'}"
    assert main(["train", "--data", data, "--out", str(tmp_path / "run")]) == 2
    assert "no face could be followed in any of 2 videos; 2 failed" in capfd.readouterr().err
