"""Videos to frames with their times, by FFmpeg's libraries (PyAV), past whatever is damaged."""

import contextlib
import heapq
import itertools
import math
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import av.logging
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.storage.media import MediaFile, open_media, read_identity
from fer_batch.video.planes import BT601_WEIGHTS, LUMA_WEIGHTS, Picture, yuv_to_rgb_matrix

av.logging.set_level(av.logging.PANIC)

TIME_TOLERANCE_S = 1e-4
"""Two times closer than this are one."""
TAIL_S = 10.0
"""Segments overlap by less: so much is remembered of what was read."""
TAIL_BYTES = 64 << 20
"""Remembered at most."""
KEYED = ("h264", "hevc", "vp9", "av1")
"""Codecs whose packets are a frame each, so that those between key frames are counted undecoded."""
MAX_LINES = 1080
"""A higher picture is shrunk to this: faces are looked for at no more."""
PLANAR = ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p")
"""Formats whose planes are looked at as they are; others become yuv420p first."""
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
"""Quarter turns counter-clockwise."""
MAX_BROKEN_READS = 100
"""Errors of the container after which the rest of a file is given up."""
MAX_SIDE = 16_384
"""Pixels of a frame's side: twice what 8K has, and about what the highest levels of H.264 and HEVC allow."""
MAX_PIXELS = 8192 * 8192
"""Of a frame, twice what 8K has: decoders hold up to some twenty, of 100 MB each in the commonest format."""
MAX_ASPECT_RATIO = 32
"""Times that a side may hold the other. Faces are looked for by a share of the height, for which 16384 × 2
pixels would be enlarged a hundredfold, to gigabytes."""
MAX_STREAMS = 64
"""Of a file: looking into each before the first frame takes time and memory. Where a format can, what is
beyond is left out."""
PIXEL_ASPECTS = (0.1, 10.0)
"""A pixel's width over its height. Footage has 0.5 to 3; what is said beyond is no shape but a slip."""
JUMP_S = 10.0
"""A frame that is later than the one before by more is believed only when others follow it."""
FORMATS = """3gp av1 avi asf dv flv gif h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts mpegvideo mxf nut obu
    ogg rm vc1 vvc yuv4mpegpipe"""
"""FFmpeg's names of what is read: containers of one file, that hold what they show. Playlists (HLS, DASH,
ffconcat), session descriptions and sequences of images name other files and addresses."""
OPEN_LIMITS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(FORMATS.split()),
    "max_streams": str(MAX_STREAMS),
}


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
    """Packets that the container or the decoder calls damaged."""
    damaged_frames: int = 0
    """Frames that the decoder itself calls corrupt."""
    misplaced_frames: int = 0
    """Frames left out, as they came before an earlier one or alone in a far future."""
    lost_s: float = 0.0
    """Seconds without a frame where packets are damaged."""
    others_end_s: float = 0.0
    """End of the last packet of any other stream: a file is cut short only where none goes on."""
    ends_s: float = 0.0
    """End of the file, by what was read of it, where that is known."""
    short_s: float = 0.0
    """Seconds that the container promises and the file doesn't have."""
    problem: str | None = None
    """Why the reading stopped before its time."""

    @property
    def error(self) -> str | None:
        """What is wrong with this part of the file, None where nothing is."""
        found = [self.problem] if self.problem else []
        if self.bad_packets:
            found.append(f"{self.bad_packets} damaged packet{_s(self.bad_packets)}")
        if self.lost_s >= 0.05:
            found.append(f"{self.lost_s:.1f} s without a frame")
        if self.damaged_frames:
            found.append(f"{self.damaged_frames} damaged frame{_s(self.damaged_frames)}")
        if self.misplaced_frames:
            found.append(f"{self.misplaced_frames} frame{_s(self.misplaced_frames)} out of order")
        if self.short_s > 0:
            promised_s = self.ends_s + self.short_s
            found.append(
                f"read {self.ends_s:.1f} of {promised_s:.1f} s, the file ends before its container says"
            )
        return "; ".join(found) or None

    def note(self, time_s: float, fps: float) -> int:
        """Count a frame; its index in the core, or -1."""
        self.last_s = time_s
        self.read_s = time_s + 1 / fps
        if not self.core_start_s <= time_s < self.core_end_s:
            return -1
        self.frames += 1
        return self.frames - 1


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def read_info(path: str | Path, offset: int | None = None) -> VideoInfo:
    """Open a video, decode its first frame, and say what it is.

    `path` and `offset` are as `open_media` takes them. Raises NoVideoError where there is no video stream
    (cover art is none), DecodeError where it can't be read.
    """
    source = _open(path, offset)
    with source.container:
        return _from_beginning(source)


def sampled_frames(
    path: str | Path,
    start_s: float,
    end_s: float,
    fps: float | None,
    first_pts: int | None,
    reading: Reading,
    *,
    fast: str | None = None,
    ahead: int = 0,
) -> Iterator[Frame]:
    """The frames from `start_s` up to `end_s` that are looked at, in order of time, one in memory at a time.

    Looked at is the first frame of each cell `[k / fps, (k + 1) / fps)` of the video's time, or every frame
    where `fps` is None. With `fast` "nonref" it is the first of those that others refer to, and with
    "keyframes" the first key frame of the cell; a codec that has no such frames is read as without.
    `first_pts` is the video's own (from `read_info`), None to find it. `reading` is filled on the way; damage
    ends up there, never as an exception. With `ahead`, a thread decodes up to so many frames before they are
    asked for; `reading` is then right when they are exhausted. Raises DecodeError only where the file can't
    be opened.
    """
    yield from read_segment(path, start_s, end_s, fps, first_pts, reading, fast=fast, ahead=ahead)[1]


def read_segment(
    path: str | Path,
    start_s: float,
    end_s: float,
    fps: float | None,
    first_pts: int | None,
    reading: Reading,
    *,
    fast: str | None = None,
    ahead: int = 0,
    offset: int | None = None,
) -> tuple[VideoInfo, Iterator[Frame]]:
    """`read_info` and `sampled_frames` of a file that is opened once."""
    source = _take(path) if start_s > 0 else None
    cells = _Cells(fps, start_s, end_s)
    run: Iterator[_Decoded] = iter(())
    if source is None:
        source = _open(path, offset)
        try:
            if start_s > 0:
                source.info = _from_beginning(source)
            else:
                run = _decoded(source, cells, first_pts, reading, fast)
                first = next(run, None)
                source.info = _info(source, first)
                run = itertools.chain([first] if first else [], run)
        except BaseException:
            source.container.close()
            raise
    assert source.info is not None
    origin = source.info.first_pts if first_pts is None else first_pts
    reading.bad_packets += start_s <= 0 and source.damaged_head
    frames = _frames(source, run, cells, origin, reading, fast)
    return source.info, _ahead(frames, ahead) if ahead else frames


@contextlib.contextmanager
def every_frame(
    path: str | Path, offset: int | None, reading: Reading, beside: Callable[[av.Packet], None]
) -> Iterator[tuple[VideoInfo, av.container.InputContainer, Iterator[tuple[float, av.VideoFrame]]]]:
    """A file that is read from its beginning to its end: what it is, its container (open as long as this is),
    and all its frames as the decoder left them, with their times, in order of time.

    The packets of its other streams are given to `beside` on the way. Otherwise as `sampled_frames`.
    """
    source = _open(path, offset)
    source.beside = beside
    with source.container:
        run = _decoded(source, _Cells(None, 0.0, math.inf), None, reading, None)
        first = next(run, None)
        info = _info(source, first)
        frames = _in_order(itertools.chain([first] if first else [], run), math.inf, info.duration_s, reading)
        yield info, source.container, ((time_s, image) for time_s, image in frames if image is not None)


class _Cells:
    """The time grid of a part of a video: its cells and which of their frames are looked at."""

    def __init__(self, fps: float | None, start_s: float, end_s: float) -> None:
        self.fps = fps
        self.start_s, self.end_s = start_s, end_s
        self.start = self.last = self.of(start_s - 2 * TIME_TOLERANCE_S) if start_s > 0 else -1

    def of(self, time_s: float) -> int:
        return math.floor((time_s + TIME_TOLERANCE_S) * self.fps) if self.fps else -1

    def is_first(self, time_s: float) -> bool:
        """Whether the next frame in order of time is the first of its cell."""
        if self.fps is None:
            return True
        cell = self.of(time_s)
        first = cell > self.last
        self.last = max(cell, self.last)
        return first


@dataclass(kw_only=True)
class _Source:
    """An open file, and what was read of it last: there the next segment begins, without reading it again."""

    path: str
    """As it was given to `open_media`, and so is `offset`."""
    offset: int | None
    medium: MediaFile
    container: av.container.InputContainer
    stream: av.VideoStream
    identity: tuple[Any, ...]
    """What tells whether it is still the same file."""
    demuxed: Iterator[av.Packet]
    info: VideoInfo | None = None
    trouble: str = ""
    """The last error."""
    damaged_head: bool = False
    """Whether something before the first packet was left out."""
    beside: Callable[[av.Packet], None] | None = None
    """Who wants the packets of the other streams."""
    ended: bool = False
    again: deque[av.Packet] = field(default_factory=deque)
    """Packets that are to come once more."""
    tail: deque[list[av.Packet]] = field(default_factory=deque)
    """The packets of the last seconds, each list from a key frame on."""
    tail_bytes: int = 0

    @property
    def time_base(self) -> Fraction:
        return self.stream.time_base or Fraction(1, 90_000)

    def keep(self, packet: av.Packet) -> None:
        """Remember a packet of the video; forget those before the last key frame that is `TAIL_S` old."""
        if packet.is_keyframe and packet.pts is not None:
            self.tail.append([])
            before = packet.pts - TAIL_S / self.time_base
            while len(self.tail) > 2 and (self.tail[1][0].pts or 0) <= before:
                self.tail_bytes -= sum(old.size for old in self.tail.popleft())
        if self.tail:
            self.tail[-1].append(packet)
            self.tail_bytes += packet.size
            if self.tail_bytes > TAIL_BYTES:
                self.forget()

    def forget(self) -> None:
        self.tail.clear()
        self.tail_bytes = 0

    def rewind(self, pts: int) -> bool:
        """Go back to the last key frame up to a timestamp, if its packets are remembered."""
        begun = [number for number, packets in enumerate(self.tail) if (packets[0].pts or 0) <= pts]
        if not begun:
            return False
        self.again.extendleft(reversed(list(itertools.chain(*list(self.tail)[begun[-1] :]))))
        self.forget()
        self.stream.codec_context.flush_buffers()
        return True

    def seek(self, pts: int) -> bool:
        """Go to a key frame, as a rule the last one up to a timestamp."""
        self.again.clear()
        self.forget()
        try:
            self.container.seek(pts, stream=self.stream, backward=True)
        except MemoryError:
            raise
        except (av.error.FFmpegError, OverflowError):
            return False
        self.demuxed = self.container.demux()
        self.ended = False
        return True


_kept: dict[str, _Source] = {}
"""The file whose segment was read last, still open: the index of a long film is megabytes.

It is taken out while it is read.
"""


def _take(path: str | Path) -> _Source | None:
    source = _kept.pop(str(path), None)
    if source is not None and source.identity != read_identity(path):
        source.container.close()
        return None
    return source


def _put_back(source: _Source) -> None:
    for path in list(_kept):
        _kept.pop(path).container.close()
    _kept[source.path] = source


_Decoded = tuple[float, av.VideoFrame | None]
"""A frame's time, and the frame where it was decoded."""


def _frames(
    source: _Source, run: Iterator[_Decoded], cells: _Cells, origin: int, reading: Reading, fast: str | None
) -> Iterator[Frame]:
    info = source.info
    assert info is not None
    start_s, end_s = cells.start_s, cells.end_s
    unused_s = 0.0
    whole = False
    bad_packets, damage_s = 0, -math.inf
    try:
        read = run if start_s <= 0 else _from(source, cells, origin, reading, fast)
        for time_s, image in _in_order(read, end_s, info.duration_s, reading):
            if time_s < start_s - TIME_TOLERANCE_S or time_s <= reading.last_s + TIME_TOLERANCE_S:
                unused_s = max(unused_s, time_s + 1 / info.fps)
                continue
            if image is not None:
                reading.damaged_frames += bool(image.is_corrupt)
            if reading.bad_packets > bad_packets:
                bad_packets, damage_s = reading.bad_packets, max(reading.last_s, 0.0)
            # A decoder gives frames from before the damage after it.
            if reading.last_s + 1.5 / info.fps < time_s and -math.inf < reading.last_s <= damage_s + 1.0:
                reading.lost_s += time_s - reading.last_s - 1 / info.fps
            index = reading.note(time_s, info.fps)
            if image is None or not cells.is_first(time_s):
                continue
            try:
                picture = _picture(image, info.mirrored)
            except MemoryError:
                raise
            except (av.error.FFmpegError, ValueError) as error:
                reading.problem = f"a frame can't be converted ({_reason(error)})"
                continue
            yield Frame(time_s=time_s, index=index, picture=picture)
        if not math.isfinite(end_s):
            reading.ends_s = max(reading.read_s, unused_s, reading.others_end_s)
            breaks_off = _breaks_off(source.medium, info.container)
            reading.short_s = _missing(info, reading.ends_s, breaks_off)
            if breaks_off and info.container == "mpegts":
                reading.problem = reading.problem or f"read {reading.read_s:.1f} s, then the file breaks off"
        whole = not source.ended
    finally:
        if whole:
            _put_back(source)
        else:
            source.container.close()


def _in_order(
    run: Iterator[_Decoded], end_s: float, duration_s: float | None, reading: Reading
) -> Iterator[_Decoded]:
    """The frames up to `end_s` whose times can be believed: a damaged timestamp, of one frame or of some
    seconds of them, must neither end the reading nor hide what follows. The others are counted in `reading`.
    """
    last = not math.isfinite(end_s)
    if last and duration_s is not None:
        end_s = duration_s + JUMP_S
    held: _Decoded | None = None
    last_s = -math.inf
    far_s, far = math.inf, 0
    for frame in run:
        time_s = frame[0]
        if held is not None:
            if time_s > held[0]:
                last_s = held[0]
                yield held
            else:
                reading.misplaced_frames += 1
            held = None
        jump = time_s > last_s + JUMP_S
        if time_s >= end_s - TIME_TOLERANCE_S and (jump or not last):
            far_s, far = min(far_s, time_s), far + 1
            if not last and (not jump or time_s > far_s + JUMP_S):
                return
            continue
        reading.misplaced_frames += far  # as it goes on before them
        far_s, far = math.inf, 0
        if jump and math.isfinite(last_s):
            held = frame
        elif time_s < last_s - TIME_TOLERANCE_S:
            reading.misplaced_frames += 1
        else:
            last_s = time_s
            yield frame
    reading.misplaced_frames += far if last else 0
    if held is not None:
        yield held


def _from(
    source: _Source, cells: _Cells, origin: int, reading: Reading, fast: str | None
) -> Iterator[_Decoded]:
    """The frames from a key frame before the start of a part.

    A seek may land after its target where a container's index is poor: then the start is looked for further
    back.
    """
    for back_s in (None, 0.0, 5.0, 30.0):
        pts = origin + int(max(cells.start_s - (back_s or 0.0), 0.0) / source.time_base)
        if not (source.rewind(pts) if back_s is None else source.seek(pts)):
            continue
        run = _decoded(source, cells, origin, reading, fast)
        first = next(run, None)
        if first is not None and first[0] <= cells.start_s + TIME_TOLERANCE_S:
            yield first
            yield from run
            return
    source.container.close()
    opened = _open(source.path, source.offset)
    source.medium = opened.medium
    source.container, source.stream, source.demuxed = opened.container, opened.stream, opened.demuxed
    source.again.clear()
    source.forget()
    source.ended = False
    yield from _decoded(source, cells, origin, reading, fast)


def _from_beginning(source: _Source) -> VideoInfo:
    run = _decoded(source, _Cells(None, 0.0, math.inf), None, Reading(core_start_s=0.0, core_end_s=0.0), None)
    info = _info(source, next(run, None))
    source.forget()
    return info


def _decoded(
    source: _Source, cells: _Cells, origin: int | None, reading: Reading, fast: str | None
) -> Iterator[_Decoded]:
    """The frames of an opened file from where it stands, with their times, past whatever is damaged.

    `origin` is None for the timestamp of the first frame.
    """
    stream, base, name = source.stream, source.time_base, source.container.format.name
    step = 1 / _rate(stream)
    sieve = _Sieve(stream.codec_context, cells, base, name, fast)
    previous = -step
    others_end = Fraction(0)
    beyond = 0
    for packet in _packets(source, reading):
        if packet.stream is not stream:
            if packet.pts is not None and packet.time_base:
                others_end = max(others_end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if source.beside is not None:
                source.beside(packet)
            continue
        if math.isfinite(cells.end_s):
            source.keep(packet)
        # Around the core lie other segments' parts, and after a seek the decoder may lack references.
        mine = reading.core_start_s - 2 * step <= previous < reading.core_end_s
        try:
            images = sieve.decode(packet, origin)
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            source.trouble = _reason(error)
            reading.bad_packets += mine
            continue
        reading.bad_packets += mine and packet.is_corrupt
        for image in images:
            if not _fits(image.width, image.height):
                source.trouble = reading.problem = _not_fitting(image.width, image.height)
                continue
            pts = _timestamp(image, name)
            if origin is None:
                origin = _first_timestamp(image, name, stream.start_time)
            for left in sieve.left_before(image, pts):
                previous = float((left - origin) * base)
                yield previous, None
            time_s = previous + step if pts is None else float((pts - origin) * base)
            sieve.off |= time_s <= previous
            previous = time_s
            yield time_s, image
        if sieve.only_keys and origin is not None and packet.dts is not None:
            beyond = beyond + 1 if float((packet.dts - origin) * base) >= cells.end_s else 0
            if beyond > 1:  # not by one damaged timestamp
                break  # the next key frame may be far
    if origin is not None:
        for left in sieve.left_before(None, None):
            yield float((left - origin) * base), None
        reading.others_end_s = max(reading.others_end_s, float(others_end - origin * base))


def _packets(source: _Source, reading: Reading) -> Iterator[av.Packet]:
    """What a file holds from where it stands, past what can't be read."""
    broken = 0
    name = source.container.format.name
    while True:
        if source.again:
            yield source.again.popleft()
            continue
        errors = _errors_logged()
        try:
            packet = next(source.demuxed)
        except (
            StopIteration,
            IndexError,
        ):  # PyAV's at the end, for streams that damage has made up on the way
            source.ended = True
            return
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            source.trouble = _reason(error)
            broken += 1
            if broken > MAX_BROKEN_READS:
                reading.problem = f"the container can't be read beyond {max(reading.last_s, 0):.1f} s"
                source.ended = True
                return
            source.demuxed = source.container.demux()
            continue
        if _skipped(name, errors):
            reading.bad_packets += reading.core_start_s <= max(reading.last_s, 0.0) < reading.core_end_s
        yield packet


def _errors_logged() -> int:
    return av.logging.get_last_error()[0]


def _skipped(container: str, errors: int) -> bool:
    """Whether Matroska's reader has left something out since so many errors were logged: it goes on behind
    what it can't read, and says so in FFmpeg's log alone.
    """
    now, last = av.logging.get_last_error()
    return now != errors and last is not None and last[1] == container == "matroska,webm"


class _Sieve:
    """Decodes what is needed: frames that nobody looks at and no other frame refers to are left out.

    The packets' timestamps tell which are looked at: none that follows another of its cell. The decoder knows
    which no other refers to. What is left out is counted by its timestamp; where these can't be trusted,
    everything is decoded.
    """

    def __init__(
        self,
        context: av.VideoCodecContext,
        cells: _Cells,
        time_base: Fraction,
        container: str,
        fast: str | None,
    ) -> None:
        codec = context.codec.canonical_name
        self.context, self.cells, self.time_base = context, cells, time_base
        self.only_keys = fast == "keyframes" and codec in KEYED and container != "avi"
        self.only_references = fast == "nonref"
        everything = fast is None and cells.fps is None and cells.start_s <= 0 and math.isinf(cells.end_s)
        self.off = (
            everything
            or container == "avi"
            or not (codec == "h264" or (codec == "hevc" and _has_one_layer(context.extradata or b"")))
        )
        self.skips = False
        context.skip_frame = "DEFAULT"
        self.began: int | None = None
        """Timestamp of the first frame that came out: what is shown before lacks its references."""
        self.seen: set[int] = set()
        self.earliest: dict[int, float] = {}
        """Time of the earliest packet so far, by cell."""
        self.left: list[int] = []
        """Timestamps of what may have been left out, a heap."""
        self.held: list[av.VideoFrame] = []
        """Key frames that frames left out are shown before."""

    def decode(self, packet: av.Packet, origin: int | None) -> list[av.VideoFrame]:
        """The frames that come out after a packet, in the order in which they are shown."""
        self.only_keys &= self.began is not None or packet.pts is not None or not packet.size
        if self.only_keys:
            return self._decode_key(packet)
        may_skip = self._may_skip(packet, origin)
        if may_skip != self.skips:
            self.skips = may_skip
            self.context.skip_frame = "NONREF" if may_skip else "DEFAULT"
        images = _pictures(packet.decode())
        if may_skip and packet.pts is not None:
            heapq.heappush(self.left, packet.pts)
        return images

    def _decode_key(self, packet: av.Packet) -> list[av.VideoFrame]:
        images: list[av.VideoFrame] = []
        while self.held and (packet.dts is None or (self.held[0].pts or 0) <= packet.dts):
            images.append(self.held.pop(0))
        if packet.is_keyframe:
            try:
                self.held += _pictures(packet.decode()) + _pictures(self.context.decode(None))
            finally:
                self.context.flush_buffers()
        elif packet.pts is not None and packet.size and not packet.is_discard:
            heapq.heappush(self.left, packet.pts)
        return images

    def _may_skip(self, packet: av.Packet, origin: int | None) -> bool:
        if self.off or not packet.size:
            return False
        if packet.pts is None or packet.pts in self.seen:
            self.off = True
            return False
        self.seen.add(packet.pts)
        if packet.is_discard or packet.is_corrupt:
            return False
        if self.only_references:
            return True
        if self.began is None or packet.pts <= self.began or origin is None:
            return False
        return not self._may_be_first(float((packet.pts - origin) * self.time_base))

    def _may_be_first(self, time_s: float) -> bool:
        cells = self.cells
        if not cells.start_s - TIME_TOLERANCE_S <= time_s < cells.end_s - TIME_TOLERANCE_S:
            return False
        if cells.fps is None:
            return True
        cell = cells.of(time_s)
        earliest = self.earliest.get(cell, math.inf)
        self.earliest[cell] = min(earliest, time_s)
        return cells.start < cell and time_s <= earliest

    def left_before(self, image: av.VideoFrame | None, pts: int | None) -> list[int]:
        """Timestamps of the frames left out that are shown before one that came out; of all, for None."""
        if image is not None:
            self.off |= pts is None or bool(image.interlaced_frame)
            if pts is None:
                return []
            if self.began is None:
                self.began = pts
                self.left = sorted(left for left in self.left if left > pts)
        found = []
        while self.began is not None and self.left and (pts is None or self.left[0] <= pts):
            found.append(heapq.heappop(self.left))
        return [left for left in found if left != pts]


def _pictures(frames: Iterable[Any]) -> list[av.VideoFrame]:
    return [frame for frame in frames if isinstance(frame, av.VideoFrame)]


def _has_one_layer(extradata: bytes) -> bool:
    """Whether HEVC's parameters say that there are no temporal layers: a frame that nothing of its own layer
    refers to, which is what decoders leave out, may be needed by a higher one (ITU-T H.265, 7.4.2.2).
    """
    if extradata[:1] == b"\x01":
        return len(extradata) > 21 and (extradata[21] >> 3) & 7 == 1
    parameters = extradata.find(b"\x00\x00\x01\x40\x01")
    return 0 <= parameters < len(extradata) - 6 and (extradata[parameters + 6] >> 1) & 7 == 0


def _open(path: str | Path, offset: int | None = None) -> _Source:
    identity, errors = read_identity(path), _errors_logged()
    medium = None
    try:
        medium = open_media(path, offset)
        container = _container(medium)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise _not_opened(error, medium) from None
    try:
        stream = _video_stream(container)
    except BaseException:
        container.close()
        raise
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return _Source(
        path=str(path),
        offset=offset,
        medium=medium,
        container=container,
        stream=stream,
        identity=identity,
        demuxed=container.demux(),
        damaged_head=_skipped(container.format.name, errors),
    )


def _container(medium: MediaFile) -> av.container.InputContainer:
    if isinstance(medium.place, str):
        place: Any = f"file:{medium.place}"
    else:
        place = medium.place
        place.seek(0)
    return av.open(
        place,
        mode="r",  # it would follow a temporary file's own
        metadata_errors="replace",
        options={"max_pixels": str(MAX_PIXELS)},
        container_options=OPEN_LIMITS,
    )


def _log_of_opening(medium: MediaFile) -> str:
    """What FFmpeg logs when it opens a file again: the limit that it meets is in no error of its own."""
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as said, contextlib.suppress(av.error.FFmpegError):
            _container(medium).close()
    finally:
        av.logging.set_level(av.logging.PANIC)
    return "".join(message for _, _, message in said)


def _not_opened(error: Exception, medium: MediaFile | None) -> Exception:
    """Why a file can't be opened, for the user; MemoryError as it is."""
    _, by, said = getattr(error, "log", None) or (0, "", "")
    if isinstance(error, MemoryError):
        if medium is not None and "max_streams" in _log_of_opening(medium):
            return DecodeError(f"the file has more than {MAX_STREAMS} streams, the most that is read")
        return error
    if isinstance(error, FileNotFoundError):
        reason = "the file does not exist"
    elif isinstance(error, PermissionError):
        reason = "the file may not be read (permission denied)"
    elif "not on whitelist" in said:
        reason = f"{by}, as FFmpeg calls it, is not a video; playlists and single images are not read"
    elif medium is not None and not medium.size:
        reason = "the file is empty"
    else:
        reason = f"not a video that FFmpeg can open ({_reason(error)})"
    return DecodeError(reason)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that can be decoded and is no cover picture."""
    films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not films:
        raise NoVideoError("the file has no video stream")
    for stream in films:
        context: Any = stream.codec_context  # None without a decoder, which the stubs do not say
        if context is None:
            continue
        if context.width and not _fits(context.width, context.height):
            raise DecodeError(_not_fitting(context.width, context.height))
        return stream
    raise DecodeError("there is no decoder for the codec of its video")


def _fits(width: int, height: int) -> bool:
    short, long = sorted((width, height))
    return long <= MAX_SIDE and width * height <= MAX_PIXELS and long <= MAX_ASPECT_RATIO * short


def _not_fitting(width: int, height: int) -> str:
    return (
        f"a frame has {width} × {height} pixels; read are at most {MAX_SIDE} a side, {MAX_PIXELS} in all, "
        f"and sides of which one is {MAX_ASPECT_RATIO} times the other"
    )


def _breaks_off(medium: MediaFile, container: str) -> bool:
    """Whether a file ends inside one of its own parts: FFmpeg says nothing of that where the container is
    MPEG-TS, which promises no length either, or Matroska, whose parts may be of unknown size.
    """
    size, head = medium.size, medium.head(8192)
    if container == "mpegts":
        for packet, lead in ((188, 0), (192, 4), (204, 0)):
            for first in range(lead, packet + lead):
                marks = head[first::packet]
                if len(marks) > 4 and not marks.strip(b"\x47"):
                    return (size - first + lead) % packet != 0
    if container.startswith("matroska"):
        place = head.find(b"\x18\x53\x80\x67") + 4  # the segment, which is all but a header
        if 4 <= place < len(head) and head[place]:
            length = 9 - head[place].bit_length()
            number = int.from_bytes(head[place : place + length]) & ((1 << 7 * length) - 1)
            return number != (1 << 7 * length) - 1 and place + length + number > size
    return False


def _info(source: _Source, decoded: _Decoded | None) -> VideoInfo:
    container, stream = source.container, source.stream
    first = decoded[1] if decoded else None
    if first is None or stream.time_base is None:
        said = _log_of_opening(source.medium)
        if size := re.search(r"Picture size (\d+)x(\d+) (is invalid|exceeds)", said):
            raise DecodeError(_not_fitting(int(size[1]), int(size[2])))
        raise DecodeError(f"no frame can be decoded ({source.trouble or 'the stream is empty'})")
    width, height = first.width, first.height
    aspect = float(stream.sample_aspect_ratio or 1)
    seen = max(width * aspect / height, height / (width * aspect)) if aspect > 0 else math.inf
    if seen > MAX_ASPECT_RATIO or not PIXEL_ASPECTS[0] <= aspect <= PIXEL_ASPECTS[1]:
        aspect = 1.0
    rotation = 90 * _turns(first)
    if rotation % 180:
        width, height, aspect = height, width, 1 / aspect
    return VideoInfo(
        duration_s=_duration(container, stream),
        fps=_rate(stream),
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


def _rate(stream: av.VideoStream) -> float:
    """Average frames a second, 25 where the container says nothing sensible."""
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return rate if 0 < rate <= 1000 else 25.0


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


def _missing(info: VideoInfo, read_s: float, breaks_off: bool) -> float:
    """Seconds that are missing at the end, 0 where the difference is what whole files are commonly off by."""
    short = (info.duration_s or 0) - read_s
    return short if short > (1.5 / info.fps if breaks_off else 0.5 + 3 / info.fps) else 0.0


def _ahead(frames: Iterator[Frame], count: int) -> Iterator[Frame]:
    """The same frames, up to `count` of them made in a thread before they are asked for."""
    ready: queue.SimpleQueue[Frame | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(count)
    stopped = threading.Event()

    def work() -> None:
        last: BaseException | None = None
        try:
            while room.acquire() and not stopped.is_set():
                ready.put(next(frames))
        except StopIteration:
            pass
        except BaseException as error:
            last = error
        finally:
            cast(Generator[Frame], frames).close()
            ready.put(last)

    thread = threading.Thread(target=work, name="decoding ahead", daemon=True)
    thread.start()
    try:
        while isinstance(item := ready.get(), Frame):
            room.release()
            yield item
            del item
        if item is not None:
            raise item
    finally:
        stopped.set()
        room.release()
        thread.join()


def _picture(decoded: av.VideoFrame, mirrored: bool) -> Picture:
    """The frame's own planes, upright; they hold on to the decoder's memory as long as they are looked at."""
    full = decoded.format.name.startswith("yuvj") or decoded.color_range == ColorRange.JPEG
    red, blue = LUMA_WEIGHTS.get(decoded.colorspace, BT601_WEIGHTS)
    turns = _turns(decoded)
    lines = decoded.width if turns % 2 else decoded.height
    shrink = max(lines / MAX_LINES, 1.0)
    if decoded.format.name not in PLANAR or shrink > 1:
        full, (red, blue) = False, BT601_WEIGHTS
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
    return Picture(y=y, u=u, v=v, yuv_to_rgb=yuv_to_rgb_matrix(red, blue, full), shrink=shrink)


def _turns(decoded: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise that make a frame upright, or nearly."""
    return round(decoded.rotation / 90) % 4


def _mirrored(decoded: av.VideoFrame) -> bool:
    """Of one frame a file: one whose side data was asked for is in a cycle, and so in memory for long."""
    matrix: Any = decoded.side_data.get("DISPLAYMATRIX")  # a buffer, which the stubs of PyAV do not say
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).astype(np.int64).tolist()
    return a * d - b * c < 0


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).split(":")[0].strip()
