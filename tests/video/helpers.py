"""Reading and comparing of frames, and damaged copies of videos."""

import functools
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from fer_batch.video.planes import Frame
from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.report import ReadReport
from fer_batch.video.segment import Segment
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from tests.conftest import SAMPLE


def make_segment(
    path: Path, start_s: float = 0.0, end_s: float = math.inf, core: tuple[float, float] | None = None
) -> Segment:
    """Return a segment of a video, the last one if its end is infinite."""
    core_start_s, core_end_s = core or (start_s, end_s)
    return Segment(
        uri=str(path), start_s=start_s, end_s=end_s, core_start_s=core_start_s, core_end_s=core_end_s,
        index=1, segments=2 if math.isinf(end_s) else 3,
        first_pts=read_info(path).first_pts if start_s > 0 else None,
    )  # fmt: skip


def read_segment(
    path: Path,
    start_s: float = 0.0,
    end_s: float = math.inf,
    fps: float | None = 5.0,
    core: tuple[float, float] | None = None,
    fast: str | None = None,
    prefetch: int = 0,
) -> tuple[list[Frame], ReadReport]:
    reader = SegmentReader(make_segment(path, start_s, end_s, core), fps, fast=fast, prefetch=prefetch)
    return list(reader), reader.report


def times(frames: list[Frame]) -> list[float]:
    return [frame.time_s for frame in frames]


def have_same_frames(ours: list[Frame], others: list[Frame]) -> bool:
    """Return whether times and pictures are equal."""
    return times(ours) == times(others) and have_same_pictures(ours, others)


def have_same_pictures(ours: list[Frame], others: list[Frame]) -> bool:
    return all(np.array_equal(join_planes(a), join_planes(b)) for a, b in zip(ours, others, strict=True))


def join_planes(frame: Frame) -> np.ndarray:
    """Return all values of a frame, `(n,) uint8`."""
    picture = frame.picture
    return np.concatenate([np.asarray(plane).ravel() for plane in (picture.y, picture.u, picture.v)])


def to_rgb(frame: Frame) -> np.ndarray:
    return frame.picture.to_rgb().astype(int)


def select_frames(frames: list[Frame], start_s: float, end_s: float) -> list[Frame]:
    return [f for f in frames if start_s - TIME_TOLERANCE_S <= f.time_s < end_s - TIME_TOLERANCE_S]


def first_per_cell(all_times: list[float], fps: float) -> list[float]:
    cells = itertools.groupby(all_times, key=lambda t: math.floor((t + TIME_TOLERANCE_S) * fps))
    return [next(group) for _, group in cells]


@functools.cache
def read_sample(fps: float | None) -> list[Frame]:
    return read_segment(SAMPLE, fps=fps)[0]


def copy_packets(source: Path, target: Path, **options: str) -> None:
    with av.open(str(target), "w", options=options) as output, av.open(str(source)) as container:
        original = container.streams.video[0]
        stream = output.add_stream_from_template(original)
        for packet in container.demux(original):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)


def truncate(source: Path, target: Path, share: float) -> Path:
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def zero_bytes(source: Path, target: Path, share: float, count: int) -> Path:
    """Copy a video and overwrite `count` bytes with zeros, from a share of its pictures on."""
    content = bytearray(source.read_bytes())
    start = content.find(b"mdat") + 8 if b"mdat" in content else len(content) // 50
    place = start + int((len(content) - start) * share)
    content[place : place + count] = bytes(count)
    target.write_bytes(content)
    return target


def write_rotated_video(path: Path, images: list[np.ndarray], degrees: int, hflip: bool = False) -> Path:
    """Write a video that shows `images` after its display matrix is applied."""
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "4", "preset": "ultrafast"}
        for number, image in enumerate(images):
            stored = image[:, ::-1] if hflip else image
            stored = np.ascontiguousarray(np.rot90(stored, -degrees // 90))
            if number == 0:
                stream.height, stream.width = stored.shape[:2]
                stream.set_display_rotation(degrees, hflip=hflip)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    return path


def add_silence(container: av.container.OutputContainer, seconds: float) -> Callable[[], None]:
    stream = container.add_stream("aac", rate=48000)

    def write() -> None:
        for number in range(round(seconds * 48000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return write


def write_with_sound(
    path: Path, images: list[np.ndarray], start_s: float = 0.0, sound_s: float = 0.0, **metadata: str
) -> Path:
    """Write 25 frames per second that start at `start_s`, and silence from 0 on, in the order of decoding.

    The codecs fit the container: VP8 and Opus in .webm and .ogv, MPEG in .mpg and .avi, else H.264 and AAC.
    """
    codecs = dict.fromkeys(("webm", "ogv"), ("libvpx", "libopus"))
    codecs |= {"avi": ("mpeg4", "mp2"), "mpg": ("mpeg2video", "mp2")}
    video_codec, sound_codec = codecs.get(path.suffix[1:], ("libx264", "aac"))
    packets: list[av.Packet] = []
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(video_codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"g": "25"}
        stream.metadata.update(metadata)
        sound: Any = container.add_stream(sound_codec, rate=48000, layout="mono") if sound_s else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number + round(25 * start_s), Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode()
        if sound is not None:
            kind, size = sound.codec_context.format.name, 1024
            silence = np.zeros((1, size), np.float32 if kind == "fltp" else np.int16)
            for number in range(round(sound_s * 48000 / size)):
                block = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
                block.sample_rate, block.pts, block.time_base = 48000, number * size, Fraction(1, 48000)
                packets += sound.encode(block)
            packets += sound.encode()
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def copy_shifted(source: Path, target: Path, shift_s: float, **options: str) -> Path:
    """Copy all streams with later timestamps."""
    with av.open(str(source)) as container, av.open(str(target), "w", options=options) as output:
        streams = [output.add_stream_from_template(stream) for stream in container.streams]
        for packet in container.demux():
            if packet.dts is not None and packet.pts is not None:
                shift = round(shift_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    return target


def join_files(target: Path, *parts: Path) -> Path:
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


def count_frames(path: Path) -> int:
    """Return the number of frames that FFmpeg decodes."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


X264 = {"codec": "libx264", "preset": "medium"}
VIDEO_OPTIONS = {
    "plain.mp4": X264 | {"g": "50"},
    "pyramid.mkv": X264 | {"g": "40", "x264-params": "b-pyramid=normal:open-gop=1:b-adapt=0:bframes=8"},
    "strict.ts": X264 | {"preset": "slow", "g": "30", "x264-params": "b-pyramid=strict:bframes=5"},
    "many.flv": X264 | {"x264-params": "b-pyramid=none:bframes=16:b-adapt=0"},
    "variable.mp4": X264 | {"g": "30"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=30:open-gop=1"},
    "hevc.ts": {"codec": "libx265", "x265-params": "log-level=none:keyint=40"},
}
"""Encoder options of videos with unreferenced frames, in every order in which encoders store them."""
PARTS = [(0.0, math.inf), (1.36, 3.0), (2.5, math.inf), (3.0, 3.5)]
"""Start and end of segments of these videos."""


def write_keyed_video(path: Path, keys_s: list[float], seconds: int, fps: int = 5) -> Path:
    """Write a small video whose only key frames are at these times."""
    codec, options = "libx264", {"preset": "ultrafast", "g": "100000", "forced-idr": "1"}
    if path.suffix in (".avi", ".mpg"):
        codec, options = ("mpeg4" if path.suffix == ".avi" else "mpeg2video"), {"g": "600"}
        options |= {"sc_threshold": "1000000000"}
        fps = 5 if path.suffix == ".avi" else 25
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = options | ({"x264-params": "scenecut=0"} if codec == "libx264" else {})
        keys = {round(key_s * fps) for key_s in keys_s}
        for number in range(seconds * fps):
            image = np.full((48, 64, 3), number % 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            frame.pict_type = PictureType.I if number in keys else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
