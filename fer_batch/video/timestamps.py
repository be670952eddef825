"""Timestamps of frames: where times count from, and which of them are credible."""

import math
from collections.abc import Iterator

import av
from av.format import Flags

from fer_batch.video.clock import MAX_JUMP_S
from fer_batch.video.report import ReadReport

TIME_TOLERANCE_S = 1e-4
"""Two times that differ by less are equal."""
TimedFrame = tuple[float, av.VideoFrame | None]
"""The time of a frame in seconds, and the frame, None if it was not decoded."""


def has_flag(container: av.container.Container, name: str) -> bool:
    """Return whether a container's format has one of FFmpeg's flags, such as "no_timestamps"."""
    return Flags[name] in Flags(container.format.flags)


def packet_timestamp(packet: av.Packet) -> int | None:
    """Return a packet's presentation timestamp, or the decoding timestamp if it has no other."""
    return packet.dts if packet.pts is None else packet.pts


def frame_timestamp(frame: av.VideoFrame, format_name: str) -> int | None:
    """Return a frame's presentation timestamp. AVI has none, but stores frames in the order of display."""
    return frame.dts if format_name == "avi" else frame.pts


def first_timestamp(first: int | None, format_name: str, start: int | None) -> int:
    """Return the timestamp from which times count.

    It is earlier than that of the `first` decoded frame if the frames before that one are damaged. `start` is
    the stream's start by its container.
    """
    pts = first or 0
    return pts if start is None or format_name == "avi" else min(pts, start)


def repair_timestamps(
    frames: Iterator[TimedFrame], end_s: float, duration_s: float | None, report: ReadReport
) -> Iterator[TimedFrame]:
    """Yield the frames before `end_s` whose times are credible, and count the others in `report`.

    One damaged timestamp, or those of a few seconds, must neither end the reading nor hide later frames.
    """
    to_end_of_file = not math.isfinite(end_s)
    if to_end_of_file and duration_s is not None:
        end_s = duration_s + MAX_JUMP_S
    held: TimedFrame | None = None
    last_s = -math.inf
    far_s, far_count = math.inf, 0
    for frame in frames:
        time_s = frame[0]
        if held is not None:
            if time_s > held[0]:
                last_s = held[0]
                yield held
            else:
                report.misplaced_frames += 1
            held = None
        jump = time_s > last_s + MAX_JUMP_S
        if time_s >= end_s - TIME_TOLERANCE_S and (jump or not to_end_of_file):
            far_s, far_count = min(far_s, time_s), far_count + 1
            if not to_end_of_file and (not jump or time_s > far_s + MAX_JUMP_S):
                return
            continue
        report.misplaced_frames += far_count  # earlier frames follow them
        far_s, far_count = math.inf, 0
        if jump and math.isfinite(last_s):
            held = frame
        elif time_s < last_s - TIME_TOLERANCE_S:
            report.misplaced_frames += 1
        else:
            last_s = time_s
            yield frame
    report.misplaced_frames += far_count if to_end_of_file else 0
    if held is not None:
        yield held
