"""Reading in a thread."""

import threading
from pathlib import Path

import pytest

from fer_batch.video.planes import Picture
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from tests.video.helpers import have_same_frames, read_segment


@pytest.mark.parametrize("count", [1, 4, 100])
def test_prefetch_gives_the_same_frames(sample: Path, count: int) -> None:
    frames, report = read_segment(sample, 1.0, 4.0, prefetch=count)
    others, other_report = read_segment(sample, 1.0, 4.0)
    assert have_same_frames(frames, others)
    assert report == other_report


def test_thread_ends_with_its_iterator(sample: Path) -> None:
    before = threading.active_count()
    frames = iter(SegmentReader(Segment.whole(sample), 5.0, prefetch=3))
    next(frames)
    assert threading.active_count() == before + 1
    frames.close()
    assert threading.active_count() == before


def test_error_in_the_thread_is_raised(monkeypatch: pytest.MonkeyPatch, sample: Path) -> None:
    def fail(*arguments: object) -> Picture:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(Picture, "from_decoded", fail)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a mistake"):
        read_segment(sample, prefetch=2)
    assert threading.active_count() == before
