"""Labelled videos are cut into clips of faces, divided into splits, and streamed or loaded for training."""

import json
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

from fer_batch.data.clip_files import CLIP_SCHEMA, load_clips, read_index, stream_clips
from fer_batch.data.segments import locate_segment
from fer_batch.data.videos import (
    ClipSettings,
    ExtractionSummary,
    extract_clips,
    list_labelled_videos,
    split_tracks,
)
from fer_batch.errors import InputError, OutputError
from fer_batch.runtime import ray_session
from fer_batch.training.sources import decode_batch
from tests.conftest import SAMPLE, remux, write_video
from tests.video.helpers import write_with_sound

SETTINGS = ClipSettings(crop_scale=0.96, length=5, rate_hz=2.0)
SHORT = ClipSettings(crop_scale=0.96, length=3, rate_hz=1.0)
SHORT_S = 3
Extracted = tuple[Path, Path, ExtractionSummary]
"""The folder of videos, the folder of clips, and the summary."""


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


def make_videos(folder: Path) -> Path:
    """Write videos of two classes: three with faces, one without, and a file that is no video."""
    for label in ("Happiness", "bored"):
        (folder / label / "inner").mkdir(parents=True)
    shutil.copy(SAMPLE, folder / "Happiness" / "a.mp4")
    remux(SAMPLE, folder / "bored" / "inner" / "b.mkv")
    with av.open(str(SAMPLE)) as sample:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(sample.decode(video=0), 25 * SHORT_S)]
    write_video(folder / "Happiness" / "c.mp4", frames)
    (folder / "Happiness" / "broken.mp4").write_text("an essay\non faces\n")
    write_video(folder / "bored" / "empty.mp4", [np.full((96, 128, 3), 90, np.uint8)] * 25)
    (folder / "bored" / "notes.txt").write_text("not a video")
    shutil.copy(SAMPLE, folder / "outside.mp4")
    return folder


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, _ray: None) -> Extracted:
    """Extract the clips of a folder of videos."""
    videos = make_videos(tmp_path_factory.mktemp("videos"))
    out = tmp_path_factory.mktemp("out") / "clips"
    return videos, out, extract_clips(videos, out, SETTINGS)


def test_videos_are_cut_into_clips_and_problems_are_counted(extracted: Extracted) -> None:
    _, out, summary = extracted
    assert summary.videos == 3
    assert summary.issues == {"failed": 1, "no_faces": 1, "without_class": 1}
    faces = 2 * (10 + 10 + SHORT_S) * SETTINGS.rate_hz
    assert 6 <= summary.tracks <= summary.windows <= faces / 2
    files = sorted((out / "videos").glob("*.parquet"))
    assert len(files) == 4
    rows = [row for file in files for row in pq.read_table(file, schema=CLIP_SCHEMA).to_pylist()]
    assert {(row["video"], row["label"]) for row in rows} == {
        ("Happiness/a.mp4", "happy"),
        ("Happiness/c.mp4", "happy"),
        ("bored/inner/b.mkv", "bored"),
    }
    assert len(rows) == summary.windows
    assert sum(row["steps"] for row in rows) >= 0.8 * faces
    for row in rows:
        assert len(row["frames"]) == row["steps"] * 48 * 48
        assert 2 <= row["steps"] <= SETTINGS.length
        assert np.ptp(np.frombuffer(row["frames"], np.uint8)) > 50
    index = (out / "clips.json").read_text()
    assert '"error": "' in index


@pytest.mark.slow
def test_streamed_and_loaded_clips_are_the_same(extracted: Extracted) -> None:
    _, out, summary = extracted
    classes = ("angry", "bored", "happiness")
    streamed = []
    splits = ("train", "select")
    for split in splits:
        clips = load_clips(out, split, classes)
        assert clips.classes == classes
        assert set(clips.splits) == {split}
        batches = stream_clips(out, split, classes).iter_batches(batch_size=3, batch_format="numpy")
        here = []
        for batch in batches:
            frames, labels = decode_batch(batch)
            lengths = (labels >= 0).sum(axis=1)
            assert frames.shape == (len(labels), lengths.max(), 48, 48)
            assert frames.dtype == np.uint8
            assert all((f[n:] == 0).all() for f, n in zip(frames, lengths, strict=True))
            here += [(f[:n].tobytes(), int(c[0])) for f, n, c in zip(frames, lengths, labels, strict=True)]
        in_memory = [
            (clips.frames[clips.starts[i] : clips.starts[i + 1]].tobytes(), int(clips.labels[i]))
            for i in range(len(clips))
        ]
        assert sorted(here) == sorted(in_memory)
        streamed += here
    assert len(streamed) == summary.windows
    assert {label for _, label in streamed} == {1, 2}
    # The only video of a class stays in training, whatever its hash.
    assert set(load_clips(out, "train", classes).labels) == {1, 2}
    assert set(load_clips(out, "select", classes).labels) == {2}


def test_a_repeated_extraction_writes_only_the_missing_files(extracted: Extracted) -> None:
    videos, out, summary = extracted
    files = sorted((out / "videos").glob("*.parquet"))
    lost = next(f for f in files if pq.read_metadata(f).num_rows)
    before = {f: f.stat().st_mtime_ns for f in files if f != lost}
    content = lost.read_bytes()
    lost.unlink()
    (out / "clips.json").unlink()
    seen: list[tuple[int, int]] = []
    repeated = extract_clips(videos, out, SETTINGS, on_video=lambda *count: seen.append(count))
    assert repeated == summary
    assert seen == [(3, 5), (4, 5), (5, 5)]
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert lost.read_bytes() == content


@pytest.mark.parametrize(
    ("split", "classes", "message"),
    [
        ("test", None, "no clips of the split 'test'; it has"),
        ("train", ("sad",), "unexpected classes: (bored|happy|bored, happy); allowed are sad"),
    ],
)
def test_missing_splits_and_classes_are_named(
    extracted: Extracted, split: str, classes: tuple[str, ...] | None, message: str
) -> None:
    for read in (load_clips, stream_clips):
        with pytest.raises(InputError, match=message):
            read(extracted[1], split, classes)


def test_a_folder_without_an_extraction_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished extraction"):
        load_clips(tmp_path, "train")


def test_splits_come_from_folders_and_training_copies_are_dropped(tmp_path: Path, _ray: None) -> None:
    videos = tmp_path / "videos"
    for folder in ("train/happy", "train/sad", "val/sad"):
        (videos / folder).mkdir(parents=True)
    remux(SAMPLE, videos / "train" / "happy" / "a.mkv")
    remux(SAMPLE, videos / "train" / "sad" / "b.mp4")
    shutil.copy(videos / "train" / "sad" / "b.mp4", videos / "val" / "sad" / "c.mp4")
    settings = ClipSettings(crop_scale=0.96, length=3, rate_hz=0.5)
    summary = extract_clips(videos, tmp_path / "out", settings)
    assert summary.issues["twins_dropped"] == 1
    assert summary.videos == 2
    assert set(load_clips(tmp_path / "out", "train").labels) == {0}
    assert set(load_clips(tmp_path / "out", "select").labels) == {1}


def write_labels(path: Path, *segments: tuple[str, int, int, str]) -> Path:
    """Write an export of Label Studio with segments: video, first and last frame at 25 per second, label."""
    tasks = [
        {
            "data": {"video": video, "fps": 25},
            "annotations": [
                {
                    "result": [
                        {
                            "type": "timelinelabels",
                            "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [label]},
                        }
                    ]
                }
            ],
        }
        for video, first, last, label in segments
    ]
    path.write_text(json.dumps(tasks))
    return path


def test_labelled_segments_are_cut_into_clips(tmp_path: Path, _ray: None) -> None:
    shutil.copy(SAMPLE, tmp_path / "a.mp4")
    remux(SAMPLE, tmp_path / "b.mkv")
    segments = [
        ("a.mp4", 1, 75, "Happiness"),
        ("a.mp4", 76, 150, "bored"),
        ("/data/local-files/?d=" + str(tmp_path / "b.mkv")[1:], 26, 100, "happy"),
        ("/data/upload/1/0123abcd-b.mkv", 101, 175, "bored"),
    ]
    labels = write_labels(tmp_path / "labels.json", *segments, segments[0], ("none.mp4", 1, 9, "bored"))
    settings = ClipSettings(crop_scale=0.96, length=3, rate_hz=2.0)
    summary = extract_clips(labels, tmp_path / "out", settings)
    assert (summary.videos, summary.issues) == (4, {"failed": 1})
    videos, classes = read_index(tmp_path / "out")
    assert classes == ["bored", "happy"]
    for name in ("a.mp4", "b.mkv"):
        own = [video for video in videos if video.video == str(tmp_path / name)]
        assert {video.label for video in own} == {"happy", "bored"}
        assert len({video.split for video in own}) == 1
        for video in own:
            rows = pq.read_table(tmp_path / "out" / video.file).to_pylist()
            assert rows
            for row in rows:
                assert video.start_s <= row["start_s"]
                assert row["start_s"] + (row["steps"] - 1) / settings.rate_hz < video.end_s
    assert {video.split for video in videos if video.windows} == {"train", "select"}


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([], "no annotation has a segment with a label"),
        ([("s3://bucket/a.mp4", 1, 9, "sad")], "s3://bucket/a.mp4 is not a file of this machine"),
    ],
)
def test_unusable_segments_are_named(
    tmp_path: Path, segments: list[tuple[str, int, int, str]], message: str
) -> None:
    labels = write_labels(tmp_path / "labels.json", *segments)
    with pytest.raises(InputError, match=message):
        list_labelled_videos(labels)


def test_segment_of_a_late_picture_counts_from_its_first_frame(tmp_path: Path) -> None:
    frames = [np.full((96, 128, 3), 90, np.uint8)] * 50
    late = write_with_sound(tmp_path / "late.mkv", frames, 2.0, 4.0)
    segment = locate_segment(late, 3.0, 4.0)
    assert (segment.start_s, segment.end_s) == pytest.approx((1.0, 2.0), abs=0.03)
    assert not segment.is_last
    assert locate_segment(late, None, None).is_last


@pytest.mark.parametrize(
    ("files", "classes", "message"),
    [
        ([], None, "no files like"),
        (["happy/a.txt"], None, "no files like"),
        (["a.mp4"], None, r"1 outside them.*named after their class"),
        (["happy/a.mp4", "val/sad/b.mp4"], None, "split folders .val. and other folders .happy. are mixed"),
        (
            ["happy/a.mp4", "bored/b.mp4"],
            ("happy", "sad"),
            "unexpected classes: bored; allowed are",
        ),
        (
            ["happy/a.mp4", "sad/b.mp4"],
            None,
            "no face was found in 2 videos; 2 failed, for example",
        ),
    ],
)
def test_unusable_videos_are_named(
    tmp_path: Path, _ray: None, files: list[str], classes: tuple[str, ...] | None, message: str
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in files:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_text("not a video")
    with pytest.raises(InputError, match=message) as caught:
        extract_clips(videos, tmp_path / "out", SHORT, classes=classes)
    assert str(videos) in str(caught.value)


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "videos" / "happy").mkdir(parents=True)
    (tmp_path / "videos" / "happy" / "a.mp4").touch()
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="cannot create"):
        extract_clips(tmp_path / "videos", tmp_path / "out", SHORT)


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
def test_tracks_are_split_into_windows(
    tracks: list[int], times: list[float], windows: list[list[int]]
) -> None:
    found = split_tracks(np.array(tracks, np.int64), np.array(times), 3, 2.0)
    assert [w.tolist() for w in found] == windows


@settings(max_examples=50, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), unique=True, max_size=60),
    length=st.integers(2, 9),
    rate_hz=st.sampled_from([1.0, 3.0, 5.0, 29.97]),
)
def test_each_face_is_in_at_most_one_window(
    cells: list[tuple[int, int]], length: int, rate_hz: float
) -> None:
    tracks = np.array([t for t, _ in cells], np.int64)
    times = np.array([k / rate_hz for _, k in cells])
    windows = split_tracks(tracks, times, length, rate_hz)
    used = [i for window in windows for i in window]
    assert len(used) == len(set(used))
    for window in windows:
        assert 2 <= len(window) <= length
        assert len(set(tracks[window])) == 1
        assert (np.diff(times[window]) > 0).all()
        assert times[window[-1]] - times[window[0]] <= (length - 1) / rate_hz + 1e-6


def test_an_empty_batch_has_no_clips() -> None:
    batch = {"frames": np.array([], object), "steps": np.array([], np.int32), "label": np.array([], np.int64)}
    frames, labels = decode_batch(batch)
    assert frames.shape == (0, 0, 48, 48)
    assert labels.shape == (0, 0)
