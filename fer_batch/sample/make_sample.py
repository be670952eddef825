"""Make the sample video two_faces.mp4 from two public-domain portraits of NASA and the US Navy.

The portrait of Grace Hopper is in matplotlib's sample data, that of Eileen Collins in scikit-image's. Both
move, tilt and change size. Eileen Collins leaves the picture to the right after 4 s and returns after 6 s.
Requires the extra `dev`:

    python -m fer_batch.sample.make_sample [FILE]
"""

import math
import sys
from pathlib import Path

import av
import matplotlib
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 25, 10


def main(target: Path) -> None:
    """Write the video."""
    hopper = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    collins = Image.fromarray(skimage.data.astronaut())
    people = [_cut_out(hopper, (100, 0, 440, 420)), _cut_out(collins, (110, 0, 340, 285))]
    ramp = np.linspace(60, 130, HEIGHT)[:, None] + np.linspace(0, 25, WIDTH)[None]
    background = Image.fromarray(np.stack([ramp * 0.8, ramp * 0.9, ramp], axis=2).astype(np.uint8))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "24", "preset": "slow", "g": "50"}
        for number in range(FPS * SECONDS):
            time_s = number / FPS
            picture = background.copy()
            offset_x = 260 * _smooth_step((time_s - 3.4) / 0.8) - 260 * _smooth_step((time_s - 5.8) / 0.8)
            _paste(picture, people[0], 170, 190, time_s, 0.0, 0)
            _paste(picture, people[1], 460, 185, time_s, 2.0, offset_x)
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _cut_out(portrait: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    person = portrait.crop(box)
    person = person.resize((round(person.width * 270 / person.height), 270), Image.Resampling.LANCZOS)
    mask = Image.new("L", person.size, 0)
    ImageDraw.Draw(mask).ellipse((8, 6, person.width - 8, person.height - 6), fill=255)
    person.putalpha(mask.filter(ImageFilter.GaussianBlur(5)))
    return person


def _paste(
    picture: Image.Image,
    person: Image.Image,
    x: float,
    y: float,
    time_s: float,
    phase: float,
    offset_x: float,
) -> None:
    zoom = 1 + 0.08 * math.sin(0.7 * time_s + phase)
    tilt_deg = 5 * math.sin(0.9 * time_s + phase)
    x += 22 * math.sin(0.8 * time_s + phase) + offset_x
    y += 10 * math.cos(1.1 * time_s + phase)
    rotated = person.rotate(tilt_deg, Image.Resampling.BICUBIC)
    rotated = rotated.resize(
        (round(rotated.width * zoom), round(rotated.height * zoom)), Image.Resampling.BICUBIC
    )
    picture.paste(rotated, (round(x - rotated.width / 2), round(y - rotated.height / 2)), rotated)


def _smooth_step(share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("two_faces.mp4"))
