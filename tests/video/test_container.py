"""Files that are refused, with the reason."""

import re
from pathlib import Path

import av
import numpy as np
import pytest

from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.video.reader import SegmentReader, read_info
from fer_batch.video.segment import Segment
from tests.conftest import SAMPLE
from tests.video.helpers import add_silence


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"0\n", "not a video that FFmpeg can open"),
        (b"dear diary\n" * 99, "not a video that FFmpeg can open"),
        (SAMPLE.read_bytes()[:100_000], "not a video that FFmpeg can open"),
        (None, "the file does not exist"),
    ],
    ids=["empty", "digit", "text", "without index", "missing"],
)
@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.ts"])
def test_file_that_is_not_a_video_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str, name: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        read_info(path)
    reader = SegmentReader(Segment.whole(path), 5.0)
    with pytest.raises(DecodeError, match=reason):
        list(reader)
    assert re.search(reason, str(reader.report.error))
    with pytest.raises(DecodeError):
        read_info(tmp_path)


def test_index_without_pictures_is_refused(tmp_path: Path, faststart: Path) -> None:
    content = faststart.read_bytes()
    path = tmp_path / "video.mp4"
    path.write_bytes(content[: content.find(b"mdat") + 8])
    with pytest.raises(DecodeError, match="no frame can be decoded"):
        read_info(path)


def test_audio_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        add_silence(container, 0.5)()
    with pytest.raises(NoVideoError, match="no video stream"):
        read_info(path)


def test_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        write = add_silence(container, 0.5)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        write()
        picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 90, np.uint8), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode())
    with av.open(str(path)) as container:
        if not any(s.disposition & av.stream.Disposition.attached_pic for s in container.streams.video):
            pytest.skip("this PyAV writes no cover pictures")
    with pytest.raises(NoVideoError, match="no video stream"):
        read_info(path)
