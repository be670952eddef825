"""Copies of videos with drawings: frames, times, orientation and audio."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fer_batch.errors import DecodeError, OutputError
from fer_batch.video.canvas import Canvas
from fer_batch.video.redraw import redraw_video
from tests.conftest import remux, write_video
from tests.video.helpers import truncate


def draw_nothing(_canvas: Canvas, _time_s: float) -> None: ...


def add_audio(
    source: Path, target: Path, codec: str, streams: int = 1, more_s: float = 0, late_s: float = 0
) -> Path:
    """Add streams with a tone from `late_s` before the first frame to `more_s` after the last one."""
    rate = 44_100
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        original = container.streams.video[0]
        pictures = output.add_stream_from_template(original)
        pictures.metadata["location"] = "+52.5+013.4/"
        output.metadata["comment"] = "a secret comment"
        audio = [output.add_stream(codec, rate=rate, layout="stereo") for _ in range(streams)]
        written = 0
        end_s = 0.0
        for packet in container.demux(original):
            if packet.dts is None:
                end_s += more_s
            else:
                packet.pts, packet.dts = (
                    t + round(late_s / packet.time_base) for t in (packet.pts, packet.dts)
                )
                end_s = float(packet.dts * packet.time_base)
                packet.stream = pictures
                output.mux(packet)
            while written / rate < end_s:
                tone = 8000 * np.sin(np.arange(written, written + 1024) / rate * 2 * np.pi * 440)
                samples = np.repeat(tone.astype(np.int16), 2)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
                for added in audio:
                    output.mux(added.encode(frame))
                written += 1024
        for added in audio:
            output.mux(added.encode())
    return target


def read_frames(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times(path: Path) -> list[Fraction]:
    """Return the times of all frames in seconds since the first one."""
    stamps = [frame.pts * frame.time_base for frame in read_frames(path)]
    return [stamp - stamps[0] for stamp in stamps]


def read_audio(path: Path, stream: int = 0) -> list[tuple[float, bytes]]:
    """Return the audio packets with their times since the first frame."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        start = float(first.pts * first.time_base)
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[stream])
        return [(float(p.pts * p.time_base) - start, bytes(p)) for p in packets if p.size]


def mean_difference(one: av.VideoFrame, other: av.VideoFrame) -> float:
    """Return the mean difference of pixel values."""
    images = [frame.to_ndarray(format="rgb24").astype(int) for frame in (one, other)]
    return float(np.abs(images[0] - images[1]).mean())


@pytest.mark.parametrize(("suffix", "exact"), [(".mp4", 0.0), (".mkv", 0.0005)])
def test_frames_times_and_audio_are_kept(sample: Path, tmp_path: Path, suffix: str, exact: float) -> None:
    source = add_audio(sample, tmp_path / "with_sound.mp4", "aac")
    target = tmp_path / f"out{suffix}"
    progress: list[float] = []
    result = redraw_video(str(source), target, draw_nothing, on_progress=progress.append)
    assert (result.frames, result.audio_streams, result.error) == (250, ["aac, copied"], None)
    assert progress == [float(time) for time in times(source)]
    assert times(target) == pytest.approx(times(source), abs=exact)
    before, after = read_frames(source), read_frames(target)
    assert {(frame.width, frame.height) for frame in after} == {(640, 360)}
    assert max(mean_difference(before[n], after[n]) for n in range(0, 250, 25)) < 3
    assert [content for _, content in read_audio(target)] == [content for _, content in read_audio(source)]
    assert [t for t, _ in read_audio(target)] == pytest.approx([t for t, _ in read_audio(source)], abs=0.001)
    with av.open(str(target)) as container:
        metadata = {**container.metadata, **container.streams.video[0].metadata}
        assert container.streams.video[0].codec_context.name == "h264"
    assert "secret" not in str(metadata)
    assert b"+52.5" not in target.read_bytes()


def test_audio_after_the_last_frame_is_kept(sample_frames: list[np.ndarray], tmp_path: Path) -> None:
    pictures = write_video(tmp_path / "pictures.mp4", sample_frames[:25], bf="0", tune="zerolatency")
    source = add_audio(pictures, tmp_path / "with_sound.mp4", "aac", more_s=3.0)
    redraw_video(str(source), tmp_path / "out.mp4", draw_nothing)
    assert len(read_audio(source)) > 150
    assert [content for _, content in read_audio(tmp_path / "out.mp4")] == [
        content for _, content in read_audio(source)
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_before_the_first_frame_is_kept(
    sample_frames: list[np.ndarray], tmp_path: Path, suffix: str
) -> None:
    pictures = write_video(tmp_path / "pictures.mp4", sample_frames[:25], bf="0", tune="zerolatency")
    source = add_audio(pictures, tmp_path / f"late{suffix}", "aac", late_s=2.0)
    target = tmp_path / f"out{suffix}"
    drawn_s: list[float] = []
    redraw_video(str(source), target, lambda _, time_s: drawn_s.append(time_s))
    assert drawn_s == pytest.approx([k / 25 for k in range(25)], abs=0.001)
    first = [read_frames(path)[0] for path in (source, target)]
    assert float(first[0].pts * first[0].time_base) == pytest.approx(2.0, abs=0.03)
    assert float(first[1].pts * first[1].time_base) == float(first[0].pts * first[0].time_base)
    (before, after) = (read_audio(path) for path in (source, target))
    assert [content for _, content in after] == [content for _, content in before]
    assert [t for t, _ in after] == pytest.approx([t for t, _ in before], abs=0.001)


def test_unsupported_audio_codec_is_encoded_as_aac(sample: Path, tmp_path: Path) -> None:
    source = add_audio(sample, tmp_path / "with_sound.mov", "pcm_mulaw", streams=2)
    target = tmp_path / "out.mp4"
    result = redraw_video(str(source), target, draw_nothing)
    assert result.audio_streams == ["pcm_mulaw, encoded as AAC because the container does not support it"] * 2
    with av.open(str(target)) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac", "aac"]
        (samples, *_) = [f.to_ndarray() for n, f in enumerate(container.decode(audio=1)) if n == 100]
    assert samples.max() == pytest.approx(8000 / 32_768, rel=0.1)


def test_variable_frame_rate_is_kept(sample_frames: list[np.ndarray], tmp_path: Path) -> None:
    stamps = [0.0, 0.04, 0.2, 0.201, 0.5, 1.7, 1.75, 1.8]
    source = write_video(tmp_path / "uneven.mp4", sample_frames[:8], times_s=stamps)
    redraw_video(str(source), tmp_path / "out.mp4", draw_nothing)
    assert [float(time) for time in times(tmp_path / "out.mp4")] == pytest.approx(stamps, abs=1e-9)


def test_first_of_two_frames_at_one_time_is_written(sample_frames: list[np.ndarray], tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", sample_frames[:6], g="1", bf="0")
    source = tmp_path / "twice.mkv"
    with av.open(str(whole)) as container, av.open(str(source), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet, stamp in zip(container.demux(video=0), (0, 40, 40, 80, 80, 120), strict=False):
            packet.pts = packet.dts = stamp
            packet.stream = stream
            output.mux(packet)
    assert len(read_frames(source)) == 6
    redraw_video(str(source), tmp_path / "out.mp4", draw_nothing)
    assert [float(time) for time in times(tmp_path / "out.mp4")] == pytest.approx([0, 0.04, 0.08, 0.12])


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_video_becomes_upright(sample_frames: list[np.ndarray], tmp_path: Path, degrees: int) -> None:
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    source, image = tmp_path / "turned.mp4", sample_frames[0]
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stored = np.ascontiguousarray(np.rot90(image, -degrees // 90))
        stream.height, stream.width, stream.pix_fmt = *stored.shape[:2], "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())

    def mark(canvas: Canvas, _: float) -> None:
        canvas.fill((0, 0, 64, 36), "#ffffff")

    redraw_video(str(source), tmp_path / "out.mp4", mark)
    (frame,) = read_frames(tmp_path / "out.mp4")
    assert (frame.rotation, frame.width, frame.height) == (0, 640, 360)
    shown = frame.to_ndarray(format="rgb24").astype(int)
    assert shown[4:32, 4:60].min() > 230
    assert np.abs(shown[60:, 80:] - image[60:, 80:]).mean() < 4
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == (2 if degrees % 180 == 0 else Fraction(1, 2))


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        ("yuv420p", (161, 91)),
        ("yuv444p", (160, 90)),
        ("yuv422p10le", (160, 90)),
        ("gray", (160, 90)),
        ("bgr0", (3, 3)),
    ],
)
def test_pixel_formats_and_odd_sizes_become_yuv420p(
    sample_frames: list[np.ndarray], tmp_path: Path, pixels: str, size: tuple[int, int]
) -> None:
    width, height = size
    source = tmp_path / "other.mkv"
    images = [np.ascontiguousarray(image[:height, :width]) for image in sample_frames[:3]]
    write_video(source, images, codec="ffv1", pixels=pixels)
    assert redraw_video(str(source), tmp_path / "out.mp4", draw_nothing).frames == 3
    before, after = read_frames(source), read_frames(tmp_path / "out.mp4")
    assert {frame.format.name for frame in after} == {"yuv420p"}
    even = (width // 2 * 2, height // 2 * 2)
    assert [(frame.width, frame.height) for frame in after] == [even] * 3
    images = [f[0].to_ndarray(format="rgb24")[: even[1], : even[0]].astype(int) for f in (before, after)]
    assert np.abs(images[0] - images[1]).mean() < 8


def test_full_range_is_kept(sample_frames: list[np.ndarray], tmp_path: Path) -> None:
    source = write_video(tmp_path / "full.mp4", sample_frames[:2], **{"x264-params": "fullrange=on"})
    assert read_frames(source)[0].format.name == "yuvj420p"

    def mark(canvas: Canvas, _: float) -> None:
        canvas.fill((0, 0, 64, 36), "#808080")

    redraw_video(str(source), tmp_path / "out.mp4", mark)
    before, after = read_frames(source)[0], read_frames(tmp_path / "out.mp4")[0]
    shown = after.to_ndarray(format="rgb24").astype(int)
    assert shown[4:32, 4:60] == pytest.approx(128, abs=4)
    assert np.abs(shown[60:] - before.to_ndarray(format="rgb24")[60:]).mean() < 4


def test_truncated_video_is_written_to_its_end(sample: Path, tmp_path: Path) -> None:
    source = truncate(remux(sample, tmp_path / "whole.mkv"), tmp_path / "truncated.mkv", 0.5)
    result = redraw_video(str(source), tmp_path / "out.mp4", draw_nothing)
    assert 20 < result.frames < 240
    assert len(read_frames(tmp_path / "out.mp4")) == result.frames


def write_text(path: Path) -> Path:
    path.write_bytes(b"not a video")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda path: path, "does not exist"), (write_text, "not a video")],
    ids=["missing", "text"],
)
def test_unreadable_video_leaves_no_file(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    source = make(tmp_path / "x.mp4")
    with pytest.raises(DecodeError, match=message):
        redraw_video(str(source), tmp_path / "out.mp4", draw_nothing)
    assert [path for path in tmp_path.iterdir() if path != source] == []


def test_error_keeps_the_existing_target(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"before")

    def fail(_canvas: Canvas, time_s: float) -> None:
        if time_s > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        redraw_video(str(sample), tmp_path / "out.mp4", fail)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.mp4", b"before")]


def test_missing_folder_is_an_error(sample: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written: No such file"):
        redraw_video(str(sample), tmp_path / "no" / "out.mp4", draw_nothing)
