"""Decoding of a source's packets to frames with their times."""

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Iterator

import av
import av.error

from fer_batch.video.container import describe_error, explain_undecodable, find_size_problem
from fer_batch.video.key_frames import SCANNED_FORMATS
from fer_batch.video.metadata import VideoInfo, describe_video, frame_rate
from fer_batch.video.report import ReadReport
from fer_batch.video.sampling import FrameSkipper, SampleGrid
from fer_batch.video.source import Source
from fer_batch.video.timestamps import (
    TIME_TOLERANCE_S,
    TimedFrame,
    first_timestamp,
    frame_timestamp,
    has_flag,
    packet_timestamp,
)

ALL_FRAMES = SampleGrid(None, 0.0, math.inf)
SEEK_BACK_S = (0.0, 5.0, 12.0, 30.0)
"""Seconds before a start that seeks aim at in turn. With a poor index, a seek may land too late."""
DENSE_STREAMS = ("audio", "video")
"""Streams with packets all over the file. A subtitle or a timecode may last to the end of the video."""
PACKETS_AT_BREAK = 3
"""Most packets before a break of the clock that a demuxer marks as damaged because of it."""
MAX_PACKET_S = 1.0
"""Longest part of a packet of these streams that shows how far a file goes."""


def decode_frames(
    source: Source, grid: SampleGrid, origin: int | None, report: ReadReport, fast: str | None = None
) -> Iterator[TimedFrame]:
    """Yield the frames from the source's current position on with their times. Damaged parts are skipped.

    `origin` is the timestamp from which times count, None for that of the first frame.
    """
    stream, time_base, format_name = source.stream, source.time_base, source.format_name
    step_s = 1 / frame_rate(stream)
    has_timestamps = not has_flag(source.container, "no_timestamps")
    skipper = FrameSkipper(source, grid, fast)
    remembers = math.isfinite(grid.end_s) and has_timestamps
    previous_s = -step_s
    next_pts = 0
    """Timestamp of the next frame if the format has none."""
    ends = _PacketEnds(stream)
    packets_after_end = 0
    breaks, last_packets = source.clock.breaks, deque[tuple[int | None, bool]](maxlen=PACKETS_AT_BREAK)
    """Timestamps of the last packets, and whether they were counted as damaged."""
    for packet in source.packets(report):
        report = source.report  # another segment may continue here
        ends.record(packet)
        if packet.stream is not stream:
            source.on_other_packet(packet)
            continue
        if packet.buffer_ptr and not packet.size:
            continue  # repeats the previous frame; FFmpeg's decoders refuse it
        if remembers:
            source.remember(packet)
        if source.clock.breaks > breaks:
            # The container's counter of packets breaks as well, so that the last ones seem to be damaged.
            report.damaged_packets -= sum(is_damaged for _, is_damaged in last_packets)
            source.intact_pts.update(pts for pts, _ in last_packets)
            breaks = source.clock.breaks
            last_packets.clear()
        # Damage in the padding counts for other segments, and after a seek the decoder may lack references.
        in_core = report.core_start_s - 2 * step_s <= previous_s < report.core_end_s
        try:
            frames = skipper.decode(packet, origin)
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            source.last_error = describe_error(error)
            report.damaged_packets += in_core
            continue
        is_damaged = in_core and packet.is_corrupt and packet.pts not in source.intact_pts
        last_packets.append((packet.pts, is_damaged))
        report.damaged_packets += is_damaged
        for frame in frames:
            if problem := find_size_problem(frame.width, frame.height):
                source.last_error = report.problem = problem
                continue
            pts = frame_timestamp(frame, format_name)
            if not has_timestamps:
                pts, next_pts = next_pts, next_pts + (frame.duration or round(step_s / time_base))
            if origin is None:
                origin = first_timestamp(pts, format_name, stream.start_time)
            for skipped in skipper.pop_skipped(frame, pts):
                previous_s = float((skipped - origin) * time_base)
                yield previous_s, None
            time_s = previous_s + step_s if pts is None else float((pts - origin) * time_base)
            skipper.decodes_all |= time_s <= previous_s
            previous_s = time_s
            yield time_s, frame
        if skipper.only_key_frames and origin is not None and packet.dts is not None:
            is_after_end = float((packet.dts - origin) * time_base) >= grid.end_s
            packets_after_end = packets_after_end + 1 if is_after_end else 0
            # A single one may be a damaged timestamp. The next key frame may be far away.
            if packets_after_end > 1:
                break
    if origin is not None:
        for skipped in skipper.pop_skipped(None, None):
            yield float((skipped - origin) * time_base), None
        others_end_s = ends.others_end_s() - float(origin * time_base)
        report.other_streams_end_s = max(report.other_streams_end_s, others_end_s)
        if has_timestamps and ends.last_pts > -math.inf and math.isinf(report.core_end_s):
            report.packets_end_s = float((ends.last_end - origin) * time_base)


class _PacketEnds:
    """The ends of the last packets, which show how far the content of a file goes."""

    def __init__(self, stream: av.VideoStream) -> None:
        self.stream = stream
        self.last_pts: float = -math.inf
        """Latest timestamp of the stream, and the end of its packet."""
        self.last_end = 0
        others = [other for other in stream.container.streams if other.type in DENSE_STREAMS]
        self.time_bases = {other.index: other.time_base for other in others if other.time_base}
        self.max_lengths = {index: round(MAX_PACKET_S / base) for index, base in self.time_bases.items()}
        self.ends = dict.fromkeys(self.time_bases, 0)

    def record(self, packet: av.Packet) -> None:
        pts = packet_timestamp(packet)
        if pts is None:
            return
        index = packet.stream_index
        if packet.stream is self.stream:
            if pts > self.last_pts:
                self.last_pts, self.last_end = pts, pts + (packet.duration or 0)
        elif index in self.ends:
            end = pts + min(packet.duration or 0, self.max_lengths[index])
            self.ends[index] = max(end, self.ends[index])

    def others_end_s(self) -> float:
        ends_s = [self.ends[index] * base for index, base in self.time_bases.items()]
        return float(max(ends_s, default=0.0))


def decode_from(
    source: Source, start_s: float, grid: SampleGrid, origin: int, report: ReadReport, fast: str | None = None
) -> Iterator[TimedFrame]:
    """Yield the frames from a key frame at or before `start_s` on, or from the first frame if seeks fail."""
    # Where seeks look for times, the first one lands between key frames, and the next one is too late.
    skips_first = source.format_name in SCANNED_FORMATS
    for back_s in (None, *SEEK_BACK_S[skips_first:]):
        target = origin + int(max(start_s - (back_s or 0.0), 0.0) / source.time_base)
        if not (source.rewind(target) if back_s is None else source.seek(target)):
            continue
        frames = decode_frames(source, grid, origin, report, fast)
        first = next(frames, None)
        if first is not None and first[0] <= start_s + TIME_TOLERANCE_S:
            yield first
            yield from frames
            return
    source.reopen()
    if _has_packet_from(source, start_s, origin, report):
        source.reopen()
        yield from decode_frames(source, grid, origin, report, fast)


def _has_packet_from(source: Source, start_s: float, origin: int, report: ReadReport) -> bool:
    """Return whether the video has a packet at a time or later, or without a time. Nothing is decoded.

    If there is none, the end of the last one is reported.
    """
    start_pts, end_pts = origin + int(start_s / source.time_base), origin
    for packet in source.packets(report):
        timestamp = packet_timestamp(packet)
        if packet.stream is not source.stream or not packet.size:
            continue
        if timestamp is None or timestamp >= start_pts:
            return True
        end_pts = max(end_pts, timestamp + (packet.duration or 0))
    end_s = float((end_pts - origin) * source.time_base)
    report.other_streams_end_s = max(report.other_streams_end_s, end_s)
    return False


def start_decoding(
    source: Source, grid: SampleGrid, origin: int | None, report: ReadReport, fast: str | None = None
) -> tuple[VideoInfo, Iterator[TimedFrame]]:
    """Return the description and the frames of a source that was just opened.

    Raises DecodeError if there is no frame. The other arguments are those of `decode_frames`.
    """
    frames = decode_frames(source, grid, origin, report, fast)
    time_s, image = next(frames, (0.0, None))
    if image is None or source.stream.time_base is None:
        raise explain_undecodable(source.media, source.last_error)
    info = describe_video(source.container, source.stream, source.stream.time_base, image)
    if kind := source.media.picture_format:
        info = dataclasses.replace(info, container=kind, codec=kind, duration_s=1 / info.fps)
    return info, itertools.chain([(time_s, image)], frames)


def decode_first(source: Source) -> VideoInfo:
    """Return the description of a source that was just opened, from its first frame.

    If the clock breaks, the duration is unknown, as containers derive it from timestamps.
    """
    info, _ = start_decoding(source, ALL_FRAMES, None, ReadReport(core_end_s=0.0))
    return dataclasses.replace(info, duration_s=None) if source.has_breaks else info
