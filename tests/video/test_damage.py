"""Damaged and truncated files: their frames and their reports."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.errors import DecodeError
from tests.conftest import SAMPLE, remux
from tests.video.helpers import (
    add_silence,
    first_per_cell,
    have_same_frames,
    join_planes,
    read_sample,
    read_segment,
    times,
    truncate,
    zero_bytes,
)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_truncated_file_gives_its_frames_and_reports_the_rest(
    tmp_path: Path, faststart: Path, suffix: str, share: float
) -> None:
    source = faststart if suffix == "mp4" else remux(SAMPLE, tmp_path / "whole.mkv")
    path = truncate(source, tmp_path / f"video.{suffix}", share)
    frames, report = read_segment(path, fps=None)
    assert 25 <= len(frames) < 230
    assert have_same_frames(frames, read_sample(None)[: len(frames)])
    assert report.missing_s == pytest.approx(10 - len(frames) / 25, abs=0.05)
    assert report.read_s == pytest.approx(len(frames) / 25)
    assert report.error is not None
    assert f"read {len(frames) / 25:.1f} of 10.0 s, the file ends before its container says" in report.error


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_segments_of_a_truncated_file(tmp_path: Path, faststart: Path, suffix: str) -> None:
    source = faststart if suffix == "mp4" else remux(SAMPLE, tmp_path / "whole.mkv")
    path = truncate(source, tmp_path / f"video.{suffix}", 0.5)
    frames, report = read_segment(path, 1.0, 3.0, None)
    assert have_same_frames(frames, [f for f in read_sample(None) if 1 <= f.time_s < 3])
    assert report.error is None
    _, whole = read_segment(path)
    frames, report = read_segment(path, 8.0)
    assert (frames, report.frames) == ([], 0)
    assert whole.missing_s == pytest.approx(6.0, abs=0.1)
    assert report.missing_s == pytest.approx(whole.missing_s, abs=0.1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_zeroed_bytes_are_skipped_and_reported(tmp_path: Path, faststart: Path, share: float) -> None:
    path = zero_bytes(faststart, tmp_path / "video.mp4", share, 3000)
    frames, report = read_segment(path, fps=None)
    assert 200 < len(frames) < 250
    assert times(frames) == sorted(times(frames))
    assert times(frames)[-1] == pytest.approx(9.96)
    assert report.damaged_packets > 0
    assert "damaged packets" in str(report.error)
    intact = {f.time_s: join_planes(f) for f in read_sample(None)}
    assert np.array_equal(join_planes(frames[0]), intact[0.0])
    assert all(t in intact for t in times(frames))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_concealed_damage_is_reported(tmp_path: Path, faststart: Path, share: float) -> None:
    path = zero_bytes(faststart, tmp_path / "video.mp4", share, 400)
    frames, report = read_segment(path, fps=None)
    assert not have_same_frames(frames, read_sample(None))
    assert report.damaged_packets + report.damaged_frames > 0


def test_damaged_container_is_read_to_its_end(tmp_path: Path) -> None:
    path = zero_bytes(remux(SAMPLE, tmp_path / "whole.mkv"), tmp_path / "video.mkv", 0.5, 3000)
    frames, report = read_segment(path, fps=None)
    assert 150 < len(frames) < 250
    assert times(frames)[-1] == pytest.approx(9.96)
    assert report.damaged_packets + report.damaged_frames > 0


def test_damaged_beginning_does_not_shift_times(tmp_path: Path, faststart: Path) -> None:
    path = zero_bytes(faststart, tmp_path / "video.mp4", 0.0, 3000)
    frames, _ = read_segment(path, fps=None)
    intact = read_sample(None)
    assert 0 < len(frames) < 250
    assert times(frames)[-1] == pytest.approx(times(intact)[-1])
    assert np.array_equal(join_planes(frames[-1]), join_planes(intact[-1]))


@pytest.mark.parametrize("fps", [5.0, None])
def test_damage_does_not_shift_the_sample_grid(tmp_path: Path, faststart: Path, fps: float | None) -> None:
    path = zero_bytes(faststart, tmp_path / "video.mp4", 0.5, 3000)
    frames, report = read_segment(path, fps=fps)
    all_frames, _ = read_segment(path, fps=None)
    assert times(frames) == (first_per_cell(times(all_frames), fps) if fps else times(all_frames))
    assert report.frames == len(all_frames)


@settings(deadline=None, max_examples=20)
@given(suffix=st.sampled_from(["mp4", "mkv", "ts"]), share=st.floats(0, 0.999), count=st.integers(1, 20_000))
def test_damaged_pictures_never_raise(
    small_videos: dict[str, Path], suffix: str, share: float, count: int
) -> None:
    source = small_videos[suffix]
    path = zero_bytes(source, source.with_name(f"damaged.{suffix}"), share, count)
    try:
        frames, report = read_segment(path, fps=None)
    except DecodeError:
        assert share < 0.1
        return
    assert times(frames) == sorted(times(frames))
    assert report.frames == len(frames)


def test_video_with_longer_audio_is_not_truncated(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    path = tmp_path / "video.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 90, 160, "yuv420p"
        write = add_silence(container, 4.0)
        for image in small_frames[:50]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        write()
    frames, report = read_segment(path, fps=None)
    assert len(frames) == 50
    assert report.error is None


@pytest.mark.parametrize(
    ("name", "frames", "damaged"),
    [
        ("h264.ts", 144, False),
        ("h264.flv", 144, False),
        ("hevc.mp4", 144, False),
        ("av1.mp4", 144, False),
        ("fragmented.mp4", 144, False),
        ("odd_size.mp4", 48, False),
        ("one_frame.mp4", 1, False),
        ("truncated_half_faststart.mp4", 59, True),
        ("bitflips_mdat.mp4", 143, True),
    ],
)
def test_unusual_files_give_all_their_frames(shared: Path, name: str, frames: int, damaged: bool) -> None:
    _, report = read_segment(shared / "media" / "tricky" / name)
    assert report.frames == frames
    assert bool(report.error) == damaged


@pytest.mark.parametrize("cut", [0, 1, 100, 187, 188])
def test_transport_stream_that_ends_inside_a_packet_is_reported(
    tmp_path: Path, small_videos: dict[str, Path], cut: int
) -> None:
    path = tmp_path / "video.ts"
    content = small_videos["ts"].read_bytes()
    path.write_bytes(content[: len(content) // 376 * 188 + cut])
    report = read_segment(path)[1]
    assert ("then the file is truncated" in str(report.error)) == (cut % 188 != 0)


@pytest.mark.parametrize("share", [0.85, 0.9, 0.95])
def test_slightly_truncated_matroska_file_is_reported(
    tmp_path: Path, small_videos: dict[str, Path], share: float
) -> None:
    path = truncate(small_videos["mkv"], tmp_path / "video.mkv", share)
    frames, report = read_segment(path, fps=None)
    assert 70 < len(frames) < 99
    assert "of 4.0 s, the file ends before its container says" in str(report.error)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_gap_in_matroska_is_reported_with_its_length(
    tmp_path: Path, small_videos: dict[str, Path], share: float
) -> None:
    path = zero_bytes(small_videos["mkv"], tmp_path / "video.mkv", share, 20_000)
    frames, report = read_segment(path, fps=None)
    gap = max(np.diff(times(frames)))
    assert report.error is not None
    assert len(frames) < 95
    assert report.lost_s == pytest.approx(gap, abs=0.1)
