"""Copying a video with drawings on its frames. Its times and its sound do not change."""

import contextlib
import math
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
from fer_batch.video.decode import ALL_FRAMES, start_decoding
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import BT601_WEIGHTS, LUMA_WEIGHTS, yuv_to_rgb_matrix
from fer_batch.video.report import ReadReport
from fer_batch.video.source import Source
from fer_batch.video.timestamps import repair_timestamps

OUTPUT_FORMATS = {".mp4": "mp4", ".mkv": "matroska"}
"""Containers by suffix. Matroska rounds times to milliseconds."""
X264_OPTIONS = {"preset": "veryfast", "crf": "20"}
X264_THREADS = 4
"""Threads of the encoder on every machine, as its output depends on their number."""
MAX_TICKS_PER_S = 1_000_000
"""Finest time base that is kept. Finer times are rounded to 1/90000 s."""
AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000)
AAC_LAYOUTS = ("mono", "stereo", "4.0", "5.0", "5.1", "7.1")


@dataclass(frozen=True, kw_only=True)
class RedrawResult:
    """The content of the written video."""

    frames: int
    audio_streams: list[str]
    """The codec of each audio stream, and whether it was copied or encoded."""
    error: str | None
    """The damage of the source, None if all of it was read."""


def redraw_video(
    uri: str,
    target: Path,
    draw: Callable[[Canvas, float], None],
    *,
    offset: int | None = None,
    on_progress: Callable[[float], None] = lambda time_s: None,
) -> RedrawResult:
    """Write the frames of a video to `target` (.mp4 or .mkv) after `draw` has changed each of them.

    `draw` receives the canvas and the time of a frame, counted from the first one. Frames are upright and
    keep their times in the file, also if the sound begins before the picture. Odd sides lose a pixel. Audio
    is copied, or encoded as AAC if the container does not support its codec. Other streams and the metadata
    (place, camera, titles) are left out. `uri` and `offset` are arguments of `open_media`. `on_progress`
    receives the time of each frame.

    Raises DecodeError if no frame can be read, and OutputError if `target` cannot be written.
    """
    report = ReadReport()
    other_packets: list[av.Packet] = []
    count, last_pts = 0, -1
    source = Source(uri, offset)
    source.on_other_packet = other_packets.append
    with contextlib.ExitStack() as stack:
        stack.enter_context(source.container)
        info, frames = start_decoding(source, ALL_FRAMES, None, report)
        output = stack.enter_context(_open_output(target))
        video, time_base = None, info.time_base
        if time_base.denominator > MAX_TICKS_PER_S:
            time_base = Fraction(1, 90_000)
        start = info.first_pts * info.time_base - Fraction(info.start_s)
        audio = {
            stream.index: _AudioStream(stream, output, start) for stream in source.container.streams.audio
        }
        for time_s, image in repair_timestamps(frames, math.inf, info.duration_s, report):
            pts = round((time_s + info.start_s) / time_base)
            if image is None or pts <= last_pts:  # containers refuse a second frame at the same time
                continue
            last_pts = pts
            video = video or _add_video_stream(output, info, image, time_base)
            frame = _copy_upright(image, info, video.width, video.height)
            draw(_to_canvas(frame, image), time_s)
            frame.pts, frame.time_base = pts, time_base
            output.mux(video.encode(frame))
            output.mux(_convert_packets(other_packets, audio))
            count += 1
            on_progress(time_s)
        if video is not None:
            output.mux(video.encode())
        output.mux(_convert_packets(other_packets, audio))
        for stream in audio.values():
            output.mux(stream.flush())
    audio_streams = [stream.description for stream in audio.values()]
    return RedrawResult(frames=count, audio_streams=audio_streams, error=report.error)


@contextlib.contextmanager
def _open_output(target: Path) -> Iterator[av.container.OutputContainer]:
    """Open the file to write. It gets its name only when it is complete."""
    container = OUTPUT_FORMATS[target.suffix.lower()]
    # With its index first, a file can be played while it is downloaded.
    options = {"movflags": "+faststart"} if container == "mp4" else {}
    try:
        with (
            replace_file(target) as temporary,
            av.open(f"file:{temporary}", "w", format=container, container_options=options) as output,
        ):
            yield output
    except (av.error.FFmpegError, OSError) as error:
        raise OutputError(f"{target} can't be written: {error.strerror or error}") from error


def _add_video_stream(
    output: av.container.OutputContainer, info: VideoInfo, first: av.VideoFrame, time_base: Fraction
) -> Any:
    stream: Any = output.add_stream("libx264", rate=Fraction(info.fps).limit_denominator(100_000))
    stream.width, stream.height = max(info.width // 2 * 2, 2), max(info.height // 2 * 2, 2)
    stream.pix_fmt = "yuv420p"
    stream.options = X264_OPTIONS
    stream.time_base = time_base
    context = stream.codec_context
    context.time_base = time_base
    context.thread_count, context.thread_type = X264_THREADS, "FRAME"
    context.sample_aspect_ratio = Fraction(info.pixel_aspect).limit_denominator(1000)
    context.color_range = ColorRange.JPEG if _has_full_range(first) else ColorRange.MPEG
    context.colorspace = first.colorspace if _is_yuv420(first) else 6  # BT.601, as in _copy_upright
    context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
    return stream


def _is_yuv420(image: av.VideoFrame) -> bool:
    """Return whether the encoder takes a frame's planes without a conversion."""
    return image.format.name in ("yuv420p", "yuvj420p")


def _has_full_range(image: av.VideoFrame) -> bool:
    """Return whether the encoded planes of a frame have the full range."""
    return image.format.name == "yuvj420p" or (_is_yuv420(image) and image.color_range == ColorRange.JPEG)


def _copy_upright(image: av.VideoFrame, info: VideoInfo, width: int, height: int) -> av.VideoFrame:
    """Return an upright copy of a frame, as the decoder still needs the original."""
    turns = info.rotation // 90
    stored = (info.width, info.height) if turns % 2 == 0 else (info.height, info.width)
    if not _is_yuv420(image) or (image.width, image.height) != stored:
        image = image.reformat(
            max(stored[0], 2), max(stored[1], 2), "yuv420p",
            dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG,
        )  # fmt: skip
    copy = av.VideoFrame(width, height, "yuv420p")
    for old, new in zip(_planes(image), _planes(copy), strict=True):
        plane = old[::-1] if info.mirrored else old
        new[:] = np.rot90(plane, turns)[: new.shape[0], : new.shape[1]]
    return copy


def _planes(image: av.VideoFrame) -> tuple[np.ndarray, ...]:
    buffers: Any = image.planes
    return tuple(
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in buffers
    )


def _to_canvas(frame: av.VideoFrame, image: av.VideoFrame) -> Canvas:
    weights = LUMA_WEIGHTS.get(image.colorspace, BT601_WEIGHTS) if _is_yuv420(image) else BT601_WEIGHTS
    y, u, v = _planes(frame)
    return Canvas(planes=(y, u, v), yuv_to_rgb=yuv_to_rgb_matrix(*weights, _has_full_range(image)))


def _convert_packets(packets: list[av.Packet], audio: dict[int, "_AudioStream"]) -> list[av.Packet]:
    """Take all packets from the list and return those to write."""
    converted: list[av.Packet] = []
    for packet in packets:
        if packet.stream.index in audio:
            converted += audio[packet.stream.index].convert(packet)
    packets.clear()
    return converted


class _AudioStream:
    """Copies or encodes an audio stream for another container."""

    def __init__(self, stream: Any, output: Any, start: Fraction) -> None:
        self.stream = stream
        self.start = round(start / stream.time_base)
        self.last_dts: int | None = None
        codec = stream.codec_context.name
        self.resampler: Any = None
        if codec in output.supported_codecs:
            self.out = output.add_stream_from_template(stream)
            self.description = f"{codec}, copied"
        else:
            rate = stream.rate if stream.rate in AAC_RATES else 48_000
            layout = stream.layout.name if stream.layout.name in AAC_LAYOUTS else "stereo"
            self.out = output.add_stream("aac", rate=rate, layout=layout)
            self.resampler = av.AudioResampler("fltp", layout, rate, 1024)
            self.description = f"{codec}, encoded as AAC because the container does not support it"
        self.out.metadata.clear()
        if language := stream.metadata.get("language"):
            self.out.metadata["language"] = language

    def convert(self, packet: av.Packet) -> list[av.Packet]:
        if self.resampler is not None:
            return self._encode(packet)
        dts = packet.pts if packet.dts is None else packet.dts
        # Containers refuse packets whose times are damaged.
        if dts is None or (self.last_dts is not None and dts <= self.last_dts):
            return []
        self.last_dts = dts
        packet.pts = dts - self.start if packet.pts is None else packet.pts - self.start
        packet.dts = dts - self.start
        packet.stream = self.out
        return [packet]

    def flush(self) -> list[av.Packet]:
        if self.resampler is None:
            return []
        return self._encode(None) + self.out.encode(None)

    def _encode(self, packet: av.Packet | None) -> list[av.Packet]:
        """Decode, resample and encode a packet. None flushes the decoder and the resampler."""
        packets: list[av.Packet] = []
        with contextlib.suppress(av.error.FFmpegError):
            frames = self.stream.codec_context.decode(packet)
            for frame in frames if packet is not None else [*frames, None]:
                if frame is not None and frame.pts is not None:
                    frame.pts -= self.start
                for resampled in self.resampler.resample(frame):
                    packets += self.out.encode(resampled)
        return packets
