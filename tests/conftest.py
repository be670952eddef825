"""Shared by all tests: the packaged sample, videos made from it, and the data sets beside the project."""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import settings

import fer_batch.sample
from tests.s3 import _servers, store  # noqa: F401

SAMPLE = Path(fer_batch.sample.__path__[0]) / "two_faces.mp4"
SHARED = Path(__file__).parent.parent.parent / "shared"

# Fixed cases keep unrelated failures out of a run; HYPOTHESIS_PROFILE=default generates more and new ones.
settings.register_profile("fixed cases", derandomize=True, max_examples=50)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed cases"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run tests that need the whole machine one after the other."""
    return 0 if config.option.markexpr in ("cluster", "faults", "chaos") else None


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample() -> Path:
    """Return the path of the sample: two faces, 10 s, 640×360, 25 frames per second, h264 in mp4."""
    return SAMPLE


@pytest.fixture(scope="session")
def sample_frames() -> list[np.ndarray]:
    """Return all 250 frames of the sample, `(360, 640, 3) uint8` RGB."""
    with av.open(str(SAMPLE)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of data sets and media, which is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with data sets and media does not exist")
    return SHARED


def write_video(
    path: Path,
    frames: Iterator[np.ndarray] | list[np.ndarray],
    fps: int = 25,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times_s: list[float] | None = None,
    **options: str,
) -> Path:
    """Encode `(H, W, 3) uint8` frames. `times_s` are their times, rounded to milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.pix_fmt = pixels
        stream.options = {"preset": "ultrafast", "crf": "20", **options} if codec == "libx264" else options
        for number, image in enumerate(frames):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
                if times_s is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[number] * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def remux(source: Path, target: Path, repeat: int = 1) -> Path:
    """Copy a video's packets into another container, `repeat` times in a row."""
    with av.open(str(target), "w") as output:
        stream = None
        offset = 0
        for _ in range(repeat):
            with av.open(str(source)) as container:
                original = container.streams.video[0]
                stream = stream or output.add_stream_from_template(original)
                end = 0
                for packet in container.demux(original):
                    if packet.dts is None:
                        continue
                    end = max(end, packet.pts + packet.duration)
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    output.mux(packet)
                offset += end
    return target


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a function that repeats the sample in one mp4 of `10 * repeat` seconds."""
    folder = tmp_path_factory.mktemp("long")

    def make(repeat: int) -> Path:
        path = folder / f"sample_{repeat}.mp4"
        return path if path.exists() else remux(SAMPLE, path, repeat)

    return make
