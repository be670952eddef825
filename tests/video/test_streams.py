"""Selection of the stream that is read where a file has several."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from fer_batch.errors import DecodeError
from fer_batch.video import container as container_module
from fer_batch.video.reader import read_info
from tests.video.helpers import add_silence, have_same_frames, read_segment, select_frames

FPS = 25
DEFAULT, NONE = Disposition.default, Disposition(0)


def write_streams(path: Path, *streams: tuple[int, int, Disposition], sounds: int = 0) -> Path:
    """Write a file with video streams of (frames, width, disposition), and sounds."""
    with av.open(str(path), "w") as container:
        outputs = []
        for frames, width, disposition in streams:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = width, width * 9 // 16 // 2 * 2, "yuv420p"
            stream.codec_context.gop_size = FPS
            stream.disposition = disposition
            outputs.append((stream, frames))
        writers = [add_silence(container, 1.0) for _ in range(sounds)]
        for number in range(max(frames for frames, *_ in streams)):
            for stream, frames in outputs:
                if number < frames:
                    grey = np.full((stream.height, stream.width, 3), 40 + number % 100, np.uint8)
                    frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                    frame.pts = number
                    container.mux(stream.encode(frame))
        for stream, frames in outputs:
            if frames:
                container.mux(stream.encode())
        for write in writers:
            write()
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov", "nut"])
@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        ([(1, 640, NONE), (100, 320, DEFAULT)], 1),
        ([(1, 640, DEFAULT), (100, 320, DEFAULT)], 1),
        ([(100, 160, DEFAULT), (100, 320, DEFAULT)], 1),
        ([(101, 160, DEFAULT), (100, 320, DEFAULT)], 1),
        ([(100, 320, NONE), (100, 160, NONE), (100, 160, NONE)], 0),
        ([(100, 320, NONE), (100, 320, NONE)], 0),
        ([(20, 640, DEFAULT), (100, 320, DEFAULT)], 1),
    ],
    ids=["still", "default still", "proxy", "longer proxy", "proxies behind", "two films", "trailer"],
)
def test_film_is_read_wherever_it_is(
    tmp_path: Path, suffix: str, streams: list[tuple[int, int, Disposition]], expected: int
) -> None:
    path = write_streams(tmp_path / f"video.{suffix}", *streams)
    frames, report = read_segment(path, fps=None)
    assert frames[0].picture.width == streams[expected][1]
    assert report.frames == streams[expected][0]
    assert report.error is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_default_stream_is_preferred_to_a_larger_one(tmp_path: Path, suffix: str) -> None:
    path = write_streams(tmp_path / f"video.{suffix}", (100, 640, NONE), (100, 320, DEFAULT))
    assert read_info(path).width == 320


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_stream_without_frames_is_last(tmp_path: Path, suffix: str) -> None:
    path = write_streams(tmp_path / f"video.{suffix}", (0, 640, DEFAULT), (60, 320, NONE))
    frames, report = read_segment(path, fps=None)
    assert {frame.picture.width for frame in frames} == {320}
    assert (report.frames, report.error) == (60, None)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_every_segment_reads_the_same_stream(tmp_path: Path, suffix: str) -> None:
    path = write_streams(tmp_path / f"video.{suffix}", (1, 640, NONE), (200, 160, NONE), (200, 320, NONE))
    whole, _ = read_segment(path)
    for start_s, end_s in itertools.pairwise((0.0, 2.2, 5.0, 7.0)):
        part, report = read_segment(path, start_s, end_s)
        assert have_same_frames(part, select_frames(whole, start_s, end_s))
        assert report.error is None


def test_choice_is_logged_where_there_are_several(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fer_batch")
    read_info(write_streams(tmp_path / "one.mkv", (9, 160, DEFAULT)))
    assert not caplog.messages
    path = write_streams(tmp_path / "three.mkv", (9, 160, NONE), (9, 320, NONE), (9, 160, NONE))
    read_info(path)
    assert caplog.messages == [f"{path}: reading stream 1, the other video streams are 0, 2"]
    assert caplog.records[0].levelname == "INFO"


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_file_with_many_sounds_is_read(tmp_path: Path, suffix: str) -> None:
    path = write_streams(tmp_path / f"video.{suffix}", (50, 160, DEFAULT), sounds=70)
    frames, report = read_segment(path, fps=None)
    assert (len(frames), report.error) == (50, None)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_too_many_streams_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = write_streams(tmp_path / f"video.{suffix}", (50, 160, DEFAULT), sounds=10)
    monkeypatch.setattr(container_module, "MAX_STREAMS", 8)
    monkeypatch.setitem(container_module.CONTAINER_OPTIONS, "max_streams", "9")
    with pytest.raises(DecodeError, match="streams, which is the limit"):
        read_info(path)
