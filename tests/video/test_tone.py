"""HDR pictures: they look like the SDR pictures of the same scene."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, ColorTrc

from fer_batch.video.random_access import read_frames
from fer_batch.video.tone import KNEE, REFERENCE_WHITE, SDR_GAMMA, make_tone_table

HDR = [ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67]


def encode_pq(luminance: np.ndarray) -> np.ndarray:
    """Return the PQ signal 0–1 of a luminance in cd/m² (SMPTE ST 2084)."""
    power = (luminance / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def encode_hlg(luminance: np.ndarray) -> np.ndarray:
    """Return the HLG signal 0–1 of a luminance up to 1000 cd/m² (ITU-R BT.2100)."""
    scene = (luminance / 1000) ** (1 / 1.2)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


ENCODERS = {ColorTrc.SMPTE2084: encode_pq, ColorTrc.ARIB_STD_B67: encode_hlg}


def write_transfer(path: Path, signals: list[np.ndarray], transfer: int, full_range: bool) -> None:
    """Write 10-bit HEVC of `(H, W) float` grey signals 0–1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=5)
        stream.height, stream.width = signals[0].shape
        stream.pix_fmt = "yuv420p10le"
        stream.options = {"crf": "4", "x265-params": "log-level=none"}
        context = stream.codec_context
        context.color_trc = transfer
        context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        for signal in signals:
            frame = av.VideoFrame(stream.width, stream.height, "yuv420p10le")
            frame.color_trc, frame.color_range = transfer, context.color_range
            values = 1023 * signal if full_range else 64 + 876 * signal
            for plane, content in zip(frame.planes, (values, 512, 512), strict=True):
                rows = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
                rows[:, : plane.width] = np.round(content)
                plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("transfer", HDR)
def test_table_keeps_midtones_and_compresses_highlights(transfer: ColorTrc) -> None:
    table = make_tone_table(transfer)
    assert table is not None
    assert (table[0], table[255]) == (0, 255)
    assert (np.diff(table.astype(int)) >= 0).all()
    sdr = np.linspace(0.05, KNEE, 30)
    codes = np.round(255 * ENCODERS[transfer](REFERENCE_WHITE * sdr**SDR_GAMMA)).astype(int)
    assert np.abs(table[codes] - 255 * sdr).max() <= 4
    white = table[round(255 * float(ENCODERS[transfer](np.array(REFERENCE_WHITE))))]
    assert 255 * KNEE < white < 245


@pytest.mark.parametrize("transfer", [0, 1, 2, 4, 6, 8, 13, 14, 15])
def test_sdr_has_no_table(transfer: int) -> None:
    assert make_tone_table(transfer) is None


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("transfer", [ColorTrc.BT709, *HDR])
def test_decoded_frames_look_like_sdr(
    tmp_path: Path, sample_frames: list[np.ndarray], transfer: ColorTrc, full_range: bool
) -> None:
    scenes = [frame[::2, ::2].mean(axis=2) / 255 * KNEE for frame in sample_frames[:3]]
    encode = ENCODERS.get(transfer)
    signals = [encode(REFERENCE_WHITE * scene**SDR_GAMMA) if encode else scene for scene in scenes]
    path = tmp_path / "video.mkv"
    write_transfer(path, signals, transfer, full_range)
    for frame, scene in zip(read_frames(path, [0.0, 0.2, 0.4]), scenes, strict=True):
        grey = frame.picture.to_grey(frame.picture.y)
        assert np.abs(grey - 255 * scene).mean() < 2
        assert np.abs(frame.to_rgb().mean(axis=2) - 255 * scene).mean() < 2


def test_transfer_of_the_container_counts_if_the_stream_has_none(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "plain.mov"), "w") as container:
        stream = container.add_stream("prores_ks", rate=5)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv422p10le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((90, 160, 3), 99, np.uint8))))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "plain.mov")) as source, av.open(str(tmp_path / "pq.mov"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, ColorTrc.SMPTE2084, 9
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (plain,), (pq,) = (read_frames(tmp_path / name, [0.0]) for name in ("plain.mov", "pq.mov"))
    table = make_tone_table(ColorTrc.SMPTE2084)
    assert table is not None
    assert np.array_equal(pq.to_rgb(), table[plain.to_rgb()])
