"""The description of a video: its container's statements and the shape of its first frame."""

import logging
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from fer_batch.video.container import MAX_ASPECT_RATIO
from fer_batch.video.timestamps import first_timestamp, frame_timestamp, has_flag

logger = logging.getLogger(__name__)

DEFAULT_FPS = 25.0
"""Frame rate of a video whose container states none."""
PIXEL_ASPECT_RANGE = (0.1, 10.0)
"""Plausible ratios of a pixel's width to its height. Real footage has 0.5 to 3."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The properties of a video stream."""

    duration_s: float | None
    """None if the container states none."""
    fps: float
    width: int
    """Width of the upright frame in stored pixels."""
    height: int
    codec: str
    first_pts: int
    """Timestamp of the first frame in units of `time_base`. All times count from it."""
    time_base: Fraction
    start_s: float
    """Seconds from the start of the file, as players and subtitles count them, to the first frame."""
    rotation: int
    """Degrees counter-clockwise that turn the stored frame upright: 0, 90, 180 or 270."""
    mirrored: bool
    """Whether the stored frame is flipped top to bottom before it is turned."""
    pixel_aspect: float
    """Width of a pixel of the upright frame divided by its height."""
    container: str
    """FFmpeg's name of the format."""


def describe_video(
    container: av.container.InputContainer, stream: av.VideoStream, time_base: Fraction, first: av.VideoFrame
) -> VideoInfo:
    """Return the description of a stream whose first decoded frame is `first`."""
    width, height = first.width, first.height
    aspect = float(stream.sample_aspect_ratio or 1)
    shape = max(width * aspect / height, height / (width * aspect)) if aspect > 0 else math.inf
    if shape > MAX_ASPECT_RATIO or not PIXEL_ASPECT_RANGE[0] <= aspect <= PIXEL_ASPECT_RANGE[1]:
        aspect = 1.0
    if has_flag(container, "no_timestamps") and not stream.codec_context.framerate:
        logger.info(
            "%s: no frame rate is stated, %g frames per second are assumed", container.name, DEFAULT_FPS
        )
    turns = quarter_turns(first)
    if turns % 2:
        width, height, aspect = height, width, 1 / aspect
    format_name = container.format.name
    first_pts = 0
    if not has_flag(container, "no_timestamps"):
        first_pts = first_timestamp(frame_timestamp(first, format_name), format_name, stream.start_time)
    return VideoInfo(
        duration_s=_duration(container, stream, first_pts),
        fps=frame_rate(stream),
        width=width,
        height=height,
        codec=stream.codec_context.codec.canonical_name,
        first_pts=first_pts,
        time_base=time_base,
        start_s=_start_in_file(container, float(first_pts * time_base)),
        rotation=90 * turns,
        pixel_aspect=aspect,
        container=format_name,
        mirrored=_is_mirrored(first),
    )


def frame_rate(stream: av.VideoStream) -> float:
    """Return the average frames per second, `DEFAULT_FPS` if the container states nothing plausible.

    Raw streams have no container, but may state a rate for themselves.
    """
    if has_flag(stream.container, "no_timestamps"):
        rate = float(stream.codec_context.framerate or DEFAULT_FPS)
    else:
        rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    return rate if 0 < rate <= 1000 else DEFAULT_FPS


def quarter_turns(frame: av.VideoFrame) -> int:
    """Return the quarter turns counter-clockwise, 0 to 3, that turn a frame upright."""
    return round(frame.rotation / 90) % 4


def _duration(container: av.container.InputContainer, stream: av.VideoStream, first_pts: int) -> float | None:
    """Return the seconds from the first frame at `first_pts` to the end of the picture.

    The end is that of the stream, by Matroska's tag or of the container. None is an unknown end.
    """
    if has_flag(container, "no_timestamps"):
        return None
    if container.format.name == "avi" and stream.frames and stream.time_base:
        # FFmpeg estimates the duration of a file without an index, but the header states the frames.
        return float((stream.frames + (stream.start_time or 0) - first_pts) * stream.time_base)
    if stream.duration and stream.time_base:
        return float((stream.duration + (stream.start_time or 0) - first_pts) * stream.time_base)
    first_s = float(first_pts * (stream.time_base or 0))
    if (tagged_s := parse_duration(stream.metadata.get("DURATION", ""))) is not None:
        return tagged_s if _is_length(container, stream) else tagged_s - first_s
    end_s = find_stated_end_s(container)
    return None if end_s is None else end_s - first_s


def find_stated_end_s(container: av.container.InputContainer) -> float | None:
    """Return the timestamp in seconds at which a container ends by its own statement."""
    if not container.duration:
        return None
    counts_from_zero = container.format.name.split(",")[0] in ("matroska", "flv", "nut")
    start = 0 if counts_from_zero else container.start_time or 0
    return (container.duration + start) / av.time_base


def parse_duration(tag: str) -> float | None:
    """Return the seconds of a tag "HOURS:MINUTES:SECONDS" of Matroska, None for any other text."""
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _is_length(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Return whether the tag of a Matroska stream is the length of the stream, as mkvmerge writes it.

    FFmpeg writes the end of the stream instead, and keeps the other tags of mkvmerge.
    """
    writer = container.metadata.get("ENCODER", container.metadata.get("encoder", ""))
    return "_STATISTICS_WRITING_APP" in stream.metadata and not writer.startswith("Lavf")


def _start_in_file(container: av.container.InputContainer, first_s: float) -> float:
    """Return the seconds to `first_s` from the earliest timestamp of all streams, where players start."""
    if container.start_time is None:
        return 0.0
    return max(first_s - container.start_time / av.time_base, 0.0)


def _is_mirrored(first: av.VideoFrame) -> bool:
    """Return whether the display matrix mirrors.

    Reading side data creates a reference cycle that keeps the frame in memory, so only one per file is read.
    """
    matrix: Any = first.side_data.get("DISPLAYMATRIX")  # a buffer, unlike in PyAV's stubs
    if matrix is None:
        return False
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).astype(np.int64).tolist()
    return a * d - b * c < 0
