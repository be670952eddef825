"""The sample grid, and frames that are not decoded."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fer_batch.video import sampling
from fer_batch.video.sampling import FrameSkipper
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from tests.conftest import write_video
from tests.video.helpers import (
    PARTS,
    VIDEO_OPTIONS,
    first_per_cell,
    have_same_frames,
    have_same_pictures,
    read_segment,
    select_frames,
    times,
)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (25, [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (12, [0, 3 / 12, 5 / 12, 8 / 12, 10 / 12, 1.0, 15 / 12]),
        (Fraction(24000, 1001), [n * 1001 / 24000 for n in (0, 5, 10, 15, 20, 24, 29)]),
        (60, [0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        (3, [0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2]),
    ],
)
def test_first_frame_of_each_cell_is_sampled(
    tmp_path: Path, small_frames: list[np.ndarray], rate: int | Fraction, expected: list[float]
) -> None:
    path = write_video(tmp_path / "video.mp4", small_frames[:100], fps=rate)
    all_frames, _ = read_segment(path, fps=None)
    sampled, report = read_segment(path)
    assert len(all_frames) == report.frames == 100
    assert times(sampled)[:7] == pytest.approx(expected, abs=1e-6)
    assert times(sampled) == first_per_cell(times(all_frames), 5.0)
    assert [f.index for f in sampled] == [times(all_frames).index(t) for t in times(sampled)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("seed", [0, 1])
def test_variable_frame_rate_keeps_its_times(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str, seed: int
) -> None:
    steps = np.random.default_rng(seed).choice([0.017, 0.033, 0.05, 0.31, 0.7], 79)
    given_s = [0.0, *np.round(np.cumsum(steps), 3).tolist()]
    path = write_video(tmp_path / f"video.{suffix}", small_frames[:80], times_s=given_s)
    all_frames, _ = read_segment(path, fps=None)
    assert times(all_frames) == pytest.approx(given_s, abs=1e-3)
    sampled, report = read_segment(path)
    assert times(sampled) == first_per_cell(times(all_frames), 5.0)
    assert report.error is None


def test_segment_of_a_variable_frame_rate_starts_anywhere(
    tmp_path: Path, small_frames: list[np.ndarray]
) -> None:
    given_s = np.round(np.cumsum([0.0, *[0.02, 0.7, 0.033, 0.31] * 20])[:80], 3).tolist()
    path = write_video(tmp_path / "video.mkv", small_frames[:80], times_s=given_s, g="30")
    all_frames, _ = read_segment(path, fps=None)
    for start_s in (0.0, 4.6, 9.9, 17.0):
        frames, _ = read_segment(path, start_s, start_s + 4.0, None)
        assert have_same_frames(frames, select_frames(all_frames, start_s, start_s + 4.0))


@pytest.mark.parametrize(
    "fps", [5.0, *(pytest.param(fps, marks=pytest.mark.slow) for fps in (1.0, 12.5, None))]
)
@pytest.mark.parametrize("name", VIDEO_OPTIONS)
def test_skipped_frames_do_not_change_results(
    monkeypatch: pytest.MonkeyPatch, videos: dict[str, Path], name: str, fps: float | None
) -> None:
    decisions: list[bool] = []
    may_skip = FrameSkipper._may_skip

    def record(*given: Any) -> bool:
        decisions.append(may_skip(*given))
        return decisions[-1]

    monkeypatch.setattr(FrameSkipper, "_may_skip", record)
    skipping = [read_segment(videos[name], *part, fps) for part in PARTS]
    monkeypatch.setattr(FrameSkipper, "_may_skip", lambda *_: False)
    for part, (frames, report) in zip(PARTS, skipping, strict=True):
        others, other_report = read_segment(videos[name], *part, fps)
        assert have_same_frames(frames, others)
        assert [f.index for f in frames] == [f.index for f in others]
        assert report == other_report
    assert sum(decisions) > 20


@pytest.mark.parametrize("fast", ["nonref", "keyframes"])
@pytest.mark.parametrize("name", VIDEO_OPTIONS)
def test_fast_sampling_takes_frames_of_the_video(videos: dict[str, Path], name: str, fast: str) -> None:
    all_frames, _ = read_segment(videos[name], fps=None)
    by_time = {frame.time_s: frame for frame in all_frames}
    sampled, report = read_segment(videos[name], fast=fast)
    assert report.frames == 120
    assert 0 < len(sampled) < 120
    assert all(f.index == by_time[f.time_s].index for f in sampled)
    assert have_same_pictures(sampled, [by_time[f.time_s] for f in sampled])
    for start_s, end_s in PARTS[1:]:
        frames, part = read_segment(videos[name], start_s, end_s, fast=fast)
        cell = math.floor((start_s - TIME_TOLERANCE_S) * 5)
        expected = [
            f for f in sampled if math.floor((f.time_s + TIME_TOLERANCE_S) * 5) > cell and f.time_s < end_s
        ]
        assert have_same_frames(frames, expected)
        assert part.frames == len(select_frames(all_frames, start_s, end_s))


@pytest.mark.parametrize("name", ["plain.mp4", "pyramid.mkv", "hevc.mp4"])
def test_fast_sampling_takes_all_key_frames(videos: dict[str, Path], name: str) -> None:
    with av.open(str(videos[name])) as container:
        packets = [p for p in container.demux(video=0) if p.is_keyframe]
        first = packets[0].pts
        expected = [float((p.pts - first) * p.time_base) for p in packets]
    assert times(read_segment(videos[name], fps=None, fast="keyframes")[0]) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2])
def test_fast_sampling_takes_the_only_key_frame(
    tmp_path: Path, small_frames: list[np.ndarray], count: int
) -> None:
    path = write_video(tmp_path / "video.mp4", small_frames[:count])
    frames, report = read_segment(path, fast="keyframes")
    assert times(frames) == [0.0]
    assert (report.frames, report.error) == (count, None)


@pytest.mark.parametrize("fast", [None, "nonref", "keyframes"])
@pytest.mark.parametrize("name", ["video.avi", "video.h264"])
def test_packets_without_timestamps_are_all_decoded(
    tmp_path: Path, small_frames: list[np.ndarray], name: str, fast: str | None
) -> None:
    path = write_video(tmp_path / name, small_frames[:50], preset="medium", g="25", bf="3")
    frames, report = read_segment(path, fast=fast)
    assert (len(frames), report.frames) == (10, 50)


@pytest.mark.parametrize(
    ("extradata", "expected"),
    [
        (b"", False),
        (b"\x01" + bytes(20) + b"\x0f", True),
        (b"\x01" + bytes(20) + b"\x17", False),
        (b"\x01" + bytes(20) + b"\x07", False),
        (b"\x00\x00\x00\x01\x40\x01\x0c\x01\xff\xff", True),
        (b"\x00\x00\x00\x01\x40\x01\x0c\x03\xff\xff", False),
    ],
)
def test_temporal_layers_are_recognized(extradata: bytes, expected: bool) -> None:
    assert sampling.has_one_layer(extradata) == expected
