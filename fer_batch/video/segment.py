"""The unit of reading and analysis: one part of one video."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from fer_batch.schema import PLAN_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of one video. The fields are the columns of `schema.PLAN_SCHEMA`.

    The core `[core_start_s, core_end_s)` is the part that the segment answers for. `[start_s, end_s)` adds
    the padding on both sides that the answers need. Times are seconds since the video's first frame. The
    last segment of a video is read to the end of the file, whatever `end_s` and `core_end_s` are.
    """

    uri: str
    start_s: float
    end_s: float
    core_start_s: float
    core_end_s: float
    index: int = 0
    """Position among the video's segments, from 0."""
    segments: int = 1
    """Number of segments of the video."""
    first_pts: int | None = None
    """Timestamp of the video's first frame in units of its time base, None if it is not known yet."""
    offset: int | None = None
    """Byte offset of the header in the archive, for a member of an archive."""
    segment_id: str = ""
    bundle_id: str = ""
    video_id: str = ""
    version: str = ""

    @classmethod
    def whole(cls, path: str | Path, offset: int | None = None) -> Self:
        """Return the single segment that covers a whole video."""
        return cls(
            uri=str(path), start_s=0.0, end_s=math.inf, core_start_s=0.0, core_end_s=math.inf, offset=offset
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the segment of a row that has the columns of `schema.PLAN_SCHEMA`."""
        return cls(**{name: row[name] for name in PLAN_SCHEMA.names})

    @classmethod
    def from_table(cls, plan: pa.Table) -> list[Self]:
        return [cls.from_row(row) for row in plan.to_pylist()]

    def to_row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PLAN_SCHEMA.names}

    @property
    def is_last(self) -> bool:
        return self.index == self.segments - 1

    def end_at(self, end_s: float) -> Self:
        """Return the segment with an earlier end. It is not the last of its video, so reading stops there."""
        core_end_s = min(end_s, self.core_end_s)
        return dataclasses.replace(self, end_s=end_s, core_end_s=core_end_s, segments=self.segments + 1)
