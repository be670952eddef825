"""Videos for the tests of `fer_batch.video`."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SAMPLE, write_video
from tests.video.helpers import VIDEO_OPTIONS, copy_packets


@pytest.fixture(scope="module")
def small_frames(sample_frames: list[np.ndarray]) -> list[np.ndarray]:
    """Return the frames of the sample at a quarter of its size, `(90, 160, 3) uint8` RGB."""
    return [np.ascontiguousarray(frame[::4, ::4]) for frame in sample_frames]


@pytest.fixture(scope="module")
def faststart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sample with its index before its pictures."""
    path = tmp_path_factory.mktemp("faststart") / "video.mp4"
    copy_packets(SAMPLE, path, movflags="faststart")
    assert path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat")
    return path


@pytest.fixture(scope="module")
def small_videos(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> dict[str, Path]:
    """Return four seconds of 160×90 by container, with a key frame every second."""
    folder = tmp_path_factory.mktemp("small")
    written = write_video(folder / "written.mp4", small_frames[:100], preset="medium", g="25")
    videos = {suffix: folder / f"video.{suffix}" for suffix in ("mp4", "mkv", "ts")}
    for suffix, path in videos.items():
        copy_packets(written, path, **({"movflags": "faststart"} if suffix == "mp4" else {}))
    return videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> dict[str, Path]:
    """Return videos of 120 frames by the names of VIDEO_OPTIONS."""
    folder = tmp_path_factory.mktemp("videos")
    steps = np.random.default_rng(3).choice([0.017, 0.033, 0.05, 0.05, 0.31], 119)
    uneven = [0.0, *np.round(np.cumsum(steps), 3).tolist()]
    return {
        name: write_video(
            folder / name, small_frames[:120], times_s=uneven if name == "variable.mp4" else None, **options
        )
        for name, options in VIDEO_OPTIONS.items()
    }
