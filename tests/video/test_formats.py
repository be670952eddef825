"""Containers of recorders and broadcasters, and the table of supported formats."""

import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.format import ContainerFormat

from fer_batch.errors import DecodeError
from fer_batch.video.formats import FORMATS, SUFFIXES_BY_FORMAT
from fer_batch.video.reader import read_info
from tests.conftest import write_video
from tests.video.helpers import have_same_frames, read_segment, select_frames

FRAMES = 100


def write_with_pyav(path: Path, frames: list[np.ndarray]) -> None:
    codecs = {".gxf": "mpeg2video", ".mod": "mpeg2video"}
    names = {".mod": "vob", ".m2t": "mpegts", ".lrv": "mp4"}
    with av.open(str(path), "w", format=names.get(path.suffix)) as container:
        stream = container.add_stream(codecs.get(path.suffix, "libx264"), rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        stream.codec_context.gop_size = 12
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(720, 576, "yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_dhav(path: Path, frames: list[np.ndarray]) -> None:
    """Write the format of Dahua's recorders: chunks with a header, H.264, and a trailer."""
    source = write_video(path.with_suffix(".h264"), frames, g="12", bf="0")
    with av.open(str(source)) as container, path.open("wb") as file:
        for number, packet in enumerate(container.demux(video=0)):
            if not packet.size:
                continue
            data = bytes(packet)
            extra = struct.pack("<BBBB", 0x81, 0, 0x2, 25)
            extra += struct.pack("<BBBBHH", 0x82, 0, 0, 0, frames[0].shape[1], frames[0].shape[0])
            kind = 0xFD if packet.is_keyframe else 0xFC
            length = 24 + len(extra) + len(data) + 8
            date = 24 << 26 | 5 << 22 | 6 << 17 | 12 << 12 | number // 25
            head = struct.pack("<4sBBBBII", b"DHAV", kind, 0, 0, 0, number, length)
            head += struct.pack("<IHBB", date, number * 40 % 65536, len(extra), 0)
            file.write(head + extra + data + struct.pack("<4sI", b"dhav", length))


RECORDINGS: dict[str, Callable[[Path, list[np.ndarray]], None]] = {
    "tv.wtv": write_with_pyav,
    "tv.gxf": write_with_pyav,
    "camera.dav": write_dhav,
    "camera.nut": write_with_pyav,
    "tape.mod": write_with_pyav,
    "tape.m2t": write_with_pyav,
    "action.lrv": write_with_pyav,
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_are_read_whole_and_in_segments(
    tmp_path: Path, small_frames: list[np.ndarray], name: str
) -> None:
    path = tmp_path / name
    RECORDINGS[name](path, small_frames[:FRAMES])
    with av.open(str(path)) as container:
        decoded = sum(1 for _ in container.decode(video=0))
    whole, report = read_segment(path)
    assert (report.frames, report.error) == (decoded, None)
    assert decoded == FRAMES
    for start_s, end_s in itertools.pairwise((0.0, 1.4, 2.6, math.inf)):
        part, report = read_segment(path, start_s, end_s)
        assert have_same_frames(part, select_frames(whole, start_s, end_s))
        assert report.error is None


def test_every_format_of_the_table_exists() -> None:
    for name in FORMATS:
        assert name in ContainerFormat(name, "r").name.split(",")


def test_no_format_leads_to_other_files() -> None:
    outside = {"hls", "dash", "concat", "concatf", "sdp", "rtsp", "image2", "imf", "mlv"}
    assert not outside & set(FORMATS)
    pipes = {name for name in FORMATS if name.endswith("_pipe")}
    assert pipes == {"bmp_pipe"}  # reads the bitmap of a picture that was unpacked in memory


def test_suffixes_are_named_once() -> None:
    names = [name for suffixes in SUFFIXES_BY_FORMAT.values() for name in suffixes.split()]
    assert len(names) == len(set(names))


def test_unsupported_format_is_named_with_the_supported_ones(
    tmp_path: Path, small_frames: list[np.ndarray]
) -> None:
    path = write_video(tmp_path / "game.swf", small_frames[:20], codec="flv")
    with pytest.raises(DecodeError, match=r"the format swf is not a supported .*matroska, .*wtv"):
        read_info(path)
