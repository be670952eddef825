"""Packets of an open video file, which stays open for the next segment of the video."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
from av.stream import Discard

from fer_batch.storage.media import read_identity
from fer_batch.video.breaks import has_clock_breaks
from fer_batch.video.clock import Clock
from fer_batch.video.container import (
    TOO_MANY_STREAMS,
    count_logged_errors,
    describe_error,
    exceeds_stream_limit,
    has_skipped_data,
    open_container,
    reopen_container,
)
from fer_batch.video.metadata import VideoInfo, find_stated_end_s, frame_rate
from fer_batch.video.report import ReadReport
from fer_batch.video.streams import choose_stream, discard_other_streams, list_candidates
from fer_batch.video.timestamps import has_flag

if TYPE_CHECKING:
    from fer_batch.video.overlap import OverlapKeeper

REMEMBERED_S = 10.0
"""Seconds of packets that stay in memory. Paddings of neighbouring segments overlap by less."""
MAX_REMEMBERED_BYTES = 64 << 20
MAX_BROKEN_READS = 100
"""Errors of the container after which the rest of a file is not read."""


class Source:
    """An open video file that remembers its last packets, so that the next segment starts without a seek."""

    def __init__(self, path: str | Path, offset: int | None = None, gpu: int | None = None) -> None:
        """Open a file. The arguments are those of `open_container`. Raises DecodeError."""
        self.path, self.offset, self.gpu = str(path), offset, gpu
        self.identity = read_identity(path)
        self.info: VideoInfo | None = None
        self.last_error = ""
        self.on_other_packet: Callable[[av.Packet], None] = lambda packet: None
        """Receives the packets of the other streams."""
        self.since_key_s = 0.0
        """Seconds from the last key frame to the last packet that was remembered."""
        self.on_packet: Callable[[], None] = lambda: None
        """Is called for each packet of any stream, so that a long way to a frame is not taken for a hang."""
        self._replay: deque[av.Packet] = deque()
        """Packets that come next: remembered ones, and those that waited behind a break of the clock."""
        self._recent: deque[list[av.Packet]] = deque()
        """The packets of the last seconds in lists that start with a key frame."""
        self._recent_bytes = 0
        self._stream_index: int | None = None
        self._key_dts = 0
        self.overlap: OverlapKeeper | None = None
        """The frames of the last segment that the next one needs as well."""
        self._has_breaks: bool | None = None
        self.intact_pts: set[int | None] = set()
        """Timestamps of packets that seem to be damaged because the clock breaks behind them."""
        self._open()

    def _open(self) -> None:
        errors = count_logged_errors()
        self.media, self.container = open_container(self.path, self.offset, self.gpu)
        try:
            self.stream = self._select_stream()
        except BaseException:
            self.container.close()
            raise
        self._restart()
        self.head_is_damaged = has_skipped_data(self.format_name, errors)
        """Whether the demuxer skipped data before the first packet."""

    def _restart(self) -> None:
        """Demux from the container's current position on."""
        self.demuxed: Iterator[av.Packet] = self.container.demux()
        self.at_end = False
        may_jump = has_flag(self.container, "ts_discont")
        step_s = 1 / frame_rate(self.stream)
        end_s = find_stated_end_s(self.container)
        self.clock = Clock(self.stream, self.time_base, step_s, may_jump, end_s or math.inf)

    def _select_stream(self) -> av.VideoStream:
        candidates = list_candidates(self.container)
        if self._stream_index is None and len(candidates) > 1:
            self._stream_index = choose_stream(self.container, candidates, self.path)
            self.container = reopen_container(self.container, self.media, self.gpu)
            candidates = list_candidates(self.container)
        streams = [candidate.stream for candidate in candidates]
        stream = next((stream for stream in streams if stream.index == self._stream_index), streams[0])
        discard_other_streams(self.container, stream)
        self.stated_transfer = stream.codec_context.color_trc
        """Code of the transfer characteristics by the container, which some decoders replace by "unknown"."""
        return stream

    @property
    def format_name(self) -> str:
        return self.container.format.name

    @property
    def time_base(self) -> Fraction:
        return self.stream.time_base or Fraction(1, 90_000)

    def packets(self, report: ReadReport) -> Iterator[av.Packet]:
        """Yield the packets of all streams from the current position on. Unreadable parts are skipped.

        Damage is counted in `self.report`, which is `report` at first.
        """
        broken_reads = 0
        format_name = self.format_name
        self.report = report
        is_theora = self.stream.codec_context.name == "theora"
        while True:
            self.on_packet()
            report = self.report
            if self._replay:
                yield self._replay.popleft()
                continue
            errors = count_logged_errors()
            try:
                packet = next(self.demuxed)
            except (StopIteration, IndexError):
                # PyAV raises IndexError at the end if damage has created streams in the meantime.
                if waiting := self.clock.finish():
                    self._replay.extend(waiting)
                    self.demuxed = iter(())
                    continue
                self.at_end = True
                return
            except av.error.FFmpegError as error:
                if exceeds_stream_limit(error):
                    report.problem = TOO_MANY_STREAMS
                    self.demuxed = iter(())
                    continue
                if isinstance(error, MemoryError):
                    raise
                self.last_error = describe_error(error)
                broken_reads += 1
                self.demuxed = self.container.demux()
                if broken_reads > MAX_BROKEN_READS:
                    read_s = max(report.last_frame_s, 0)
                    report.problem = f"the container can't be read beyond {read_s:.1f} s"
                    self.demuxed = iter(())
                continue
            if has_skipped_data(format_name, errors):
                in_core = report.core_start_s <= max(report.last_frame_s, 0.0) < report.core_end_s
                report.damaged_packets += in_core
                self.last_error = "data was skipped"
            if packet.stream.discard == Discard.all:  # FFmpeg has read some while it opened the file
                continue
            if is_theora and packet.stream is self.stream and packet.size and memoryview(packet)[0] & 0x80:
                continue  # a header of an appended recording
            if self.clock.accept(packet):
                yield packet
            elif self.clock.released:
                self._replay.extend(self.clock.released)
                self.clock.released.clear()

    def remember(self, packet: av.Packet) -> None:
        """Remember a packet of the video, and drop those before the last key frame `REMEMBERED_S` ago."""
        if packet.is_keyframe and packet.pts is not None:
            self._recent.append([])
            oldest_pts = packet.pts - REMEMBERED_S / self.time_base
            while len(self._recent) > 2 and (self._recent[1][0].pts or 0) <= oldest_pts:
                self._recent_bytes -= sum(old.size for old in self._recent.popleft())
        if packet.is_corrupt:
            self.last_error = "a packet is corrupt"
        if packet.dts is not None:
            self._key_dts = packet.dts if packet.is_keyframe else self._key_dts
            self.since_key_s = float((packet.dts - self._key_dts) * self.time_base)
        if self._recent:
            self._recent[-1].append(packet)
            self._recent_bytes += packet.size
            if self._recent_bytes > MAX_REMEMBERED_BYTES:
                self._forget()

    def rewind(self, pts: int) -> bool:
        """Go back to the last remembered key frame at or before a timestamp; return whether there is one."""
        starts = [number for number, packets in enumerate(self._recent) if (packets[0].pts or 0) <= pts]
        if not starts:
            return False
        packets = [packet for part in list(self._recent)[starts[-1] :] for packet in part]
        self._replay.extendleft(reversed(packets))
        self._forget()
        self.stream.codec_context.flush_buffers()
        return True

    @property
    def has_breaks(self) -> bool:
        """Whether the clock breaks, as far as it is known, so that a timestamp is no address in the file.

        At first, this compares samples of a file whose clock may break, and goes to its beginning.
        """
        if self._has_breaks is None and not self.clock.breaks:
            self._has_breaks = has_clock_breaks(self.container, self.stream, self.media)
            if has_flag(self.container, "ts_discont"):
                self._restart()
        return self.knows_breaks

    @property
    def knows_breaks(self) -> bool:
        """Whether a break of the clock has been seen so far."""
        return bool(self._has_breaks) or self.clock.breaks > 0

    def seek(self, pts: int) -> bool:
        """Go to a key frame, usually the last one at or before a timestamp; return whether that succeeded."""
        self._replay.clear()
        self._forget()
        if has_flag(self.container, "no_timestamps") or self.has_breaks:
            return False
        try:
            self.container.seek(pts, stream=self.stream, backward=True)
        except MemoryError:
            raise
        except (av.error.FFmpegError, OverflowError):
            return False
        self._restart()
        return True

    def reopen(self) -> None:
        """Open the file again and go to its beginning."""
        self._has_breaks = True if self.knows_breaks else self._has_breaks
        self.container.close()
        self._open()
        self._replay.clear()
        self._forget()

    def _forget(self) -> None:
        self._recent.clear()
        self._recent_bytes = 0


_last_source: dict[str, Source] = {}
"""The source of the last segment by its path, at most one. It saves reading a long video's index again."""


def take_source(path: str | Path, gpu: int | None = None) -> Source | None:
    """Return the open source of a path and give up its ownership.

    Returns None if the file is another one now, or was opened for another decoder.
    """
    source = _last_source.pop(str(path), None)
    if source is not None and (source.gpu != gpu or source.identity != read_identity(path)):
        source.container.close()
        return None
    return source


def keep_source(source: Source) -> None:
    """Keep a source open for the next segment; any other is closed."""
    for path in list(_last_source):
        _last_source.pop(path).container.close()
    _last_source[source.path] = source
