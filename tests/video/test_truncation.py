"""Files whose end is missing, and files that only look as if it were."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.errors import DecodeError
from tests.video.helpers import copy_shifted, read_segment, times, truncate, write_with_sound

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
FRAGMENT_OPTIONS = {
    "plain": FRAGMENTED,
    "offset": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    "dash": {"movflags": "dash+frag_keyframe"},
    "frames": {"movflags": "frag_every_frame+empty_moov"},
}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> Path:
    """Return four seconds of picture and sound with a key frame every second."""
    return write_with_sound(tmp_path_factory.mktemp("film") / "film.mp4", small_frames[:100], 0.0, 4.0)


def list_boxes(path: Path) -> list[tuple[str, int, int]]:
    """Return type, place and size of the boxes of an MP4 file."""
    content, boxes, place = path.read_bytes(), [], 0
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        boxes.append((kind.decode(), place, size))
        place += size
    return boxes


@pytest.mark.parametrize("options", FRAGMENT_OPTIONS.values(), ids=FRAGMENT_OPTIONS)
def test_fragmented_file_cut_inside_a_header_gives_the_fragments_before(
    tmp_path: Path, film: Path, options: dict[str, str]
) -> None:
    whole = copy_shifted(film, tmp_path / "whole.mp4", 0.0, **options)
    frames, report = read_segment(whole, fps=None)
    assert (len(frames), report.error) == (100, None)
    _, place, size = [box for box in list_boxes(whole) if box[0] == "moof"][-1]
    for cut in (place + 4, place + 8, place + 20, place + size // 2, place + size - 1, place + size + 4):
        path = tmp_path / "video.mp4"
        path.write_bytes(whole.read_bytes()[:cut])
        part, report = read_segment(path, fps=None)
        assert times(part) == times(frames)[: len(part)]
        assert 70 <= len(part) <= 100
        assert report.error is not None
        late, late_report = read_segment(path, 2.0, fps=None)
        assert times(late) == [time_s for time_s in times(part) if time_s >= 2.0 - 1e-4]
        assert late_report.error == report.error


def test_fragmented_file_cut_inside_its_first_header_fails(tmp_path: Path, film: Path) -> None:
    whole = copy_shifted(film, tmp_path / "whole.mp4", 0.0, **FRAGMENTED)
    _, place, _ = next(box for box in list_boxes(whole) if box[0] == "moof")
    path = tmp_path / "video.mp4"
    path.write_bytes(whole.read_bytes()[: place + 30])
    with pytest.raises(DecodeError):
        read_segment(path)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, small_frames: list[np.ndarray]) -> dict[str, Path]:
    """Return the film by container. The MP4 file is fragmented."""
    folder = tmp_path_factory.mktemp("films")
    suffixes = ("mp4", "mkv", "webm", "ts", "flv", "avi", "ogv")
    films = {
        suffix: write_with_sound(folder / f"film.{suffix}", small_frames[:100], 0.0, 4.0)
        for suffix in suffixes
    }
    return films | {"mp4": copy_shifted(films["mp4"], folder / "fragments.mp4", 0.0, **FRAGMENTED)}


@settings(deadline=None, max_examples=40)
@given(
    suffix=st.sampled_from(["mp4", "mkv", "webm", "ts", "flv", "avi", "ogv"]),
    share=st.floats(0.4, 0.8),
)
def test_cut_is_reported_and_all_frames_before_it_are_read(
    films: dict[str, Path], suffix: str, share: float
) -> None:
    whole, report = read_segment(films[suffix], fps=None)
    assert (len(whole), report.error) == (100, None)
    path = truncate(films[suffix], films[suffix].with_name(f"cut.{suffix}"), share)
    frames, report = read_segment(path, fps=None)
    assert set(times(frames)) <= set(times(whole))
    assert 25 <= len(frames) < 100
    ends_between_packets = suffix == "ts" and path.stat().st_size % 188 == 0
    assert report.error is not None or ends_between_packets


@pytest.mark.parametrize("kind", ["timecode", "sound first"])
def test_other_streams_do_not_hide_a_cut(tmp_path: Path, film: Path, kind: str) -> None:
    """A timecode lasts to the end of the film, and sound may be stored before the picture."""
    whole = tmp_path / "whole.mp4"
    with av.open(str(film)) as container, av.open(
        str(whole), "w", options={"movflags": "faststart", "max_interleave_delta": "0"}
    ) as output:  # fmt: skip
        streams = [output.add_stream_from_template(stream) for stream in container.streams]
        if kind == "timecode":
            streams[0].metadata["timecode"] = "01:02:03:04"
        packets = [packet for packet in container.demux() if packet.dts is not None]
        if kind == "sound first":
            packets.sort(key=lambda packet: packet.stream.type != "audio")
        for packet in packets:
            packet.stream = streams[packet.stream.index]
            if kind == "timecode":
                output.mux(packet)
            else:
                output.mux_one(packet)
    with av.open(str(whole)) as container:
        assert len(container.streams.data) == (kind == "timecode")
    assert read_segment(whole)[1].error is None
    frames, report = read_segment(truncate(whole, tmp_path / "video.mp4", 0.75), fps=None)
    assert len(frames) < 95
    assert f"read {report.read_s:.1f} of 4.0 s, the file ends before its container says" in str(report.error)


def test_last_frame_that_is_shown_for_long_is_no_cut(tmp_path: Path, film: Path) -> None:
    path = tmp_path / "video.mp4"
    with av.open(str(film)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
        last = max(packets, key=lambda packet: packet.pts or 0)
        last.duration = round(5 / last.time_base)
        for packet in packets:
            packet.stream = stream
            output.mux(packet)
    frames, report = read_segment(path, fps=None)
    assert (len(frames), report.error) == (100, None)


@pytest.mark.parametrize("suffix", ["avi", "mov", "ogv"])
def test_packets_of_zero_bytes_repeat_a_frame(
    tmp_path: Path, small_frames: list[np.ndarray], suffix: str
) -> None:
    path = tmp_path / f"video.{suffix}"
    film = write_with_sound(tmp_path / "film.mkv", small_frames[:50])
    with av.open(str(film)) as container, av.open(str(path), "w") as output:
        decoded = list(container.decode(video=0))
        codec = "libvpx" if suffix == "ogv" else "mjpeg"
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height = 160, 90
        stream.pix_fmt = "yuv420p" if codec == "libvpx" else "yuvj420p"
        packets = []
        for number, frame in enumerate(decoded):
            image = frame.reformat(format=stream.pix_fmt)
            image.pts, image.time_base = number, Fraction(1, 25)
            packets += stream.encode(image)
        for number, packet in enumerate([*packets, *stream.encode()]):
            if number in (20, 21, 40):
                empty = av.Packet(0)
                empty.pts, empty.dts, empty.duration = packet.pts, packet.dts, packet.duration
                empty.time_base, packet = packet.time_base, empty
            packet.stream = stream
            output.mux(packet)
    frames, report = read_segment(path, fps=None)
    assert times(frames) == pytest.approx([n / 25 for n in range(50) if n not in (20, 21, 40)])
    assert (report.frames, report.error) == (47, None)
