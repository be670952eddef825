"""Segments far from a key frame continue with the decoder of the segment before them."""

import math
from pathlib import Path

import pytest

from fer_batch.video import overlap, source
from fer_batch.video.planes import Frame
from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.report import ReadReport
from fer_batch.video.segment import Segment
from tests.video.helpers import have_same_frames, write_keyed_video, zero_bytes

SECONDS, FPS = 60, 10


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return films with one key frame, and one with two."""
    folder = tmp_path_factory.mktemp("films")
    keys_s = {f"one.{suffix}": [0.0] for suffix in ("mp4", "mkv", "ts", "flv", "avi")}
    keys_s["two.mp4"] = [0.0, 33.0]
    return {name: write_keyed_video(folder / name, keys, SECONDS, FPS) for name, keys in keys_s.items()}


@pytest.fixture(autouse=True)
def _no_memory_of_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget packets at once, as in a film of high resolution."""
    monkeypatch.setattr(source, "MAX_REMEMBERED_BYTES", 0)


def make_segments(path: Path) -> list[Segment]:
    """Return segments with cores of 10 s, and padding of 3 s before and 2 s after them."""
    return [
        Segment(
            uri=str(path), start_s=max(index * 10 - 3, 0), end_s=index * 10 + 12,
            core_start_s=index * 10, core_end_s=index * 10 + 10,
            index=index, segments=SECONDS // 10, first_pts=read_info(path).first_pts,
        )
        for index in range(SECONDS // 10)
    ]  # fmt: skip


class PacketCounter:
    def __init__(self) -> None:
        self.packets = 0

    def __call__(self) -> None:
        self.packets += 1


def read_in_turn(
    segments: list[Segment], counter: PacketCounter, fps: float | None, fast: str | None, alone: bool
) -> list[tuple[list[Frame], ReadReport]]:
    source._last_source.clear()
    parts = []
    for segment in segments:
        if alone:
            source._last_source.clear()
        reader = SegmentReader(segment, fps, fast=fast, on_packet=counter, prefetch=4)
        parts.append((list(reader), reader.report))
    return parts


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.ts", "one.flv", "one.avi", "two.mp4"])
@pytest.mark.parametrize(
    ("fps", "fast"),
    [(5.0, None), pytest.param(None, None, marks=pytest.mark.slow), (5.0, "nonref"), (5.0, "keyframes")],
)
def test_segments_in_turn_have_the_frames_of_each_segment_alone(
    films: dict[str, Path], name: str, fps: float | None, fast: str | None
) -> None:
    segments = make_segments(films[name])
    alone, in_turn = PacketCounter(), PacketCounter()
    for (frames, report), (expected, expected_report) in zip(
        read_in_turn(segments, in_turn, fps, fast, alone=False),
        read_in_turn(segments, alone, fps, fast, alone=True),
        strict=True,
    ):
        assert have_same_frames(frames, expected)
        assert [frame.index for frame in frames] == [frame.index for frame in expected]
        assert report == expected_report
    if name.startswith("one") and fast != "keyframes":
        assert 2 * in_turn.packets < alone.packets


def test_frames_are_not_kept_beyond_the_limit_of_memory(
    films: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "MAX_KEPT_BYTES", 20_000)
    segments = make_segments(films["one.mp4"])
    frames = [frames for frames, _ in read_in_turn(segments, PacketCounter(), 5.0, None, alone=False)]
    expected = [frames for frames, _ in read_in_turn(segments, PacketCounter(), 5.0, None, alone=True)]
    assert all(have_same_frames(*pair) for pair in zip(frames, expected, strict=True))


def test_damage_in_shared_frames_is_counted_by_both_segments(films: dict[str, Path], tmp_path: Path) -> None:
    damaged = zero_bytes(films["one.ts"], tmp_path / "film.ts", 0.5, 3000)
    segments = make_segments(damaged)
    reports = [report for _, report in read_in_turn(segments, PacketCounter(), 5.0, None, alone=False)]
    expected = [report for _, report in read_in_turn(segments, PacketCounter(), 5.0, None, alone=True)]
    assert reports == expected
    assert any(report.error for report in reports)


def test_another_sampling_does_not_continue(films: dict[str, Path]) -> None:
    first, second, *_ = make_segments(films["one.mp4"])
    ((expected, _),) = read_in_turn([second], PacketCounter(), None, None, alone=True)
    source._last_source.clear()
    list(SegmentReader(first, 5.0))
    assert have_same_frames(list(SegmentReader(second, None)), expected)


@pytest.mark.parametrize("prefetch", [0, 8])
def test_packets_on_the_way_to_a_segment_are_reported(films: dict[str, Path], prefetch: int) -> None:
    counter = PacketCounter()
    segment = make_segments(films["one.mp4"])[4]
    reader = SegmentReader(segment, 5.0, prefetch=prefetch, on_packet=counter)
    next(iter(reader))
    assert counter.packets >= segment.start_s * FPS


@pytest.mark.parametrize("name", ["one.ts", "one.mkv", "two.mp4"])
@pytest.mark.parametrize("is_last", [False, True])
def test_segment_beyond_the_end_is_empty(films: dict[str, Path], name: str, is_last: bool) -> None:
    segment = Segment(
        uri=str(films[name]), start_s=200.0, end_s=260.0, core_start_s=204.0, core_end_s=257.0,
        index=3, segments=4 if is_last else 5, first_pts=read_info(films[name]).first_pts,
    )  # fmt: skip
    reader = SegmentReader(segment, 5.0)
    assert list(reader) == []
    assert reader.report.error is None
    assert reader.report.end_s == (pytest.approx(SECONDS, abs=0.2) if is_last else 0.0)
    assert not math.isfinite(reader.report.core_end_s) or not is_last
