"""Damaged timestamps and long gaps."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_video
from tests.video.helpers import read_segment, times


def find_cluster_times(path: Path) -> list[int]:
    """Return the offsets of the two-byte times of the clusters in a Matroska file."""
    content = path.read_bytes()
    return [m.end() for m in re.finditer(rb"\x1f\x43\xb6\x75.{5,16}?\xe7\x82", content, re.DOTALL)]


@pytest.mark.parametrize(
    ("wrong_s", "part"),
    [
        *itertools.product([60.0, 0.001], [(0.0, math.inf), (0.0, 3.6), (0.5, math.inf)]),
        *itertools.product([3.0], [(0.0, math.inf), (0.5, math.inf)]),
    ],
)
@pytest.mark.parametrize("count", [1, 25])
def test_damaged_timestamp_loses_only_its_own_frames(
    tmp_path: Path, sample_frames: list[np.ndarray], wrong_s: float, part: tuple[float, float], count: int
) -> None:
    """The time of a cluster is wrong, which has one frame or a second of frames."""
    images = [np.ascontiguousarray(frame[::2, ::2]) for frame in sample_frames[:100]]
    path = write_video(tmp_path / "video.mkv", images, g="25" if count == 25 else "1", crf="10")
    places = find_cluster_times(path)
    assert len(places) == (3 if count == 25 else 93)  # from 0.256 s on times have two bytes
    content = bytearray(path.read_bytes())
    place = places[1 if count == 25 else 42]
    content[place : place + 2] = round(wrong_s * 1000).to_bytes(2)
    path.write_bytes(content)
    frames, report = read_segment(path, *part, None)
    expected = sum(part[0] <= n / 25 < part[1] for n in range(100))
    assert times(frames) == sorted(times(frames))
    assert report.misplaced_frames >= count - 1
    # A wrong time that is plausible displaces the frames that belong there.
    assert len(frames) + report.misplaced_frames == pytest.approx(expected, abs=1)
    if wrong_s != 3.0:
        assert len(frames) == pytest.approx(expected - count, abs=1)
        assert times(frames)[-1] == pytest.approx(min(part[1], 4.0), abs=0.05)


@pytest.mark.parametrize("part", [(0.0, math.inf), (10.0, 50.0), (10.0, 20.0)])
def test_long_gaps_between_frames_are_kept(
    tmp_path: Path, small_frames: list[np.ndarray], part: tuple[float, float]
) -> None:
    given_s = [0.0, 15.0, 40.0, 80.0]
    path = write_video(tmp_path / "video.mkv", small_frames[:4], times_s=given_s)
    frames, report = read_segment(path, *part, None)
    assert times(frames) == pytest.approx([t for t in given_s if part[0] <= t < part[1]])
    assert report.error is None
