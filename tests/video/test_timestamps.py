"""Damaged timestamps and long gaps."""

import itertools
import math
import re
from pathlib import Path

import av
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


def write_pairs(path: Path, frames: list[np.ndarray]) -> Path:
    """Write frames of which two at a time have the same timestamp."""
    film = write_video(path.with_name("film.mkv"), frames, g="20")
    with av.open(str(film)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.pts is not None:
                packet.pts, packet.dts = packet.pts // 80 * 80, packet.pts - 80
                packet.stream = stream
                output.mux(packet)
    return path


def test_frames_of_one_timestamp_are_all_counted(tmp_path: Path, small_frames: list[np.ndarray]) -> None:
    path = write_pairs(tmp_path / "video.mkv", small_frames[:100])
    with av.open(str(path)) as container:
        expected_s = [frame.time for frame in container.decode(video=0)]
    assert len(set(expected_s)) == 50
    frames, report = read_segment(path, fps=None)
    assert times(frames) == pytest.approx(expected_s)
    assert [frame.index for frame in frames] == list(range(100))
    assert (report.frames, report.error) == (100, None)
    sampled, report = read_segment(path)
    assert [frame.index for frame in sampled] == [expected_s.index(frame.time_s) for frame in sampled]
    assert (len(sampled), report.frames) == (20, 100)
    parts = [read_segment(path, start_s, end_s, None) for start_s, end_s in [(0.0, 1.76), (1.76, math.inf)]]
    assert [times(part) for part, _ in parts] == [times(frames)[:44], times(frames)[44:]]
