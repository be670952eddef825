"""Files that stay open for their next segment."""

import math
from pathlib import Path

import av
import pytest

from fer_batch.video import source
from fer_batch.video.reader import SegmentReader
from tests.video.helpers import have_same_frames, have_same_pictures, make_segment, read_segment


@pytest.mark.parametrize("max_bytes", [0, source.MAX_REMEMBERED_BYTES], ids=["by seeking", "from memory"])
def test_segments_of_a_video_share_one_open_file(
    monkeypatch: pytest.MonkeyPatch, videos: dict[str, Path], max_bytes: int
) -> None:
    monkeypatch.setattr(source, "MAX_REMEMBERED_BYTES", max_bytes)
    opened = []
    av_open = av.open
    parts = [(0.0, 2.2), (1.0, 3.2), (2.0, 4.2), (3.0, math.inf)]
    segments = [make_segment(videos["plain.mp4"], *part) for part in parts]
    alone = [read_segment(videos["plain.mp4"], *part) for part in parts]
    source._last_source.clear()
    monkeypatch.setattr(av, "open", lambda *given, **more: opened.append(given) or av_open(*given, **more))
    for segment, (frames, report) in zip(segments, alone, strict=True):
        reader = SegmentReader(segment, 5.0)
        info = reader.open()
        assert have_same_frames(list(reader), frames)
        assert reader.report == report
        assert (info.fps, info.width, info.height) == (25.0, 160, 90)
    assert len(opened) == 1
    assert not source._last_source


def test_replaced_file_is_opened_again(tmp_path: Path, videos: dict[str, Path]) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(videos["plain.mp4"].read_bytes())
    read_segment(path, 0.0, 2.0)
    path.unlink()
    path.write_bytes(videos["hevc.mp4"].read_bytes())
    frames, _ = read_segment(path, 1.0, 2.0)
    assert have_same_pictures(frames, read_segment(videos["hevc.mp4"], 1.0, 2.0)[0])
