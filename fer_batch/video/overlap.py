"""The frames that two neighbouring segments share, kept where the last key frame is far away.

Without them, the second segment would decode all frames from that key frame on again.
"""

import math
from collections import deque
from collections.abc import Iterator

import av
import numpy as np

from fer_batch.video.changes import ChangeMeter, sample_points
from fer_batch.video.key_frames import LONG_GAP_S
from fer_batch.video.sampling import SampleGrid
from fer_batch.video.segment import Segment
from fer_batch.video.source import Source
from fer_batch.video.timestamps import TIME_TOLERANCE_S, TimedFrame

MAX_KEPT_BYTES = 512 << 20
"""Most bytes of kept frames. Two segments share some 40 sampled frames, of 3 MB each in 1080p."""


class OverlapKeeper:
    """The decoded frames of a segment, of which it keeps those that the next segment needs as well."""

    def __init__(self, source: Source, segment: Segment, grid: SampleGrid, fast: str | None) -> None:
        """`grid` is that of the decoder. It loses its end as soon as frames are kept."""
        self.source, self.segment, self.grid, self.fast = source, segment, grid, fast
        self._kept: deque[tuple[float, av.VideoFrame | None, np.ndarray | None]] | None = None
        """Time, sampled frame, and points of a frame that is not sampled."""
        self._bytes = 0
        # The first segment does not show the length of the padding before a core.
        padding_s = segment.core_start_s - segment.start_s or 2 * (segment.end_s - segment.core_end_s)
        self._start_s = segment.core_end_s - padding_s - TIME_TOLERANCE_S
        self._sampled = SampleGrid(grid.fps, self._start_s, math.inf)
        self._frames: Iterator[TimedFrame] = iter(())

    @property
    def has_frames(self) -> bool:
        return self._kept is not None

    def pass_on(self, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        """Yield the frames of the decoder."""
        self._frames = frames
        may_keep = not self.segment.is_last and self.fast != "keyframes"  # which decodes little on the way
        for time_s, image in frames:
            if may_keep and time_s >= self._start_s:
                may_keep = False
                if self.source.since_key_s > LONG_GAP_S:
                    self._kept, self.grid.end_s, self.source.last_error = deque(), math.inf, ""
            if self._kept is not None:
                self._keep(time_s, image)
            yield time_s, image

    def can_continue(self, segment: Segment, fps: float | None, fast: str | None) -> bool:
        """Return whether the kept frames are the first ones of a segment, which is the next one."""
        is_next = abs(segment.core_start_s - self.segment.core_end_s) <= TIME_TOLERANCE_S
        is_same = (segment.video_id, fps, fast) == (self.segment.video_id, self.grid.fps, self.fast)
        return is_next and is_same and self.has_frames and segment.start_s >= self._start_s

    def pop_frames(self, meter: ChangeMeter) -> Iterator[TimedFrame]:
        """Yield the kept frames and those that follow them. `meter` records frames that are not sampled."""
        while self._kept:
            time_s, image, points = self._kept.popleft()
            if points is not None:
                meter.record_points(points)
            yield time_s, image
        for frame in self._frames:  # noqa: UP028  (`yield from` would close them with this generator)
            yield frame

    def _keep(self, time_s: float, image: av.VideoFrame | None) -> None:
        assert self._kept is not None
        points = None
        if image is not None and not self._sampled.take(time_s):
            points = sample_points(image)
            image = None
        if image is not None:
            self._bytes += sum(plane.buffer_size for plane in image.planes)
        self._kept.append((time_s, image, points))
        # The next segment has to count the damage in the shared frames.
        is_damaged = self.source.last_error or (image is not None and image.is_corrupt)
        if is_damaged or self._bytes > MAX_KEPT_BYTES:
            self._kept = None
