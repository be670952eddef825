"""Create damaged videos from the packaged sample by seeded mutation: equal seeds give equal files."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tests.conftest import SAMPLE, write_video

FRAMES = 50
"""Two seconds of the sample, at half its size."""


def bit_flips(content: bytearray, random: np.random.Generator) -> None:
    """Flip 1 to about 300 bits at random positions."""
    for place in random.integers(len(content), size=int(2 ** random.uniform(0, 8.2))):
        content[place] ^= 1 << int(random.integers(8))


def truncation(content: bytearray, random: np.random.Generator) -> None:
    """Remove the end of the file from a random position on."""
    del content[int(random.integers(len(content))) :]


def zeroed_range(content: bytearray, random: np.random.Generator) -> None:
    """Zero up to half of the file, like a copy with holes."""
    start = int(random.integers(len(content)))
    count = min(int(len(content) * random.uniform(0.001, 0.5)), len(content) - start)
    content[start : start + count] = bytes(count)


def header_noise(content: bytearray, random: np.random.Generator) -> None:
    """Replace 1 to 40 bytes of the first two thousand: sizes, rates, counts, codec parameters."""
    for place in random.integers(min(2000, len(content)), size=int(random.integers(1, 41))):
        content[place] = int(random.integers(256))


MUTATIONS: dict[str, Callable[[bytearray, np.random.Generator], None]] = {
    "bit_flips": bit_flips,
    "truncation": truncation,
    "zeroed_range": zeroed_range,
    "header_noise": header_noise,
}
CONTAINERS = ("mp4", "mkv", "webm", "avi", "ts")


def make_corpus(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` damaged files, `NUMBER_KIND.SUFFIX`, with all containers and mutations in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as elsewhere:
        originals = {path.suffix[1:]: path.read_bytes() for path in write_originals(Path(elsewhere))}
    pairs = [(container, kind) for kind in MUTATIONS for container in CONTAINERS]
    paths = []
    for number in range(count):
        container, kind = pairs[number % len(pairs)]
        content = bytearray(originals[container])
        MUTATIONS[kind](content, np.random.default_rng([seed, number]))
        path = folder / f"{number:04d}_{kind}.{container}"
        path.write_bytes(content)
        paths.append(path)
    return paths


def write_originals(folder: Path) -> list[Path]:
    """Write the undamaged films: h264 (mp4 with its index first, mkv, ts), VP8 and MPEG-4."""
    with av.open(str(SAMPLE)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:FRAMES]
    frames = [np.ascontiguousarray(frame[::2, ::2]) for frame in decoded]
    one = {"threads": "1"}  # several don't give the same bytes each time
    vp8 = {"codec": "libvpx", "deadline": "good", "cpu-used": "5"}
    ts = write_video(folder / "film.ts", frames, preset="medium", g="25", **one)
    ivf = write_video(folder / "film.ivf", frames, g="25", **vp8, **one)
    mp4 = _copied(ts, folder / "film.mp4", movflags="faststart")
    return [
        ts,
        mp4,
        _copied(mp4, folder / "film.mkv"),
        _copied(ivf, folder / "film.webm"),
        write_video(folder / "film.avi", frames, codec="mpeg4", g="25", **one),
    ]


def _copied(source: Path, target: Path, **options: str) -> Path:
    """Copy the packets to another container, reproducibly: Matroska would draw random ids."""
    options |= {"fflags": "bitexact"}
    with av.open(str(target), "w", options=options) as output, av.open(str(source)) as container:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return target
