"""Videos to frames with their times, by FFmpeg's libraries (PyAV), past whatever is damaged."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.vision.picture import Picture, rgb_matrix

av.logging.set_level(av.logging.PANIC)

SAME_TIME_S = 1e-4
"""Two times closer than this are one."""
MAX_LINES = 1080
"""A higher picture is shrunk to this: faces are looked for at no more."""
PLANAR = ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p")
"""Formats whose planes are looked at as they are; others become yuv420p first."""
BT601 = (0.299, 0.114)
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""What red and blue weigh in luma, by the colour space (ITU-T H.273) that a frame says: BT.709, SMPTE 240M,
BT.2020."""
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
"""Quarter turns counter-clockwise."""
MAX_BROKEN_READS = 100
"""Errors of the container after which the rest of a file is given up."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says of its video stream."""

    duration_s: float | None
    fps: float
    """Average frames a second."""
    width: int
    height: int
    """Of the upright frame, in pixels as stored."""
    codec: str
    first_pts: int
    """Presentation timestamp of the first frame, in units of `time_base`: where times count from."""
    time_base: Fraction
    rotation: int
    """Degrees counter-clockwise that make the frame upright: 0, 90, 180 or 270."""
    mirrored: bool
    """Whether the frame is upright only after it is flipped (top to bottom, before it is turned)."""
    pixel_aspect: float
    """Width over height of a pixel of the upright frame."""
    container: str
    """FFmpeg's name of the format."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame, never without its time."""

    time_s: float
    """Since the first frame of the video."""
    index: int
    """Counted from the first frame of the core; -1 outside the core."""
    picture: Picture
    """Upright, at most 1080 lines."""


@dataclass(kw_only=True)
class Reading:
    """How far the reading of a segment got; complete when its frames are exhausted."""

    core_start_s: float
    core_end_s: float
    """Infinity for the last segment of a video."""
    frames: int = 0
    """Frames in the core."""
    read_s: float = 0.0
    """End of the last frame that could be read, in seconds of the video."""
    last_s: float = -math.inf
    """Time of the last frame."""
    bad_packets: int = 0
    damaged_frames: int = 0
    """Frames that the decoder itself calls corrupt."""
    others_end_s: float = 0.0
    """End of the last packet of any other stream: a file is cut short only where none goes on."""
    short_s: float = 0.0
    """Seconds that the container promises and the file doesn't have."""
    problem: str | None = None
    """Why the reading stopped before its time."""

    @property
    def error(self) -> str | None:
        """What is wrong with this part of the file, None where nothing is."""
        found = [self.problem] if self.problem else []
        if self.bad_packets:
            found.append(f"{self.bad_packets} damaged packets")
        if self.damaged_frames:
            found.append(f"{self.damaged_frames} damaged frames")
        if self.short_s > 0:
            found.append(f"the file ends {self.short_s:.1f} s before its container says")
        return "; ".join(found) or None

    def note(self, time_s: float, fps: float) -> int:
        """Count a frame; its index in the core, or -1."""
        self.last_s = time_s
        self.read_s = time_s + 1 / fps
        if not self.core_start_s <= time_s < self.core_end_s:
            return -1
        self.frames += 1
        return self.frames - 1


def read_info(path: str | Path) -> VideoInfo:
    """Open a video, decode its first frame, and say what it is.

    Raises NoVideoError where there is no video stream (cover art is none), DecodeError where it can't be
    read.
    """
    with _open(path) as container:
        return _info(container, _video_stream(container))


def sampled_frames(
    path: str | Path, start_s: float, end_s: float, fps: float | None, first_pts: int | None, reading: Reading
) -> Iterator[Frame]:
    """The frames from `start_s` up to `end_s` that are looked at, in order of time, one in memory at a time.

    Looked at is the first frame of each cell `[k / fps, (k + 1) / fps)` of the video's time, or every frame
    where `fps` is None. `first_pts` is the video's own (from `read_info`); where it is None the file is one
    segment and is read whole. `reading` is filled on the way; damage ends up there, never as an exception.
    Raises DecodeError only where the file can't be opened.
    """
    cell = _Cells(fps, start_s)
    info = read_info(path)
    origin = info.first_pts if first_pts is None else first_pts
    yield from _pyav_frames(path, info, start_s, end_s, cell, origin, reading)


class _Cells:
    """Which frames are the first of their cell of the time grid, wherever the reading starts."""

    def __init__(self, fps: float | None, start_s: float) -> None:
        self.fps = fps
        self.last = self._of(start_s - 2 * SAME_TIME_S) if start_s > 0 else -1

    def _of(self, time_s: float) -> int:
        return math.floor((time_s + SAME_TIME_S) * self.fps) if self.fps else -1

    def is_first(self, time_s: float) -> bool:
        if self.fps is None:
            return True
        cell = self._of(time_s)
        first = cell > self.last
        self.last = max(cell, self.last)
        return first


def _pyav_frames(
    path: str | Path,
    info: VideoInfo,
    start_s: float,
    end_s: float,
    cell: _Cells,
    origin: int,
    reading: Reading,
) -> Iterator[Frame]:
    skipped_s = 0.0
    # A seek may land after its target where a container's index is poor: then look for the start further
    # back.
    for back_s in (0.0, 5.0, 30.0, math.inf):
        from_s = max(start_s - back_s, 0.0)
        with _open(path) as container:
            stream = _video_stream(container)
            if from_s > 0 and not _seek(container, stream, origin, from_s):
                continue
            frames = _decoded(container, stream, info, origin, reading)
            first = next(frames, None)
            if from_s > 0 and (first is None or first[0] > start_s + 2 / info.fps):
                continue
            for time_s, image in itertools.chain([first] if first else [], frames):
                if time_s < start_s - SAME_TIME_S or time_s <= reading.last_s + SAME_TIME_S:
                    skipped_s = max(skipped_s, time_s + 1 / info.fps)
                    continue
                if time_s >= end_s - SAME_TIME_S:
                    return
                reading.damaged_frames += bool(image.is_corrupt)
                index = reading.note(time_s, info.fps)
                if not cell.is_first(time_s):
                    continue
                try:
                    picture = _picture(image)
                except (av.error.FFmpegError, ValueError) as error:
                    reading.problem = f"a frame can't be converted ({_reason(error)})"
                    continue
                yield Frame(time_s=time_s, index=index, picture=picture)
            if not math.isfinite(end_s):
                reading.short_s = _missing(info, max(reading.read_s, skipped_s, reading.others_end_s))
            return


def _decoded(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    info: VideoInfo,
    origin: int,
    reading: Reading,
) -> Iterator[tuple[float, av.VideoFrame]]:
    """The frames that FFmpeg makes of an opened file, with their times, past whatever is damaged."""
    previous = -1 / info.fps
    broken = 0
    packets = container.demux()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            broken += 1
            if broken > MAX_BROKEN_READS:
                reading.problem = f"the container can't be read beyond {max(previous, 0):.1f} s"
                return
            packets = container.demux()
            continue
        if packet.stream is not stream:
            if packet.pts is not None and packet.time_base:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                reading.others_end_s = max(reading.others_end_s, end_s - float(origin * info.time_base))
            continue
        try:
            images = packet.decode()
        except av.error.FFmpegError:
            # Before the core lies another segment's part, and after a seek the decoder may lack references.
            reading.bad_packets += previous >= reading.core_start_s - 2 / info.fps
            continue
        for image in images:
            if isinstance(image, av.VideoFrame):
                pts = _timestamp(image, info.container)
                previous = previous + 1 / info.fps if pts is None else float((pts - origin) * info.time_base)
                yield previous, image


def _open(path: str | Path) -> av.container.InputContainer:
    try:
        return av.open(str(path), metadata_errors="replace")
    except FileNotFoundError:
        raise DecodeError("the file does not exist") from None
    except PermissionError:
        raise DecodeError("the file may not be read (permission denied)") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        size = Path(path).stat().st_size if Path(path).is_file() else None
        reason = "the file is empty" if size == 0 else f"not a video that FFmpeg can open ({_reason(error)})"
        raise DecodeError(reason) from None


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.codec_context.thread_count = 1
            return stream
    raise NoVideoError("the file has no video stream")


def _info(container: av.container.InputContainer, stream: av.VideoStream) -> VideoInfo:
    first = None
    problem = ""
    try:
        for packet in container.demux(stream):
            try:
                first = next(iter(packet.decode()), None)
            except av.error.FFmpegError as error:
                problem = _reason(error)
            if first is not None:
                break
    except av.error.FFmpegError as error:
        problem = _reason(error)
    if first is None or stream.time_base is None:
        raise DecodeError(f"no frame can be decoded ({problem or 'the stream is empty'})")
    width, height = first.width, first.height
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    rotation = first.rotation % 360
    if rotation % 180:
        width, height, aspect = height, width, 1 / aspect
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return VideoInfo(
        duration_s=_duration(container, stream),
        fps=rate if 0 < rate <= 1000 else 25.0,
        width=width,
        height=height,
        codec=stream.codec_context.codec.canonical_name,
        first_pts=_first_timestamp(first, container.format.name, stream.start_time),
        time_base=stream.time_base,
        rotation=rotation,
        pixel_aspect=aspect,
        container=container.format.name,
        mirrored=_mirrored(first),
    )


def _timestamp(image: av.VideoFrame, container: str) -> int | None:
    """A frame's presentation timestamp. AVI has none: there frames come out one by one as they are shown."""
    return image.dts if container == "avi" else image.pts


def _first_timestamp(first: av.VideoFrame, container: str, start: int | None) -> int:
    """Where times count from: the start that the container says, where the frames before `first` are
    ruined.
    """
    pts = _timestamp(first, container) or 0
    return pts if start is None or container == "avi" else min(pts, start)


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds of video by the stream, by Matroska's tag, or by the container; None if nothing says."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        try:
            end_s = int(tag[0]) * 3600 + int(tag[1]) * 60 + float(tag[2])
            return end_s - max(container.start_time or 0, 0) / av.time_base
        except ValueError:
            pass
    if not container.duration:
        return None
    # Matroska and FLV count the container's duration from zero, not from the first timestamp.
    start = (
        max(container.start_time or 0, 0) if container.format.name.split(",")[0] in ("matroska", "flv") else 0
    )
    return (container.duration - start) / av.time_base


def _missing(info: VideoInfo, read_s: float) -> float:
    """Seconds that are missing at the end, 0 where the difference is what containers are commonly off by."""
    short = (info.duration_s or 0) - read_s
    return short if short > 0.5 + 3 / info.fps else 0.0


def _seek(
    container: av.container.InputContainer, stream: av.VideoStream, origin: int, target_s: float
) -> bool:
    assert stream.time_base is not None
    try:
        container.seek(origin + int(target_s / stream.time_base), stream=stream, backward=True)
    except av.error.FFmpegError:
        return False
    return True


def _picture(decoded: av.VideoFrame) -> Picture:
    """The frame's own planes, upright; they hold on to the decoder's memory as long as they are looked at."""
    full = decoded.format.name.startswith("yuvj") or decoded.color_range == ColorRange.JPEG
    red, blue = LUMA_WEIGHTS.get(decoded.colorspace, BT601)
    mirrored, turns = _mirrored(decoded), (decoded.rotation // 90) % 4
    lines = decoded.width if turns % 2 else decoded.height
    shrink = max(lines / MAX_LINES, 1.0)
    if decoded.format.name not in PLANAR or shrink > 1:
        full, (red, blue) = False, BT601
        decoded = decoded.reformat(
            max(round(decoded.width / shrink), 1),
            max(round(decoded.height / shrink), 1),
            "yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation="AREA",
        )
    buffers: Any = decoded.planes  # which the stubs of Pillow do not take
    planes = [
        Image.frombuffer("L", (buffer.width, buffer.height), buffer, "raw", "L", buffer.line_size, 1)
        for buffer in buffers
    ]
    if mirrored:
        planes = [plane.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for plane in planes]
    if turns:
        planes = [plane.transpose(TURNS[turns]) for plane in planes]
    y, u, v = planes
    return Picture(y=y, u=u, v=v, to_rgb=rgb_matrix(red, blue, full), shrink=shrink)


def _mirrored(decoded: av.VideoFrame) -> bool:
    matrix: Any = decoded.side_data.get("DISPLAYMATRIX")  # a buffer, which the stubs of PyAV do not say
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).astype(np.int64).tolist()
    return a * d - b * c < 0


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).split(":")[0].strip()
