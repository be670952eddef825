"""Sampling of frames: the time grid, and the frames that need no decoding because of it."""

import heapq
import math
from collections.abc import Iterable
from typing import Any

import av

from fer_batch.video.source import Source
from fer_batch.video.timestamps import TIME_TOLERANCE_S

ONE_FRAME_CODECS = ("h264", "hevc", "vp9", "av1")
"""Codecs with one frame per packet, so that frames between key frames can be counted without decoding."""


class SampleGrid:
    """The absolute time grid `[k / fps, (k + 1) / fps)` in one range of a video.

    The first frame of each cell is sampled. Without `fps`, every frame is.
    """

    def __init__(self, fps: float | None, start_s: float, end_s: float) -> None:
        self.fps = fps
        self.start_s, self.end_s = start_s, end_s
        self.start_cell = self.last_cell = self.cell_of(start_s - 2 * TIME_TOLERANCE_S) if start_s > 0 else -1

    def cell_of(self, time_s: float) -> int:
        return math.floor((time_s + TIME_TOLERANCE_S) * self.fps) if self.fps else -1

    def take(self, time_s: float) -> bool:
        """Return whether the next frame, in order of time, is sampled."""
        if self.fps is None:
            return True
        cell = self.cell_of(time_s)
        is_first = cell > self.last_cell
        self.last_cell = max(cell, self.last_cell)
        return is_first


class FrameSkipper:
    """Decodes the packets of a stream, but skips frames that are neither sampled nor needed by other frames.

    Timestamps of packets tell which frames are not sampled: those later than another one of their cell. The
    decoder knows which frames no other frame refers to. Skipped frames are counted by their timestamps. If
    the timestamps are not reliable, everything is decoded.
    """

    def __init__(self, source: Source, grid: SampleGrid, fast: str | None) -> None:
        self.context = context = source.stream.codec_context
        self.grid, self.time_base = grid, source.time_base
        codec, is_avi = context.codec.canonical_name, source.format_name == "avi"
        self.only_key_frames = fast == "keyframes" and codec in ONE_FRAME_CODECS and not is_avi
        self.only_references = fast == "nonref"
        needs_all = fast is None and grid.fps is None and grid.start_s <= 0 and math.isinf(grid.end_s)
        is_skippable = codec == "h264" or (codec == "hevc" and has_one_layer(context.extradata or b""))
        self.decodes_all = needs_all or is_avi or not is_skippable
        self._skips_non_references = False
        context.skip_frame = "DEFAULT"
        self._first_pts: int | None = None
        """Timestamp of the first decoded frame. Frames before it lack their references."""
        self._seen: set[int] = set()
        self._earliest_s: dict[int, float] = {}
        """Time of the earliest packet so far, by cell."""
        self._skipped: list[int] = []
        """Timestamps of frames that may have been skipped, a heap."""
        self._held: list[av.VideoFrame] = []
        """Decoded key frames that follow skipped frames in the order of display."""

    def decode(self, packet: av.Packet, origin: int | None) -> list[av.VideoFrame]:
        """Return the frames that become available with a packet, in the order of display.

        `origin` is the timestamp from which times count, None if it is not known yet.
        """
        self.only_key_frames &= self._first_pts is not None or packet.pts is not None or not packet.size
        if self.only_key_frames:
            return self._decode_key_frame(packet)
        may_skip = self._may_skip(packet, origin)
        if may_skip != self._skips_non_references:
            self._skips_non_references = may_skip
            self.context.skip_frame = "NONREF" if may_skip else "DEFAULT"
        frames = video_frames(packet.decode())
        if may_skip and packet.pts is not None:
            heapq.heappush(self._skipped, packet.pts)
        return frames

    def pop_skipped(self, frame: av.VideoFrame | None, pts: int | None) -> list[int]:
        """Return the timestamps of skipped frames before a decoded frame, or of all for None."""
        if frame is not None:
            self.decodes_all |= pts is None or bool(frame.interlaced_frame)
            if pts is None:
                return []
            if self._first_pts is None:
                self._first_pts = pts
                self._skipped = sorted(skipped for skipped in self._skipped if skipped > pts)
        popped = []
        while self._first_pts is not None and self._skipped and (pts is None or self._skipped[0] <= pts):
            popped.append(heapq.heappop(self._skipped))
        return [skipped for skipped in popped if skipped != pts]

    def _decode_key_frame(self, packet: av.Packet) -> list[av.VideoFrame]:
        frames: list[av.VideoFrame] = []
        while self._held and (packet.dts is None or (self._held[0].pts or 0) <= packet.dts):
            frames.append(self._held.pop(0))
        if packet.is_keyframe:
            try:
                self._held += video_frames(packet.decode()) + video_frames(self.context.decode(None))
            finally:
                self.context.flush_buffers()
        elif packet.pts is not None and packet.size and not packet.is_discard:
            heapq.heappush(self._skipped, packet.pts)
        return frames

    def _may_skip(self, packet: av.Packet, origin: int | None) -> bool:
        if self.decodes_all or not packet.size:
            return False
        if packet.pts is None or packet.pts in self._seen:
            self.decodes_all = True
            return False
        self._seen.add(packet.pts)
        if packet.is_discard or packet.is_corrupt:
            return False
        if self.only_references:
            return True
        if self._first_pts is None or packet.pts <= self._first_pts or origin is None:
            return False
        return not self._may_be_sampled(float((packet.pts - origin) * self.time_base))

    def _may_be_sampled(self, time_s: float) -> bool:
        grid = self.grid
        if not grid.start_s - TIME_TOLERANCE_S <= time_s < grid.end_s - TIME_TOLERANCE_S:
            return False
        if grid.fps is None:
            return True
        cell = grid.cell_of(time_s)
        earliest_s = self._earliest_s.get(cell, math.inf)
        self._earliest_s[cell] = min(earliest_s, time_s)
        return grid.start_cell < cell and time_s <= earliest_s


def video_frames(frames: Iterable[Any]) -> list[av.VideoFrame]:
    return [frame for frame in frames if isinstance(frame, av.VideoFrame)]


def has_one_layer(extradata: bytes) -> bool:
    """Return whether the parameters of an HEVC stream declare a single temporal layer.

    With several layers, decoders skip frames that no frame of their own layer refers to, although a higher
    layer may need them (ITU-T H.265, 7.4.2.2).
    """
    if extradata[:1] == b"\x01":
        return len(extradata) > 21 and (extradata[21] >> 3) & 7 == 1
    parameters = extradata.find(b"\x00\x00\x01\x40\x01")
    return 0 <= parameters < len(extradata) - 6 and (extradata[parameters + 6] >> 1) & 7 == 0
