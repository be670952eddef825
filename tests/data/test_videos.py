"""Labelled videos become clips of faces: cut once, split by video, streamed or read at once alike."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.data.videos import (
    CLIPS,
    clips_dataset,
    clips_in_memory,
    extract_clips,
    track_windows,
)
from fer_batch.errors import InputError, OutputError
from fer_batch.runtime import ray_session
from fer_batch.training.sources import batch_arrays
from tests.conftest import SAMPLE, remux, write_video

RATE_HZ, LENGTH = 2.0, 5
SHORT_S = 3


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


def make_videos(folder: Path) -> Path:
    """Two classes, with two videos of faces and one, one that shows nobody, and one that is none."""
    for label in ("Happiness", "bored"):
        (folder / label / "inner").mkdir(parents=True)
    shutil.copy(SAMPLE, folder / "Happiness" / "a.mp4")
    remux(SAMPLE, folder / "bored" / "inner" / "b.mkv")
    with av.open(str(SAMPLE)) as sample:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(sample.decode(video=0), 25 * SHORT_S)]
    write_video(folder / "Happiness" / "c.mp4", frames)
    (folder / "Happiness" / "broken.mp4").write_text("an essay\non faces\n")
    write_video(folder / "bored" / "nobody.mp4", [np.full((96, 128, 3), 90, np.uint8)] * 25)
    (folder / "bored" / "notes.txt").write_text("not a video")
    shutil.copy(SAMPLE, folder / "stray.mp4")
    return folder


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, _ray: None) -> tuple[Path, Path, dict[str, int]]:
    """A folder of videos, its clips, and what was counted."""
    videos = make_videos(tmp_path_factory.mktemp("videos"))
    out = tmp_path_factory.mktemp("out") / "clips"
    return videos, out, extract_clips(videos, out, 0.96, length=LENGTH, rate_hz=RATE_HZ)


def test_videos_are_cut_to_clips_and_what_is_amiss_is_counted(
    extracted: tuple[Path, Path, dict[str, int]],
) -> None:
    _, out, counts = extracted
    amiss = {"failed": 1, "no_faces": 1, "without_class": 1}
    assert counts == {"videos": 3, "tracks": counts["tracks"], "windows": counts["windows"], **amiss}
    moments = 2 * (10 + 10 + SHORT_S) * RATE_HZ
    assert 6 <= counts["tracks"] <= counts["windows"] <= moments / 2
    files = sorted((out / "videos").glob("*.parquet"))
    assert len(files) == 4
    rows = [row for file in files for row in pq.read_table(file, schema=CLIPS).to_pylist()]
    assert {(row["video"], row["label"]) for row in rows} == {
        ("Happiness/a.mp4", "happy"),
        ("Happiness/c.mp4", "happy"),
        ("bored/inner/b.mkv", "bored"),
    }
    assert len(rows) == counts["windows"]
    assert sum(row["steps"] for row in rows) >= 0.8 * moments
    for row in rows:
        assert len(row["frames"]) == row["steps"] * 48 * 48
        assert 2 <= row["steps"] <= LENGTH
        assert np.ptp(np.frombuffer(row["frames"], np.uint8)) > 50
    index = (out / "clips.json").read_text()
    assert '"error": "' in index


def test_clips_streamed_and_in_memory_are_the_same(extracted: tuple[Path, Path, dict[str, int]]) -> None:
    _, out, counts = extracted
    classes = ("angry", "bored", "happiness")
    streamed = []
    splits = ("train", "select")
    for split in splits:
        clips = clips_in_memory(out, split, classes)
        assert clips.classes == classes
        assert set(clips.splits) == {split}
        batches = clips_dataset(out, split, classes).iter_batches(batch_size=3, batch_format="numpy")
        here = []
        for batch in batches:
            frames, lengths, labels = batch_arrays(batch)
            assert frames.shape == (len(labels), lengths.max(), 48, 48)
            assert frames.dtype == np.uint8
            assert all((f[n:] == 0).all() for f, n in zip(frames, lengths, strict=True))
            here += [(f[:n].tobytes(), int(c)) for f, n, c in zip(frames, lengths, labels, strict=True)]
        held = [
            (clips.frames[clips.starts[i] : clips.starts[i + 1]].tobytes(), int(clips.labels[i]))
            for i in range(len(clips))
        ]
        assert sorted(here) == sorted(held)
        streamed += here
    assert len(streamed) == counts["windows"]
    assert {label for _, label in streamed} == {1, 2}
    # The only video of the bored stays to be learned from, whatever its hash.
    assert set(clips_in_memory(out, "train", classes).labels) == {1, 2}
    assert set(clips_in_memory(out, "select", classes).labels) == {2}


def test_the_same_call_again_makes_only_what_is_missing(
    extracted: tuple[Path, Path, dict[str, int]],
) -> None:
    videos, out, counts = extracted
    files = sorted((out / "videos").glob("*.parquet"))
    lost = next(f for f in files if pq.read_metadata(f).num_rows)
    before = {f: f.stat().st_mtime_ns for f in files if f != lost}
    content = lost.read_bytes()
    lost.unlink()
    (out / "clips.json").unlink()
    seen: list[tuple[int, int]] = []
    again = extract_clips(
        videos, out, 0.96, length=LENGTH, rate_hz=RATE_HZ, on_video=lambda *at: seen.append(at)
    )
    assert again == counts
    assert seen == [(3, 5), (4, 5), (5, 5)]
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert lost.read_bytes() == content


@pytest.mark.parametrize(
    ("split", "classes", "message"),
    [
        ("test", None, "no clips of the split 'test'; it has"),
        ("train", ("sad",), "other classes .*: (bored|happy|bored, happy); allowed are sad"),
    ],
)
def test_clips_that_are_not_there_are_named(
    extracted: tuple[Path, Path, dict[str, int]], split: str, classes: tuple[str, ...] | None, message: str
) -> None:
    for read in (clips_in_memory, clips_dataset):
        with pytest.raises(InputError, match=message):
            read(extracted[1], split, classes)


def test_clips_of_no_extraction_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished extraction"):
        clips_in_memory(tmp_path, "train")


def test_splits_are_those_of_the_folders_and_copies_in_training_left_out(tmp_path: Path, _ray: None) -> None:
    videos = tmp_path / "videos"
    for folder in ("train/happy", "train/sad", "val/sad"):
        (videos / folder).mkdir(parents=True)
    remux(SAMPLE, videos / "train" / "happy" / "a.mkv")
    remux(SAMPLE, videos / "train" / "sad" / "b.mp4")
    shutil.copy(videos / "train" / "sad" / "b.mp4", videos / "val" / "sad" / "c.mp4")
    counts = extract_clips(videos, tmp_path / "out", 0.96, length=3, rate_hz=0.5)
    assert counts["twins_dropped"] == 1
    assert counts["videos"] == 2
    assert set(clips_in_memory(tmp_path / "out", "train").labels) == {0}
    assert set(clips_in_memory(tmp_path / "out", "select").labels) == {1}


@pytest.mark.parametrize(
    ("files", "classes", "message"),
    [
        ([], None, "no files like"),
        (["happy/a.txt"], None, "no files like"),
        (["a.mp4"], None, r"1 in none.*named by class"),
        (["happy/a.mp4", "val/sad/b.mp4"], None, "both split folders .val. and others .happy."),
        (["happy/a.mp4", "bored/b.mp4"], ("happy", "sad"), "allowed: bored; allowed are happy, sad"),
        (
            ["happy/a.mp4", "sad/b.mp4"],
            None,
            "no face could be followed in any of 2 videos; 2 failed, such as",
        ),
    ],
)
def test_videos_that_cannot_be_used_are_named(
    tmp_path: Path, _ray: None, files: list[str], classes: tuple[str, ...] | None, message: str
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in files:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_text("not a video")
    with pytest.raises(InputError, match=message) as caught:
        extract_clips(videos, tmp_path / "out", 0.96, length=3, rate_hz=1.0, classes=classes)
    assert str(videos) in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos" / "happy").mkdir(parents=True)
    (tmp_path / "videos" / "happy" / "a.mp4").touch()
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="can't be made"):
        extract_clips(tmp_path / "videos", tmp_path / "out", 0.96, length=3, rate_hz=1.0)


@pytest.mark.parametrize(
    ("tracks", "times", "windows"),
    [
        ([], [], []),
        ([0], [0.0], []),
        ([0, 0], [0.0, 0.5], [[0, 1]]),
        ([0, 1, 0, 1], [0.0, 0.0, 0.5, 0.5], [[0, 2], [1, 3]]),
        ([0] * 4, [0.0, 0.5, 1.0, 1.5], [[0, 1, 2]]),
        ([0] * 5, [0.0, 0.5, 1.0, 1.5, 2.0], [[0, 1, 2], [3, 4]]),
        ([0] * 3, [0.0, 1.0, 2.0], [[0, 1]]),
        ([0] * 3, [2.0, 0.5, 1.04], [[1, 2]]),
        ([0, 0], [0.0, 1.5], []),
    ],
)
def test_a_track_is_cut_into_windows(tracks: list[int], times: list[float], windows: list[list[int]]) -> None:
    found = track_windows(np.array(tracks, np.int64), np.array(times), 3, 2.0)
    assert [w.tolist() for w in found] == windows


@settings(max_examples=50, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), unique=True, max_size=60),
    length=st.integers(2, 9),
    rate_hz=st.sampled_from([1.0, 3.0, 5.0, 29.97]),
)
def test_no_face_stands_in_two_windows(places: list[tuple[int, int]], length: int, rate_hz: float) -> None:
    tracks = np.array([t for t, _ in places], np.int64)
    times = np.array([k / rate_hz for _, k in places])
    windows = track_windows(tracks, times, length, rate_hz)
    used = [i for window in windows for i in window]
    assert len(used) == len(set(used))
    for window in windows:
        assert 2 <= len(window) <= length
        assert len(set(tracks[window])) == 1
        assert (np.diff(times[window]) > 0).all()
        assert times[window[-1]] - times[window[0]] <= (length - 1) / rate_hz + 1e-6


def test_an_empty_batch_is_no_clips() -> None:
    batch = {"frames": np.array([], object), "steps": np.array([], np.int32), "label": np.array([], np.int64)}
    frames, lengths, labels = batch_arrays(batch)
    assert frames.shape == (0, 0, 48, 48)
    assert len(lengths) == len(labels) == 0
