"""Random access to frames by time."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_batch.errors import DecodeError, InputError, NoVideoError
from fer_batch.video import decode, random_access
from fer_batch.video.decode import decode_first
from fer_batch.video.random_access import MAX_GAP_S, read_frames, read_in_order
from fer_batch.video.sampling import SampleGrid
from fer_batch.video.source import Source
from fer_batch.video.timestamps import TimedFrame
from tests.conftest import remux, write_video
from tests.video.helpers import (
    join_planes,
    read_sample,
    times,
    write_keyed_video,
    write_rotated_video,
    zero_bytes,
)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_last_frame_at_or_before_each_time_is_returned(tmp_path: Path, sample: Path, suffix: str) -> None:
    path = sample if suffix == "mp4" else remux(sample, tmp_path / f"video.{suffix}")
    given = [9.99, 0.0, 3.2, 3.239, 3.2, 0.04, 100.0]
    frames = read_frames(path, given)
    assert times(frames) == pytest.approx([9.96, 0.0, 3.2, 3.2, 3.2, 0.04, 9.96])
    all_frames = read_sample(None)
    for frame in frames:
        assert np.array_equal(join_planes(frame), join_planes(all_frames[round(frame.time_s * 25)]))


def test_frame_is_an_upright_rgb_image(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    path = write_rotated_video(tmp_path / "video.mp4", small_frames[:5], 90)
    (frame,) = read_frames(path, [0.08])
    assert repr(frame) == "<Frame at 0.080 s, 160×90>"
    image = frame.to_rgb()
    assert (image.shape, image.dtype) == ((90, 160, 3), np.uint8)
    assert np.abs(image.astype(int) - small_frames[2]).mean() < 6


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frame_stays_until_the_next_one(tmp_path: Path, small_frames: list[np.ndarray], suffix: str) -> None:
    given_s = [0.0, 0.5, 8.0, 8.1, 30.0]
    path = write_video(tmp_path / f"video.{suffix}", small_frames[:5], times_s=given_s, g="2")
    requested_s = [29.9, 7.9, 0.4, 8.05, 30.5, 0.6 + MAX_GAP_S]
    assert times(read_frames(path, requested_s)) == pytest.approx([8.1, 0.5, 0.0, 8.0, 30.0, 0.5])


def test_seeks_that_go_back_are_soon_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_keyed_video(tmp_path / "film.mkv", [0.0], 100)
    starts = []

    def decode_from(source: Source, start_s: float, *arguments: Any) -> Iterator[TimedFrame]:
        starts.append(start_s)
        return decode.decode_from(source, start_s, *arguments)

    monkeypatch.setattr(random_access, "decode_from", decode_from)
    requested_s = [float(time_s) for time_s in range(0, 100, 7)]
    assert times(read_frames(path, requested_s)) == pytest.approx(requested_s)
    assert len(starts) <= 5


def test_only_the_frames_after_known_key_frames_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_s = [0.0, 3.0, 6.0]
    source = Source(write_keyed_video(tmp_path / "film.mp4", keys_s, 9))
    decoded: list[float] = []

    def decode_from(source: Source, start_s: float, *arguments: Any) -> Iterator[TimedFrame]:
        for time_s, image in decode.decode_from(source, start_s, *arguments):
            decoded.append(time_s)
            yield time_s, image

    monkeypatch.setattr(random_access, "decode_from", decode_from)
    with source.container:
        info = decode_first(source)
        frames = [frame for _, frame in read_in_order(source, info, keys_s, keys_s)]
        assert times(frames) == pytest.approx(keys_s)
        assert len(decoded) <= 2 * len(keys_s)
        frames = [frame for _, frame in read_in_order(source, info, keys_s)]
        assert times(frames) == pytest.approx(keys_s)


def test_sampled_frames_are_those_of_a_video_without_a_grid(sample: Path) -> None:
    source, fps = Source(sample), 5.0
    requested_s = [0.0, 0.4, 1.2, 8.0]
    with source.container:
        info = decode_first(source)
        grid = SampleGrid(fps, 0.0, math.inf)
        frames = [join_planes(frame) for _, frame in read_in_order(source, info, requested_s, grid=grid)]
    for frame, whole in zip(frames, read_frames(sample, requested_s), strict=True):
        assert np.array_equal(frame, join_planes(whole))


def test_no_times_give_no_frames(sample: Path) -> None:
    assert read_frames(sample, []) == []


@pytest.mark.parametrize("time_s", [-0.1, math.nan, math.inf])
def test_invalid_time_is_refused(sample: Path, time_s: float) -> None:
    with pytest.raises(InputError, match="times must be seconds from 0 on"):
        read_frames(sample, [1.0, time_s])


def test_unreadable_video_is_refused(tmp_path: Path, faststart: Path) -> None:
    with pytest.raises(DecodeError, match="does not exist"):
        read_frames(tmp_path / "video.mp4", [0.0])
    damaged = zero_bytes(faststart, tmp_path / "video.mp4", 0.0, 3000)
    with pytest.raises(DecodeError, match="no frame at or before 0 s can be decoded"):
        read_frames(damaged, [0.0])
    assert times(read_frames(damaged, [9.0])) == pytest.approx([9.0])
    assert issubclass(NoVideoError, DecodeError)
