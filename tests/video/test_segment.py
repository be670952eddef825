"""Segments and their rows in a plan."""

import math

import pyarrow as pa

from fer_batch.schema import PLAN_SCHEMA
from fer_batch.video.segment import Segment

SEGMENT = Segment(
    uri="/video.mp4", index=1, segments=3, start_s=55.0, end_s=125.0, core_start_s=60.0, core_end_s=120.0,
    first_pts=512, segment_id="a/b/00001", bundle_id="c", video_id="a", version="b",
)  # fmt: skip


def test_whole_video_is_one_segment() -> None:
    segment = Segment.whole("video.mp4", offset=512)
    assert (segment.uri, segment.offset, segment.is_last) == ("video.mp4", 512, True)
    assert (segment.start_s, segment.core_start_s) == (0.0, 0.0)
    assert (segment.end_s, segment.core_end_s) == (math.inf, math.inf)


def test_plan_rows_are_converted_both_ways() -> None:
    plan = pa.Table.from_pylist([SEGMENT.to_row()], schema=PLAN_SCHEMA)
    assert Segment.from_table(plan) == [SEGMENT]
    assert not SEGMENT.is_last


def test_segment_with_an_earlier_end_is_never_the_last() -> None:
    in_padding = SEGMENT.end_at(122.0)
    assert (in_padding.end_s, in_padding.core_end_s) == (122.0, 120.0)
    whole = Segment.whole("video.mp4").end_at(3.0)
    assert (whole.end_s, whole.core_end_s, whole.is_last) == (3.0, 3.0, False)
