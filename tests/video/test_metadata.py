"""Descriptions of videos, and their upright frames."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fer_batch.video.reader import read_info
from tests.conftest import write_video
from tests.video.helpers import (
    count_frames,
    read_segment,
    times,
    to_rgb,
    write_rotated_video,
    write_with_sound,
)


def test_sample_is_described(sample: Path) -> None:
    info = read_info(sample)
    assert (info.duration_s, info.fps, info.width, info.height) == (10.0, 25.0, 640, 360)
    assert (info.codec, info.first_pts, info.rotation, info.pixel_aspect) == ("h264", 0, 0, 1.0)
    assert isinstance(info.time_base, Fraction)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_video_is_read_upright(tmp_path: Path, small_frames: list[np.ndarray], degrees: int) -> None:
    path = write_rotated_video(tmp_path / "video.mp4", small_frames[:25], degrees)
    info = read_info(path)
    assert (info.width, info.height, info.rotation) == (160, 90, degrees)
    frames, report = read_segment(path)
    assert [f.picture.y.size for f in frames] == [(160, 90)] * 5
    for frame, image in zip(frames, small_frames[:25:5], strict=True):
        assert np.abs(to_rgb(frame) - image).mean() < 6
    assert report.error is None


def test_mirrored_video_is_not_read_upside_down(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    path = write_rotated_video(tmp_path / "video.mp4", small_frames[:5], 0, hflip=True)
    (frame, *_), _ = read_segment(path, fps=None)
    image = to_rgb(frame)
    upright = small_frames[0].astype(int)
    distance = {
        "upright": np.abs(image - upright).mean(),
        "mirrored": np.abs(image - upright[:, ::-1]).mean(),
        "upside down": np.abs(image - upright[::-1]).mean(),
        "rotated by 180 degrees": np.abs(image - upright[::-1, ::-1]).mean(),
    }
    assert min(distance, key=distance.__getitem__) in ("upright", "mirrored")


def test_rotated_video_of_another_encoder_is_read_upright(shared: Path) -> None:
    path = shared / "media" / "tricky" / "rot90.mp4"
    frames, _ = read_segment(path)
    assert {f.picture.y.size for f in frames} == {(360, 640)}
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray()[:360]
    assert np.array_equal(frames[0].picture.y, np.rot90(stored))


@pytest.mark.parametrize(
    ("aspect", "degrees", "expected"),
    [
        *[(Fraction(2, 1), degrees, 0.5 if degrees % 180 else 2.0) for degrees in (0, 90, 180, 270)],
        (Fraction(4, 3), 0, 4 / 3),
        (Fraction(10, 1), 0, 10.0),
        (Fraction(1, 10), 0, 0.1),
        (Fraction(11, 1), 0, 1.0),
        (Fraction(1, 200), 0, 1.0),
        (Fraction(32000, 1), 0, 1.0),
    ],
)
def test_pixel_aspect_is_upright_and_square_if_implausible(
    tmp_path: Path, small_frames: list[np.ndarray], aspect: Fraction, degrees: int, expected: float
) -> None:
    if degrees and not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 90, 160, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if degrees:
            stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(small_frames[0], format="rgb24")))
        container.mux(stream.encode())
    assert read_info(path).pixel_aspect == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "flv", "nut", "mp4", "mov", "ts", "mpg"])
def test_picture_that_starts_after_the_sound_is_whole(
    tmp_path: Path, sample_frames: list[np.ndarray], suffix: str
) -> None:
    # A packet of MPEG-PS states the time of its first frame only, and would hold many smaller ones.
    images = [np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames[:100]]
    path = write_with_sound(tmp_path / f"video.{suffix}", images, 2.0, 6.0)
    info = read_info(path)
    assert info.start_s == pytest.approx(2.0, abs=0.03)
    assert info.duration_s == pytest.approx(4.0, abs=0.3 if suffix == "mpg" else 0.05)
    frames, report = read_segment(path, fps=None)
    assert times(frames) == pytest.approx([n / 25 for n in range(100)], abs=0.002)
    assert report.error is None


def test_tag_of_mkvmerge_is_the_length_of_the_stream(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    """Mkvmerge counts from the first frame, FFmpeg from the start of the file."""
    path = write_with_sound(tmp_path / "video.mkv", small_frames[:100], 2.0, 8.0, _STATISTICS_WRITING_APP="x")
    assert read_info(path).duration_s == pytest.approx(4.0, abs=0.05)  # FFmpeg copies other tags
    content = path.read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"mkvm"))
    assert read_info(path).duration_s == pytest.approx(6.0, abs=0.05)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("video.h264", "libx264", {"preset": "medium", "bf": "3"}),
        ("video.hevc", "libx265", {"x265-params": "log-level=none:bframes=4"}),
        ("video.m1v", "mpeg1video", {"bf": "2"}),
        ("video.m2v", "mpeg2video", {"bf": "2"}),
        ("video.mjpeg", "mjpeg", {}),
    ],
)
def test_raw_stream_has_its_own_rate(
    tmp_path: Path,
    small_frames: list[np.ndarray],
    caplog: pytest.LogCaptureFixture,
    name: str,
    codec: str,
    options: dict[str, Any],
) -> None:
    caplog.set_level("INFO")
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, small_frames[:90], 30, codec, pixels, **options)
    fps = 25 if codec == "mjpeg" else 30  # JPEG states none
    frames, report = read_segment(path, fps=None)
    info = read_info(path)
    assert info.fps == fps
    assert info.duration_s is None
    assert len(frames) == count_frames(path) == 90
    assert times(frames) == pytest.approx([n / fps for n in range(90)])
    assert report.error is None
    assert report.read_s == pytest.approx(90 / fps)
    assert ("25 frames per second are assumed" in caplog.text) == (codec == "mjpeg")
    late, _ = read_segment(path, 1.5, fps=None)
    assert times(late) == [time_s for time_s in times(frames) if time_s >= 1.5 - 1e-4]
