"""Random access to the frames of a video by time."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av

from fer_batch.errors import DecodeError, InputError
from fer_batch.video.decode import ALL_FRAMES, decode_first, decode_from
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import Frame, Picture
from fer_batch.video.report import ReadReport
from fer_batch.video.sampling import SampleGrid
from fer_batch.video.source import Source
from fer_batch.video.timestamps import TIME_TOLERANCE_S, repair_timestamps

MAX_GAP_S = 5.0
"""Largest gap between two times that is decoded, where seeks do not go back. Beyond, a seek is faster."""
MIN_SKIP_S = 0.3
"""Least time that a seek to a known key frame has to skip. Below, decoding is faster."""


def read_frames(path: str | Path, times_s: Iterable[float]) -> list[Frame]:
    """Return the frame that is shown at each time: the last one at or before it.

    `times_s` are seconds since the first frame, in any order. The result has one frame per time, in the same
    order. After the end of the video, the last frame is shown. `frame.to_rgb()` is the `(H, W, 3) uint8` RGB
    image, upright and at most 1080 pixels high, and `frame.time_s` the time at which the frame appears.

    Raises InputError if a time is negative or not finite, NoVideoError if the file has no video stream, and
    DecodeError if it cannot be read or damage leaves no frame at or before a time.
    """
    times = [float(time_s) for time_s in times_s]
    for time_s in times:
        if not 0 <= time_s < math.inf:
            raise InputError(f"times must be seconds from 0 on, got {time_s:g}")
    source = Source(path)
    try:
        frames = dict(read_in_order(source, decode_first(source), sorted(set(times))))
    finally:
        source.container.close()
    return [frames[time_s] for time_s in times]


def read_in_order(
    source: Source,
    info: VideoInfo,
    times_s: Iterable[float],
    key_times_s: Sequence[float] = (),
    grid: SampleGrid = ALL_FRAMES,
) -> Iterator[tuple[float, Frame]]:
    """Yield each time with the frame that is shown then, one after the other.

    `times_s` are in increasing order, and `info` describes the source. `key_times_s` are the sorted times of
    its key frames, as far as they are known: no frame is decoded that is not needed to reach the next one.
    Frames that are not sampled by `grid` may be left out, as if the one before them lasted longer.
    A picture is valid until the next one. Raises DecodeError if damage leaves no frame at or before a time.
    """
    decoded: Iterator[tuple[float, av.VideoFrame]] = iter(())
    shown: Frame | None = None
    current: tuple[float, av.VideoFrame] | None = None
    following: tuple[float, av.VideoFrame] | None = None
    max_gap_s = MAX_GAP_S
    for time_s in times_s:
        reached_s = following[0] if following is not None else 0.0
        key_s = key_times_s[bisect_right(key_times_s, time_s) - 1] if key_times_s else -math.inf
        is_far = reached_s + max_gap_s < time_s or reached_s + MIN_SKIP_S < key_s <= time_s
        if current is None or (following is not None and is_far):
            report = ReadReport()
            frames = decode_from(source, time_s, grid, info.first_pts, report)
            repaired = repair_timestamps(frames, math.inf, info.duration_s, report)
            decoded = ((at_s, image) for at_s, image in repaired if image is not None)
            current, following = None, next(decoded, None)
            if following is not None and following[0] < reached_s:  # the seek went back
                max_gap_s, key_times_s = max(max_gap_s, 2 * (time_s - following[0])), ()
        while following is not None and following[0] <= time_s + TIME_TOLERANCE_S:
            current, following = following, next(decoded, None)
        if current is None:
            raise DecodeError(f"no frame at or before {time_s:g} s can be decoded")
        if shown is None or shown.time_s != current[0]:
            picture = Picture.from_decoded(current[1], info.mirrored, source.stated_transfer)
            shown = Frame(time_s=current[0], picture=picture)
        yield time_s, shown
