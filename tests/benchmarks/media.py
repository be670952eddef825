"""Create videos for the benchmarks once and keep them: re-encoded, repeated, or in many copies."""

import os
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

import fer_batch.sample

SAMPLE = Path(fer_batch.sample.__path__[0]) / "two_faces.mp4"
CLEAN = Path(__file__).parents[3] / "shared" / "media" / "clean"


def clip(name: str) -> Path:
    """Return a video of ../shared/media/clean by name, or the packaged sample if it is missing."""
    return CLEAN / name if (CLEAN / name).exists() else SAMPLE


def enlarged(
    folder: Path, source: Path, height: int, seconds: float, *, preset: str = "veryfast", bframes: int = 0
) -> Path:
    """Repeat `source`, scaled to `height` at 25 frames per second, as H.264 with CRF 23 in mp4."""
    name = f"{source.stem}_{height}p_{seconds:g}s_{preset}_b{bframes}.mp4"

    def make(target: Path) -> None:
        with av.open(str(target), "w", format="mp4") as output:
            stream: Any = None
            for number, frame in zip(range(round(25 * seconds)), _looped(source), strict=False):
                width = round(height * frame.width / frame.height / 2) * 2
                if stream is None:
                    stream = output.add_stream("libx264", rate=25)
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    stream.options = {"preset": preset, "crf": "23", "bf": str(bframes)}
                scaled = frame.reformat(width, height, "yuv420p", interpolation="LANCZOS")
                scaled.pts, scaled.time_base, scaled.pict_type = number, Fraction(1, 25), 0
                output.mux(stream.encode(scaled))
            output.mux(stream.encode())

    return kept(folder / name, make)


def repeated(folder: Path, source: Path, *, seconds: float = 0, size_bytes: int = 0) -> Path:
    """Repeat the packets of `source` until the video has this length and size."""
    name = f"{source.stem}_again_{seconds:g}s_{size_bytes}B.mp4"

    def make(target: Path) -> None:
        with av.open(str(target), "w", format="mp4") as output:
            stream: Any = None
            offset, length_s, size = 0, 0.0, 0
            while not size or length_s < seconds or size < size_bytes:
                with av.open(str(source)) as container:
                    original = container.streams.video[0]
                    stream = stream or output.add_stream_from_template(original)
                    end = 0
                    for packet in container.demux(original):
                        if packet.dts is None:
                            continue
                        end = max(end, packet.pts + (packet.duration or 0))
                        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        packet.stream = stream
                        size += packet.size
                        output.mux(packet)
                    offset += end
                    length_s = float(offset * original.time_base)

    return kept(folder / name, make)


def copies(folder: Path, source: Path, count: int) -> Path:
    """Return a folder with `count` copies of a file."""
    target = folder / f"{source.stem}_{count}_copies"
    target.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        kept(target / f"{number:04d}{source.suffix}", lambda path: shutil.copy(source, path))
    return target


def kept(path: Path, make: Callable[[Path], Any]) -> Path:
    """Return `path`, and let `make` create it if it is missing. An incomplete file never has this name."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        make(temporary)
        os.replace(temporary, path)
    return path


def _looped(source: Path) -> Iterator[av.VideoFrame]:
    while True:
        with av.open(str(source)) as container:
            yield from container.decode(video=0)
