"""The description of a video: its container's statements and the shape of its first frame."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from fer_batch.video.container import MAX_ASPECT_RATIO
from fer_batch.video.timestamps import first_timestamp

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
    turns = quarter_turns(first)
    if turns % 2:
        width, height, aspect = height, width, 1 / aspect
    first_pts = first_timestamp(first, container.format.name, stream.start_time)
    return VideoInfo(
        duration_s=_duration(container, stream),
        fps=frame_rate(stream),
        width=width,
        height=height,
        codec=stream.codec_context.codec.canonical_name,
        first_pts=first_pts,
        time_base=time_base,
        start_s=_start_in_file(container, float(first_pts * time_base)),
        rotation=90 * turns,
        pixel_aspect=aspect,
        container=container.format.name,
        mirrored=_is_mirrored(first),
    )


def frame_rate(stream: av.VideoStream) -> float:
    """Return the average frames per second, `DEFAULT_FPS` if the container states nothing plausible."""
    rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    return rate if 0 < rate <= 1000 else DEFAULT_FPS


def quarter_turns(frame: av.VideoFrame) -> int:
    """Return the quarter turns counter-clockwise, 0 to 3, that turn a frame upright."""
    return round(frame.rotation / 90) % 4


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Return the duration by the stream, by Matroska's tag or by the container, None without any of them."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    start = max(container.start_time or 0, 0)
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        try:
            return int(tag[0]) * 3600 + int(tag[1]) * 60 + float(tag[2]) - start / av.time_base
        except ValueError:
            pass
    if not container.duration:
        return None
    # Matroska and FLV count the container's duration from zero, not from the first timestamp.
    counts_from_zero = container.format.name.split(",")[0] in ("matroska", "flv")
    return (container.duration - (start if counts_from_zero else 0)) / av.time_base


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
