"""Frames of whole videos and of segments."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from tests.conftest import SAMPLE, remux, write_video
from tests.video.helpers import (
    have_same_frames,
    have_same_pictures,
    join_planes,
    read_sample,
    read_segment,
    select_frames,
    times,
    to_rgb,
)


def test_frames_equal_those_of_the_decoder(sample: Path) -> None:
    frames, report = read_segment(sample, fps=None)
    assert times(frames) == pytest.approx([n / 25 for n in range(250)])
    with av.open(str(sample)) as container:
        for frame, decoded in zip(frames, container.decode(video=0), strict=True):
            assert np.array_equal(join_planes(frame), decoded.to_ndarray().ravel())
    assert (report.frames, report.read_s, report.error) == (250, pytest.approx(10.0), None)


def test_frames_stay_valid_while_decoding_continues(sample: Path) -> None:
    copies = [(f, join_planes(f).copy()) for f in SegmentReader(Segment.whole(sample), None)]
    assert all(np.array_equal(join_planes(frame), copy) for frame, copy in copies)


@pytest.mark.parametrize("suffix", ["mkv", "mov", "flv", "ts", "m2ts"])
def test_containers_give_the_same_frames(tmp_path: Path, suffix: str) -> None:
    path = remux(SAMPLE, tmp_path / f"video.{suffix}")
    frames, report = read_segment(path, fps=None)
    original = read_sample(None)
    assert times(frames) == pytest.approx(times(original))
    assert have_same_pictures(frames, original)
    assert (report.frames, report.error) == (250, None)


@pytest.mark.parametrize("offset_s", [1, 1000, 90_000])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_times_count_from_the_first_frame(tmp_path: Path, suffix: str, offset_s: int) -> None:
    path = tmp_path / f"video.{suffix}"
    with av.open(str(path), "w") as output, av.open(str(SAMPLE)) as container:
        original = container.streams.video[0]
        stream = output.add_stream_from_template(original)
        for packet in container.demux(original):
            if packet.dts is not None:
                shift = round(offset_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                output.mux(packet)
    frames, report = read_segment(path)
    assert have_same_frames(frames, read_sample(5.0))
    assert report.error is None


@pytest.mark.parametrize(
    ("codec", "name", "pixels"),
    [
        ("mjpeg", "video.avi", "yuvj420p"),
        ("libvpx", "video.webm", "yuv420p"),
        ("mpeg2video", "video.mpg", "yuv420p"),
        ("libx264", "video.avi", "yuv420p"),
        ("libx264", "video.mp4", "yuv444p"),
        ("libx264", "video.h264", "yuv420p"),
        ("ffv1", "video.mkv", "yuv444p"),
    ],
)
def test_codecs_give_frames_at_their_times(
    tmp_path: Path, small_frames: list[np.ndarray], codec: str, name: str, pixels: str
) -> None:
    path = write_video(
        tmp_path / name, small_frames[:100], codec=codec, pixels=pixels, g="10", bf="0", b="4000000"
    )
    frames, report = read_segment(path)
    assert times(frames) == pytest.approx([n / 5 for n in range(20)])
    assert report.error is None
    for frame, image in zip(frames, small_frames[:100:5], strict=True):
        assert np.abs(to_rgb(frame) - image).mean() < 6


def test_container_without_presentation_times_gives_frames_in_order(
    tmp_path: Path, small_frames: list[np.ndarray]
) -> None:
    path = write_video(tmp_path / "video.avi", small_frames[:50], preset="medium", g="25", bf="3")
    frames, report = read_segment(path, fps=None)
    assert times(frames) == pytest.approx([n / 25 for n in range(50)], abs=0.05)
    assert times(frames) == sorted(set(times(frames)))
    assert report.error is None


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 2), (2, 4), (1.96, 4.04), (3.3, 7.1), (8, 10)])
@pytest.mark.parametrize("fps", [5.0, None])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_segment_has_the_frames_of_the_whole_video(
    tmp_path: Path, suffix: str, start_s: float, end_s: float, fps: float | None
) -> None:
    path = SAMPLE if suffix == "mp4" else remux(SAMPLE, tmp_path / f"video.{suffix}")
    frames, report = read_segment(path, start_s, end_s, fps)
    assert have_same_frames(frames, [f for f in read_sample(fps) if start_s <= f.time_s < end_s])
    assert report.frames == sum(start_s <= n / 25 < end_s for n in range(250))
    assert report.error is None


@settings(deadline=None, max_examples=12)
@given(
    edges=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    fps=st.sampled_from([None, 1.0, 5.0, 7.0, 25.0, 60.0]),
)
def test_adjacent_segments_sample_each_frame_once(
    small_videos: dict[str, Path], edges: list[int], fps: float | None
) -> None:
    cuts = [0.0, *(n / 25 for n in sorted(edges)), math.inf]
    parts = [read_segment(small_videos["mp4"], start, end, fps) for start, end in itertools.pairwise(cuts)]
    whole = times(read_segment(small_videos["mp4"], fps=fps)[0])
    cells_cut = {math.floor((c + TIME_TOLERANCE_S) * fps) for c in cuts[1:-1]} if fps else set()
    sampled = [f.time_s for frames, _ in parts for f in frames]
    assert sampled == sorted(set(sampled))
    assert set(sampled) <= set(whole)
    assert all(math.floor((t + TIME_TOLERANCE_S) * fps) in cells_cut for t in set(whole) - set(sampled))
    assert sum(report.frames for _, report in parts) == 100


def test_index_counts_from_the_start_of_the_core(sample: Path) -> None:
    frames, report = read_segment(sample, 1.4, 4.8, None, core=(2.0, 4.0))
    assert [f.index for f in frames] == [-1] * 15 + list(range(50)) + [-1] * 20
    assert (report.frames, report.read_s) == (50, pytest.approx(4.8))
    frames, _ = read_segment(sample, 1.4, 4.8, 5.0, core=(2.0, 4.0))
    assert [f.index for f in frames if f.index >= 0] == list(range(0, 50, 5))


@pytest.mark.parametrize(("start_s", "end_s"), [(4.0, 4.0), (4.01, 4.03), (10.0, 20.0), (3600.0, 3660.0)])
def test_segment_without_frames_is_empty(sample: Path, start_s: float, end_s: float) -> None:
    frames, report = read_segment(sample, start_s, end_s, None)
    assert (frames, report.frames) == ([], 0)


def test_segment_of_a_long_video_is_found(long_video: Callable[[int], Path]) -> None:
    frames, report = read_segment(long_video(4), 22.0, 24.0, None)
    original = [f for f in read_sample(None) if 2 <= f.time_s < 4]
    assert times(frames) == pytest.approx([f.time_s + 20 for f in original])
    assert have_same_pictures(frames, original)
    assert report.error is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv", "ts", "m2ts"])
@pytest.mark.parametrize("end_s", [6.0, math.inf])
def test_segment_starts_long_after_a_key_frame(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str, end_s: float
) -> None:
    path = write_video(tmp_path / f"video.{suffix}", small_frames[:160], g="250")
    whole, _ = read_segment(path, fps=None)
    frames, report = read_segment(path, 4.0, end_s, None)
    assert len(whole) == 160
    assert have_same_frames(frames, select_frames(whole, 4.0, end_s))
    assert report.error is None


def test_segment_of_a_raw_stream_is_found(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    path = write_video(tmp_path / "video.h264", small_frames[:100], g="25")
    whole, _ = read_segment(path, fps=None)
    frames, _ = read_segment(path, 1.5, 3.0, None)
    assert len(whole) == 100
    assert have_same_frames(frames, select_frames(whole, 1.5, 3.0))


def test_lack_of_memory_is_not_damage(monkeypatch: pytest.MonkeyPatch, sample: Path) -> None:
    def fail(*_: Any) -> None:
        raise av.error.MemoryError(12, "Cannot allocate memory")

    for name in ("planes.Picture.from_decoded", "sampling.video_frames", "container._open_av"):
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(f"fer_batch.video.{name}", fail)
            read_segment(sample)
