"""Videos to frames with their times: two readers, decord and PyAV, behind `sampled_frames`.

decord reads files that are one segment and intact. It opens a long file slowly, and gives no sign of most
damage; so PyAV looks such a file through first (frames are decoded, not converted), and reads parts of long
files, what is damaged, and whatever else decord is not right for. Both give the same pixels and the same
times.
"""

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

from fer_batch.errors import DecodeError, NoVideoError

av.logging.set_level(av.logging.PANIC)

SAME_TIME_S = 1e-4
"""Two times closer than this are one."""
DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "flv")
"""Where decord is right: in MPEG-TS and MPEG-PS it gave frames of the wrong group of pictures, and of a
damaged Matroska it left out frames, both without an error (measured on 3.3.0)."""
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
    image: np.ndarray
    """`(H, W, 3) uint8` RGB, upright."""


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
    if first_pts is None and _is_intact(path, info):
        try:
            yield from _decord_frames(path, info, cell, reading)
            return
        except _DecordFailedError:
            pass
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


class _DecordFailedError(Exception):
    pass


def _is_intact(path: str | Path, info: VideoInfo) -> bool:
    """Whether decord may read a file: a container that it is right for, every frame there and undamaged."""
    if info.container not in DECORD_CONTAINERS or info.mirrored:
        return False
    reading = Reading(core_start_s=0.0, core_end_s=math.inf)
    with _open(path) as container:
        for time_s, image in _decoded(container, _video_stream(container), info, info.first_pts, reading):
            reading.note(time_s, info.fps)
            reading.damaged_frames += bool(image.is_corrupt)
    reading.short_s = _missing(info, max(reading.read_s, reading.others_end_s))
    return reading.error is None


def _decord_frames(path: str | Path, info: VideoInfo, cell: _Cells, reading: Reading) -> Iterator[Frame]:
    import decord  # here, because decord must be imported after torch where both are used

    decord.logging.set_level(decord.logging.FATAL)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        starts = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))))[:, 0]
    except (decord.DECORDError, RuntimeError, OSError, IndexError):
        raise _DecordFailedError from None
    if not np.isfinite(starts).all():
        raise _DecordFailedError
    ticks = np.round(starts.astype(np.float64) / float(info.time_base)).astype(np.int64)
    times = [float((tick - ticks[0]) * info.time_base) for tick in ticks.tolist()]
    if any(b <= a for a, b in itertools.pairwise(times)):
        raise _DecordFailedError
    for number, time_s in enumerate(times):
        image = None
        if cell.is_first(time_s):
            try:
                image = reader.get_batch([number]).asnumpy()[0]
            except (decord.DECORDError, RuntimeError):
                cell.last -= 1  # not seen after all
                raise _DecordFailedError from None
        index = reading.note(time_s, info.fps)
        if image is not None:
            yield Frame(time_s=time_s, index=index, image=image)


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
    if math.isfinite(reading.last_s):
        start_s = max(start_s, reading.last_s)
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
                    picture = _upright(image)
                except (av.error.FFmpegError, ValueError) as error:
                    reading.problem = f"a frame can't be converted to RGB ({_reason(error)})"
                    continue
                yield Frame(time_s=time_s, index=index, image=picture)
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


def _upright(decoded: av.VideoFrame) -> np.ndarray:
    image: np.ndarray = decoded.to_ndarray(format="rgb24")
    if _mirrored(decoded):
        image = np.ascontiguousarray(image[::-1])
    turns = (decoded.rotation // 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _mirrored(decoded: av.VideoFrame) -> bool:
    matrix: Any = decoded.side_data.get("DISPLAYMATRIX")  # a buffer, which the stubs of PyAV do not say
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).astype(np.int64).tolist()
    return a * d - b * c < 0


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).split(":")[0].strip()
