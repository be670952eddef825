"""Analysis of one video in this process."""

import logging
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fer_batch
from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError, DecodeError, InputError, NoVideoError
from fer_batch.pipeline.progress import Progress
from tests.conftest import remux, write_video
from tests.integration.test_analyze import QUICK, analyze_in_process, rows


def test_rows_equal_the_tracks_of_a_run(long_video: Callable[[int], Path], tmp_path: Path) -> None:
    video = long_video(1)
    reports: list[Progress] = []
    threads = torch.get_num_threads()
    faces = fer_batch.analyze_video(video, QUICK, on_progress=reports.append)
    analyze_in_process([str(video)], tmp_path / "out", QUICK)
    expected = rows(tmp_path / "out").drop(columns="person")
    pd.testing.assert_frame_equal(faces, expected, check_exact=True)
    assert torch.get_num_threads() == threads

    assert [report.video_s_done for report in reports] == sorted(report.video_s_done for report in reports)
    assert (reports[-1].videos, reports[-1].videos_done, reports[-1].faces) == (1, 1, len(faces))
    assert reports[-1].video_s == pytest.approx(10, abs=0.1)


def test_no_images_give_no_rows() -> None:
    faces = fer_batch.analyze_images([])
    assert len(faces) == 0
    assert list(faces.columns[:3]) == ["image", "track_id", "box_x0"]


def test_images_have_the_rows_of_files_with_the_same_pixels(
    sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    empty = np.zeros((90, 160, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(sample_frames[0]).save(path)
    images = [sample_frames[0], empty, Image.fromarray(sample_frames[5]), path, path.read_bytes()]
    faces = fer_batch.analyze_images(images, QUICK)
    assert faces["image"].value_counts().sort_index().to_dict() == {0: 2, 2: 2, 3: 2, 4: 2}
    from_file = fer_batch.analyze_video(path, QUICK)
    for number in (0, 3, 4):
        same = faces[faces["image"] == number].drop(columns="image").reset_index(drop=True)
        pd.testing.assert_frame_equal(same, from_file[same.columns], check_exact=True)


def test_unusable_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot analyze image 1: .*ratio of 32"):
        fer_batch.analyze_images([np.zeros((9, 9), np.uint8), np.zeros((2, 99), np.uint8)])
    with pytest.raises(InputError, match=r"Cannot read .*photo\.png"):
        fer_batch.analyze_images([tmp_path / "photo.png"])


def test_a_pause_and_slow_frames_have_their_own_durations(
    sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    """12 frames a second for one second, a minute's pause, one second, and a frame every two seconds."""
    second_s = np.arange(12) / 12
    times_s = [*second_s, *(61 + second_s), *(62.0 + 2 * np.arange(4))]
    video = write_video(tmp_path / "pause.mp4", sample_frames[: len(times_s)], times_s=times_s)
    rows = fer_batch.analyze_video(video, AnalyzeConfig(min_face=0.2))
    frames = rows.drop_duplicates("time_s").sort_values("time_s")
    ends_s = (frames["time_s"] + frames["step_s"]).to_numpy()
    assert ends_s[frames["time_s"] < 60].max() == pytest.approx(1.0, abs=1e-3)
    assert frames["step_s"][frames["time_s"] < 62].sum() == pytest.approx(2.0, abs=1e-3)
    assert frames["step_s"][frames["time_s"].between(62, 67)].tolist() == pytest.approx([2.0] * 3)
    assert ends_s[:-1] == pytest.approx([*frames["time_s"][1:5], 1.0, *frames["time_s"][6:]], abs=1e-3)


def test_damaged_video_gives_its_readable_part_and_a_warning(
    sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = remux(sample, tmp_path / "half.ts")
    content = half.read_bytes()
    half.write_bytes(content[: len(content) // 4] + bytes(20_000) + content[len(content) // 2 :])
    with caplog.at_level(logging.WARNING, logger="fer_batch"):
        faces = fer_batch.analyze_video(half, AnalyzeConfig(fps=1.0, min_face=0.2))
    assert len(faces)
    assert f"{half} was analyzed in part" in caplog.text


def test_video_without_faces_gives_an_empty_table(sample: Path) -> None:
    faces = fer_batch.analyze_video(sample, AnalyzeConfig(fps=0.5, min_face=1.0))
    assert len(faces) == 0
    assert {"video_id", "emotion", "p_happy", "model_id"} <= set(faces.columns)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({}, InputError),
        ({"v.mp4": b"no video at all"}, DecodeError),
        ({"v.mp4": b""}, DecodeError),
        ({"a.mp4": b"", "b.mp4": b""}, InputError),
    ],
)
def test_path_that_is_not_one_readable_video_is_an_error(
    tmp_path: Path, files: dict[str, bytes], error: type[Exception]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path if len(files) == 2 else tmp_path / "v.mp4"
    with pytest.raises(error, match=str(path)):
        fer_batch.analyze_video(path)


def test_file_without_a_video_stream_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(NoVideoError):
        fer_batch.analyze_video(path)


def test_missing_checkpoint_is_an_error(sample: Path, tmp_path: Path) -> None:
    config = AnalyzeConfig(checkpoint=str(tmp_path / "none.safetensors"))
    with pytest.raises((fer_batch.CheckpointError, ConfigError)):
        fer_batch.analyze_video(sample, config)
