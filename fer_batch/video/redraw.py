"""A video written anew with something drawn on each frame; its times and its sound stay as they are."""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from fer_batch.errors import OutputError
from fer_batch.storage.atomic import replace_file
from fer_batch.video.canvas import Canvas
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import BT601_WEIGHTS, LUMA_WEIGHTS
from fer_batch.video.reader import open_all_frames
from fer_batch.video.report import ReadReport

CONTAINERS = {".mp4": "mp4", ".mkv": "matroska"}
"""What is written, by its suffix. Matroska rounds times to milliseconds."""
OPTIONS = {"preset": "veryfast", "crf": "20"}
"""Of x264."""
THREADS = 4
"""Of x264, on every machine, as its output depends on them."""
FINEST = 1_000_000
"""Ticks a second of times that are kept as they are; others are rounded to 1/90000 s."""
RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000)
"""Of AAC."""
LAYOUTS = ("mono", "stereo", "4.0", "5.0", "5.1", "7.1")
"""Of AAC, too; others become stereo."""


@dataclass(frozen=True, kw_only=True)
class RedrawResult:
    """What became of a video."""

    frames: int
    sounds: list[str]
    """A stream of sound each: its codec, and whether it was copied."""
    error: str | None
    """Why not all of it could be read."""


def redraw(
    uri: str,
    target: Path,
    draw: Callable[[Canvas, float], None],
    *,
    offset: int | None = None,
    on_progress: Callable[[float], None] = lambda time_s: None,
) -> RedrawResult:
    """Write a video's frames to `target` (.mp4 or .mkv), each after `draw` was called with it and its time.

    Frames come upright, at the times that they had, counted from the first; odd sides lose a pixel. Packets
    of sound are copied, or encoded as AAC where the container doesn't take them. Other streams, and what the
    file says of itself (place, camera, titles), are left out. `uri` and `offset` are as `open_media` takes
    them; `on_progress` is told the time of each frame.

    Raises DecodeError where no frame can be read, OutputError where `target` can't be written.
    """
    report = ReadReport(core_start_s=0.0, core_end_s=float("inf"))
    beside: deque[av.Packet] = deque()
    count, last = 0, -1
    with (
        open_all_frames(uri, offset, report, beside.append) as (info, source, frames),
        _opened(target) as output,
    ):
        video, time_base = None, info.time_base
        if time_base.denominator > FINEST:
            time_base = Fraction(1, 90_000)
        start = info.first_pts * info.time_base
        sounds = {stream.index: _Sound(stream, output, start) for stream in source.streams.audio}
        for time_s, image in frames:
            stamp = round(time_s / time_base)
            if stamp <= last:  # two frames at one time, of which no container takes the second
                continue
            last = stamp
            video = video or _video(output, info, image, time_base)
            fresh = _upright(image, info, video.width, video.height)
            draw(_canvas(fresh, image), time_s)
            fresh.pts, fresh.time_base = stamp, time_base
            output.mux(video.encode(fresh))
            output.mux(_passed(beside, sounds))
            count += 1
            on_progress(time_s)
        if video is not None:
            output.mux(video.encode())
        output.mux(_passed(beside, sounds))
        for sound in sounds.values():
            output.mux(sound.rest())
    return RedrawResult(frames=count, sounds=[sound.told for sound in sounds.values()], error=report.error)


@contextlib.contextmanager
def _opened(target: Path) -> Iterator[av.container.OutputContainer]:
    """The file to write; it is there under its name only when it is whole."""
    kind = CONTAINERS[target.suffix.lower()]
    options = {"movflags": "+faststart"} if kind == "mp4" else {}  # players begin before they have all of it
    try:
        with (
            replace_file(target) as temporary,
            av.open(f"file:{temporary}", "w", format=kind, container_options=options) as output,
        ):
            yield output
    except (av.error.FFmpegError, OSError) as error:
        raise OutputError(f"{target} can't be written: {error.strerror or error}") from error


def _video(
    output: av.container.OutputContainer, info: VideoInfo, first: av.VideoFrame, base: Fraction
) -> Any:
    stream: Any = output.add_stream("libx264", rate=Fraction(info.fps).limit_denominator(100_000))
    stream.width, stream.height = max(info.width // 2 * 2, 2), max(info.height // 2 * 2, 2)
    stream.pix_fmt = "yuv420p"
    stream.options = OPTIONS
    stream.time_base = base
    context = stream.codec_context
    context.time_base = base
    context.thread_count, context.thread_type = THREADS, "FRAME"
    context.sample_aspect_ratio = Fraction(info.pixel_aspect).limit_denominator(1000)
    kept = _is_plain(first)
    context.color_range = ColorRange.JPEG if _is_full(first) else ColorRange.MPEG
    context.colorspace = first.colorspace if kept else 6  # BT.601, as in _upright
    context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
    return stream


def _is_plain(image: av.VideoFrame) -> bool:
    """Whether a frame's planes are what is encoded."""
    return image.format.name in ("yuv420p", "yuvj420p")


def _is_full(image: av.VideoFrame) -> bool:
    """Whether what is encoded of a frame has the full range."""
    return image.format.name == "yuvj420p" or (_is_plain(image) and image.color_range == ColorRange.JPEG)


def _upright(image: av.VideoFrame, info: VideoInfo, width: int, height: int) -> av.VideoFrame:
    """A copy of a frame, as decoders still need theirs."""
    turns = info.rotation // 90
    stored = (info.width, info.height) if turns % 2 == 0 else (info.height, info.width)
    if not _is_plain(image) or (image.width, image.height) != stored:
        image = image.reformat(
            max(stored[0], 2), max(stored[1], 2), "yuv420p",
            dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG,
        )  # fmt: skip
    fresh = av.VideoFrame(width, height, "yuv420p")
    for old, new in zip(_planes(image), _planes(fresh), strict=True):
        plane = old[::-1] if info.mirrored else old
        new[:] = np.rot90(plane, turns)[: new.shape[0], : new.shape[1]]
    return fresh


def _planes(image: av.VideoFrame) -> tuple[np.ndarray, ...]:
    buffers: Any = image.planes
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in buffers
    )


def _canvas(fresh: av.VideoFrame, image: av.VideoFrame) -> Canvas:
    red, blue = LUMA_WEIGHTS.get(image.colorspace, BT601_WEIGHTS) if _is_plain(image) else BT601_WEIGHTS
    y, u, v = _planes(fresh)
    return Canvas(planes=(y, u, v), red=red, blue=blue, full=_is_full(image))


def _passed(beside: deque[av.Packet], sounds: dict[int, "_Sound"]) -> list[av.Packet]:
    """What is written for the packets that came beside the video's; they are taken away."""
    packets = [
        sounds[packet.stream.index].passed(packet) for packet in beside if packet.stream.index in sounds
    ]
    beside.clear()
    return [*itertools.chain(*packets)]


class _Sound:
    """A stream of sound on its way into another container."""

    def __init__(self, stream: Any, output: Any, start: Fraction) -> None:
        self.stream = stream
        self.start = round(start / stream.time_base)
        self.last: int | None = None
        codec = stream.codec_context.name
        self.resampler = None
        if codec in output.supported_codecs:
            self.out = output.add_stream_from_template(stream)
            self.told = f"{codec}, copied"
        else:
            rate = stream.rate if stream.rate in RATES else 48_000
            layout = stream.layout.name if stream.layout.name in LAYOUTS else "stereo"
            self.out = output.add_stream("aac", rate=rate, layout=layout)
            self.resampler = av.AudioResampler("fltp", layout, rate, 1024)
            self.told = f"{codec}, encoded as AAC, as the container doesn't take it"
        self.out.metadata.clear()
        if language := stream.metadata.get("language"):
            self.out.metadata["language"] = language

    def passed(self, packet: av.Packet) -> list[av.Packet]:
        """What is written for a packet of the stream."""
        if self.resampler is not None:
            with contextlib.suppress(av.error.FFmpegError):
                return self._encoded(self.resampler, packet.decode())
            return []
        dts = packet.pts if packet.dts is None else packet.dts
        if dts is None or (self.last is not None and dts <= self.last):  # damaged: no container takes it
            return []
        self.last = dts
        packet.pts = dts - self.start if packet.pts is None else packet.pts - self.start
        packet.dts = dts - self.start
        packet.stream = self.out
        return [packet]

    def rest(self) -> list[av.Packet]:
        """What is still to be written at the end."""
        if self.resampler is None:
            return []
        packets: list[av.Packet] = []
        with contextlib.suppress(av.error.FFmpegError):
            packets += self._encoded(self.resampler, self.stream.codec_context.decode(None))
            packets += self._encoded(self.resampler, [None])
        return packets + self.out.encode(None)

    def _encoded(self, resampler: Any, sounds: list[Any]) -> list[av.Packet]:
        packets = []
        for sound in sounds:
            if sound is not None and sound.pts is not None:
                sound.pts -= self.start
            for part in resampler.resample(sound):
                packets += self.out.encode(part)
        return packets
