"""Key frames are found where some are far apart."""

from pathlib import Path

import numpy as np
import pytest

from fer_batch.video import key_frames
from fer_batch.video.decode import decode_first
from fer_batch.video.key_frames import (
    KEY_STEP_S,
    LONG_GAP_S,
    find_key_times,
    list_key_times,
    measure_decoding_s,
)
from fer_batch.video.source import Source
from tests.conftest import remux
from tests.video.helpers import write_keyed_video

SECONDS = 50
CONTAINERS = ["mp4", "mov", "mkv", "ts", "flv", "avi", "mpg"]


def find(path: Path) -> list[float] | None:
    source = Source(path)
    with source.container:
        return find_key_times(source, decode_first(source))


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("keys_s", [[0.0], [0.0, 20.0, 40.0]], ids=["one", "every 20 s"])
def test_key_frames_that_are_far_apart_are_listed(tmp_path: Path, suffix: str, keys_s: list[float]) -> None:
    if suffix == "mpg" and len(keys_s) == 1:
        keys_s = [0.0, 24.0, 48.0]  # the encoder has no longer gaps
    path = write_keyed_video(tmp_path / f"film.{suffix}", keys_s, SECONDS)
    assert find(path) == pytest.approx(keys_s, abs=0.5)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_near_key_frames_are_not_listed(tmp_path: Path, suffix: str) -> None:
    path = write_keyed_video(tmp_path / f"film.{suffix}", [float(t) for t in range(0, SECONDS, 5)], SECONDS)
    assert find(path) is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_one_of_near_key_frames_is_listed(tmp_path: Path, suffix: str) -> None:
    keys_s = [0.0, 1.0, 2.0, 7.0, 9.0, 30.0]
    path = write_keyed_video(tmp_path / f"film.{suffix}", keys_s, SECONDS)
    assert find(path) == pytest.approx([0.0, 7.0, 30.0], abs=0.5)
    assert KEY_STEP_S > 5.0


@pytest.mark.parametrize(("suffix", "has_index"), [("mp4", True), ("ts", False)])
def test_all_key_frames_of_an_index_are_listed(tmp_path: Path, suffix: str, has_index: bool) -> None:
    keys_s = [0.0, 1.0, 7.0, 9.0]
    source = Source(write_keyed_video(tmp_path / f"film.{suffix}", keys_s, 12))
    with source.container:
        found_s = list_key_times(source, decode_first(source))
    assert found_s == pytest.approx(keys_s if has_index else [])
    reach_s = measure_decoding_s(found_s, np.array([0.5, 7.0, 8.0, 11.0]))
    assert (reach_s is not None) == has_index
    assert reach_s is None or reach_s == pytest.approx([0.5, 0.0, 1.0, 2.0])


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_short_video_has_no_list(tmp_path: Path, suffix: str) -> None:
    assert find(write_keyed_video(tmp_path / f"film.{suffix}", [0.0], int(LONG_GAP_S))) is None


@pytest.mark.parametrize(
    ("keys_s", "expected"),
    [
        ([0.0], [0.0]),
        ([0.0, 20.0, 40.0], [0.0, 20.0, 40.0]),
        ([float(t) for t in range(0, SECONDS, 5)], None),
    ],
    ids=["one", "every 20 s", "near"],
)
def test_large_matroska_file_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys_s: list[float], expected: list[float] | None
) -> None:
    path = write_keyed_video(tmp_path / "film.mkv", keys_s, SECONDS)
    monkeypatch.setattr(key_frames, "MAX_SURVEY_BYTES", path.stat().st_size // 2)
    assert find(path) == (None if expected is None else pytest.approx(expected))


def test_distant_key_frames_in_the_middle_are_found_without_an_index(tmp_path: Path) -> None:
    path = write_keyed_video(tmp_path / "film.ts", [0.0, 2.0, 4.0, 6.0, 44.0], 60)
    assert find(path) == pytest.approx([0.0, 2.0, 44.0], abs=0.5)


def test_key_frames_of_a_copy_have_the_same_times(tmp_path: Path) -> None:
    path = write_keyed_video(tmp_path / "film.mp4", [0.0, 30.0], SECONDS)
    for suffix in ("mkv", "ts", "flv"):
        assert find(remux(path, tmp_path / f"copy.{suffix}")) == pytest.approx([0.0, 30.0], abs=0.5)
