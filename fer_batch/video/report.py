"""The damage report of a segment."""

import math
from dataclasses import dataclass


@dataclass(kw_only=True)
class ReadReport:
    """The extent and the damage of a segment as read. It is complete when all frames have been read."""

    core_start_s: float = 0.0
    core_end_s: float = math.inf
    """Infinity for the last segment of a video."""
    frames: int = 0
    """Number of frames in the core."""
    read_s: float = 0.0
    """End of the last readable frame, in seconds of the video."""
    last_frame_s: float = -math.inf
    damaged_packets: int = 0
    damaged_frames: int = 0
    misplaced_frames: int = 0
    """Number of skipped frames: out of order, or alone in the far future."""
    lost_s: float = 0.0
    """Seconds without a frame around damaged packets."""
    other_streams_end_s: float = 0.0
    """End of the last packet of all other streams. A file is cut short only if every stream ends early."""
    packets_end_s: float = 0.0
    """End of the last packet of the picture, in the report of a last segment. It may last long."""
    end_s: float = 0.0
    """End of the file's readable content, in the report of a last segment."""
    missing_s: float = 0.0
    """Seconds that the container states and the file does not have."""
    problem: str | None = None
    """The reason why reading stopped early."""

    @property
    def error(self) -> str | None:
        """The description of all damage in this part of the file, None if there is none."""
        parts = [self.problem] if self.problem else []
        if self.damaged_packets:
            parts.append(_format_count("damaged packet", self.damaged_packets))
        if self.lost_s >= 0.05:
            parts.append(f"{self.lost_s:.1f} s without a frame")
        if self.damaged_frames:
            parts.append(_format_count("damaged frame", self.damaged_frames))
        if self.misplaced_frames:
            parts.append(f"{_format_count('frame', self.misplaced_frames)} out of order")
        if self.missing_s > 0:
            stated_s = self.end_s + self.missing_s
            parts.append(
                f"read {self.end_s:.1f} of {stated_s:.1f} s, the file ends before its container says"
            )
        return "; ".join(parts) or None

    def record_frame(self, time_s: float, fps: float) -> int:
        """Count a frame and return its index in the core, -1 outside the core."""
        self.last_frame_s = time_s
        self.read_s = time_s + 1 / fps
        if not self.core_start_s <= time_s < self.core_end_s:
            return -1
        self.frames += 1
        return self.frames - 1


def _format_count(noun: str, number: int) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
