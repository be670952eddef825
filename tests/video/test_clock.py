"""Videos whose clock starts again or jumps, and those whose picture only pauses."""

import itertools
import math
from pathlib import Path

import av
import numpy as np
import pytest

from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.redraw import redraw_video
from fer_batch.video.segment import Segment
from tests.conftest import write_video
from tests.video.helpers import (
    copy_shifted,
    count_frames,
    join_files,
    join_planes,
    read_segment,
    times,
    write_with_sound,
)

FRAMES = 100
"""Frames of each part, in 4 seconds."""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> dict[str, Path]:
    """Return recordings with sound by container and by the seconds at which their clock starts."""
    folder = tmp_path_factory.mktemp("parts")
    films = {}
    for suffix in ("ts", "mpg", "mkv", "webm", "flv"):
        film = films[suffix] = write_with_sound(folder / f"film.{suffix}", small_frames[:FRAMES], 0.0, 4.0)
        if suffix in ("ts", "mpg"):
            for shift_s in (5, 30, 98, 100, 3600):
                path = folder / f"film{shift_s}.{suffix}"
                films[f"{suffix}{shift_s}"] = copy_shifted(film, path, shift_s)
    return films


BROKEN_CLOCKS = [
    ("ts", "ts"),
    ("ts", "ts", "ts"),
    ("ts3600", "ts"),
    ("ts", "ts3600"),
    ("ts100", "ts98"),
    ("ts100", "ts30", "ts3600", "ts"),
    ("mpg", "mpg", "mpg"),
    ("mpg", "mpg100"),
    ("mpg100", "mpg"),
    ("mkv", "mkv"),
    ("webm", "webm"),
]


def join_recordings(folder: Path, parts: dict[str, Path], names: tuple[str, ...]) -> Path:
    return join_files(folder / f"joined{parts[names[0]].suffix}", *(parts[name] for name in names))


@pytest.mark.parametrize("names", BROKEN_CLOCKS, ids="-".join)
def test_appended_recordings_continue_the_time_line(
    tmp_path: Path, parts: dict[str, Path], names: tuple[str, ...]
) -> None:
    path = join_recordings(tmp_path, parts, names)
    frames, report = read_segment(path, fps=None)
    assert len(frames) == report.frames == count_frames(path) == len(names) * FRAMES
    assert times(frames) == pytest.approx([n / 25 for n in range(len(frames))], abs=0.003)
    assert report.error is None
    assert report.read_s == pytest.approx(4.0 * len(names), abs=0.01)
    stated_s = read_info(path).duration_s
    if path.suffix in (".ts", ".mpg"):  # FFmpeg derives the duration from timestamps
        assert stated_s is None


@pytest.mark.parametrize("in_turn", [False, True])
@pytest.mark.parametrize("fps", [5.0, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cuts", [(2.0,), (1.0, 3.4, 7.0), (4.0, 4.2, 6.5)])
@pytest.mark.parametrize("names", [BROKEN_CLOCKS[0], BROKEN_CLOCKS[3], BROKEN_CLOCKS[5], BROKEN_CLOCKS[7]])
def test_segments_behind_a_break_have_the_frames_of_the_whole_video(
    tmp_path: Path,
    parts: dict[str, Path],
    names: tuple[str, ...],
    cuts: tuple[float, ...],
    fps: float | None,
    in_turn: bool,
) -> None:
    path = join_recordings(tmp_path, parts, names)
    whole, report = read_segment(path, fps=fps)
    first_pts = read_info(path).first_pts
    sampled, frames = [], 0
    edges = [0.0, *cuts, 1000.0]
    for index, (start_s, end_s) in enumerate(itertools.pairwise(edges)):
        if not in_turn:
            path = join_recordings(tmp_path, parts, names)  # another file, so that none stays open
        segment = Segment(
            uri=str(path), start_s=max(start_s - 0.6, 0), end_s=end_s + 0.6, core_start_s=start_s,
            core_end_s=end_s, index=index, segments=len(edges) - 1, first_pts=first_pts,
        )  # fmt: skip
        reader = SegmentReader(segment, fps)
        sampled += [
            (frame.time_s, frame.index + frames, join_planes(frame)) for frame in reader if frame.index >= 0
        ]
        frames += reader.report.frames
        assert reader.report.error is None
    assert frames == report.frames
    assert [(time_s, index) for time_s, index, _ in sampled] == [(f.time_s, f.index) for f in whole]
    assert all(np.array_equal(a[2], join_planes(b)) for a, b in zip(sampled, whole, strict=True))


def test_tags_of_an_appended_recording_are_skipped(tmp_path: Path, parts: dict[str, Path]) -> None:
    content = parts["flv"].read_bytes()
    path = tmp_path / "video.flv"
    path.write_bytes(content + content[13:])  # without the header
    frames, report = read_segment(path, fps=None)
    assert len(frames) == count_frames(path) == 2 * FRAMES
    assert times(frames) == pytest.approx([n / 25 for n in range(2 * FRAMES)], abs=0.003)
    assert report.error is None


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
def test_pause_of_the_picture_with_b_frames_is_kept(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str
) -> None:
    given_s = [n / 25 + (60 if n >= 70 else 0) for n in range(150)]
    options = {"preset": "medium", "g": "250", "x264-params": "b-adapt=0:bframes=3:scenecut=0"}
    path = write_video(tmp_path / f"video.{suffix}", small_frames[:150], 25, times_s=given_s, **options)
    frames, report = read_segment(path, fps=None)
    assert times(frames) == pytest.approx(given_s, abs=0.002)
    assert report.error is None


@pytest.mark.parametrize(
    ("suffix", "sound_s"), [("ts", 66.0), ("mkv", 0.0), ("mkv", 66.0), ("mp4", 0.0), ("mp4", 66.0)]
)
def test_pause_of_the_picture_while_the_clock_runs_on_is_kept(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str, sound_s: float
) -> None:
    path = tmp_path / f"video.{suffix}"
    given_s = [n / 25 + (60 if n >= 86 else 0) for n in range(150)]
    film = write_with_sound(tmp_path / "film.mp4", small_frames[:150], 0.0, sound_s)
    with av.open(str(film)) as container, av.open(str(path), "w") as output:
        streams = [output.add_stream_from_template(stream) for stream in container.streams]
        packets = [packet for packet in container.demux() if packet.dts is not None]
        for packet in packets:
            if packet.stream.type == "video":
                limit, pause = round(3.42 / packet.time_base), round(60 / packet.time_base)
                packet.pts = (packet.pts or 0) + (pause if (packet.pts or 0) >= limit else 0)
                packet.dts = (packet.dts or 0) + (pause if (packet.dts or 0) >= limit else 0)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            packet.stream = streams[packet.stream.index]
            output.mux(packet)
    frames, report = read_segment(path, fps=None)
    assert times(frames) == pytest.approx(given_s, abs=0.002)
    assert report.error is None
    late, _ = read_segment(path, 62.0, math.inf, None)
    assert times(late) == [time_s for time_s in times(frames) if time_s >= 62.0 - 1e-4]


def test_sound_behind_a_break_is_shifted_with_the_picture(tmp_path: Path, parts: dict[str, Path]) -> None:
    path = join_recordings(tmp_path, parts, ("ts3600", "ts"))
    target = tmp_path / "drawn.mkv"
    result = redraw_video(str(path), target, lambda canvas, time_s: None)
    assert (result.frames, result.error) == (2 * FRAMES, None)
    with av.open(str(target)) as container:
        ends = {"video": 0.0, "audio": 0.0}
        for packet in container.demux():
            if packet.pts is not None:
                ends[packet.stream.type] = float(packet.pts * packet.time_base)
    assert ends["video"] == pytest.approx(7.96, abs=0.03)
    assert ends["audio"] == pytest.approx(8.0, abs=0.1)
