"""Make the sample video two_faces.mp4 from two public-domain portraits of NASA and the US Navy.

The portrait of Grace Hopper is in matplotlib's sample data, that of Eileen Collins in scikit-image's. Both
move, tilt and change size. Eileen Collins leaves the picture to the right after 4 s and returns after 6 s.
Grace Hopper looks sad from 4 to 7 s: her portrait is warped around the mouth and the eyes. Requires the
extra `dev`:

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
from scipy.ndimage import map_coordinates

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 25, 10
SAD_SHIFTS = (
    (86, 180, 1, 8, 10, 9),  # corners of the mouth
    (135, 176, -1, 8, 10, 9),
    (111, 181, 0, -5, 12, 7),  # lower lip
    (79, 162, 0, -5, 14, 12),  # cheeks
    (142, 159, 0, -5, 14, 12),
    (76, 130, 0, 2, 12, 4),  # lower eyelids
    (132, 126, 0, 2, 12, 4),
    (72, 110, 0, 3, 14, 6),  # outer and inner ends of the brows
    (136, 106, 0, 3, 14, 6),
    (95, 113, 0, -3, 8, 8),
    (116, 112, 0, -3, 8, 8),
)
"""Displacements in the cut-out of Grace Hopper: x and y of centre, shift and standard deviation in pixels."""
SAD_START_S, SAD_END_S, FADE_S = 3.8, 6.8, 0.5


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
            sadness = _smooth_step((time_s - SAD_START_S) / FADE_S)
            sadness -= _smooth_step((time_s - SAD_END_S) / FADE_S)
            _paste(picture, _warp(people[0], SAD_SHIFTS, sadness), 170, 190, time_s, 0.0, 0)
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


def _warp(
    person: Image.Image, shifts: tuple[tuple[float, float, float, float, float, float], ...], share: float
) -> Image.Image:
    """Move the content of a picture by this share of the sum of Gaussian displacements."""
    if share == 0:
        return person
    pixels = np.asarray(person, np.float64)
    rows, columns = np.indices(pixels.shape[:2], np.float64)
    row_shift, column_shift = np.zeros_like(rows), np.zeros_like(columns)
    for x, y, shift_x, shift_y, sigma_x, sigma_y in shifts:
        weight = share * np.exp(-(((columns - x) / sigma_x) ** 2 + ((rows - y) / sigma_y) ** 2) / 2)
        column_shift += shift_x * weight
        row_shift += shift_y * weight
    sources = [rows - row_shift, columns - column_shift]
    warped = [map_coordinates(pixels[..., band], sources, mode="nearest") for band in range(pixels.shape[2])]
    return Image.fromarray(np.stack(warped, axis=2).clip(0, 255).round().astype(np.uint8), person.mode)


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
