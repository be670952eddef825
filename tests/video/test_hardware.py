"""Hardware decoding falls back to software, and its frames become the same pictures."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.video.hardware import has_hardware_decoder, make_hardware_decoder
from fer_batch.video.planes import Picture
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.vision import faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import extract_faces

ABSENT_GPU = 999


def test_no_gpu_is_no_decoder() -> None:
    assert make_hardware_decoder(None) is None


def test_absent_gpu_is_one_warning_and_software_decodes(
    sample: Path, caplog: pytest.LogCaptureFixture
) -> None:
    has_hardware_decoder.cache_clear()
    segment = Segment.whole(sample).end_at(2.0)
    with caplog.at_level(logging.WARNING, "fer_batch.video.hardware"):
        for _ in range(2):
            reader = SegmentReader(segment, 5.0, gpu=ABSENT_GPU)
            ours = [(frame.time_s, frame.to_rgb()) for frame in reader]
    assert reader.report.error is None
    theirs = [(frame.time_s, frame.to_rgb()) for frame in SegmentReader(segment, 5.0)]
    assert [time_s for time_s, _ in ours] == [time_s for time_s, _ in theirs]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "videos are decoded in software, as GPU 999 cannot be used"
    ]


@pytest.mark.parametrize(("width", "height"), [(640, 360), (321, 181), (66, 34)])
def test_frames_of_a_gpu_become_the_same_pictures(sample: Path, width: int, height: int) -> None:
    """GPUs return NV12: the planes of YUV 4:2:0, in which both colours alternate."""
    with av.open(str(sample)) as container:
        frame = next(container.decode(video=0)).reformat(width, height, "yuv420p")
    ours, theirs = (
        Picture.from_decoded(each, mirrored=False) for each in (frame.reformat(format="nv12"), frame)
    )
    for name in ("y", "u", "v"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.yuv_to_rgb == theirs.yuv_to_rgb


def test_damaged_segment_is_read_again_in_software(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.mp4").write_bytes(sample.read_bytes()[:5000])
    decoders = []

    class Reader(SegmentReader):
        def __init__(self, *arguments: object, gpu: int | None, **options: object) -> None:
            decoders.append(gpu)
            super().__init__(*arguments, gpu=gpu, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(faces, "SegmentReader", Reader)
    config = AnalyzeConfig(min_face=0.5)
    for path, expected in ((tmp_path / "cut.mp4", [ABSENT_GPU, None]), (sample, [ABSENT_GPU])):
        decoders.clear()
        segment = Segment.whole(path).end_at(1.0)
        found = extract_faces(segment, config, FaceDetector(0.5), 1.0, gpu=ABSENT_GPU)
        assert decoders == expected
        assert found.status == ("failed" if len(expected) == 2 else "ok")
