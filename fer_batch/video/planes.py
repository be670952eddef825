"""Frames as luma and colour planes. Only the parts that an analysis needs become RGB or grey."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, ColorTrc
from PIL import Image

from fer_batch.video.changes import FrameChanges
from fer_batch.video.metadata import quarter_turns
from fer_batch.video.tone import make_tone_table

MAX_LINES = 1080
"""Height of a picture in pixels. Higher frames are scaled down, as face detection needs no more."""
PLANAR_FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p")
"""Pixel formats whose planes are used without a copy. Others are converted to yuv420p."""
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
"""Pillow's rotations by quarter turns counter-clockwise."""
BT601_WEIGHTS = (0.299, 0.114)
"""Weights of red and blue in luma (ITU-R BT.601)."""
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Weights of red and blue in luma by colour space (ITU-T H.273): BT.709, SMPTE 240M, BT.2020."""
REDUCING_GAP = 1.0
"""Factor from which Pillow first shrinks by a whole number, which is fast, and averages only the rest."""


def yuv_to_rgb_matrix(red: float, blue: float, full_range: bool) -> tuple[float, ...]:
    """Return the 3×4 matrix, row by row, from (y, u, v, 1) to red, green and blue.

    `red` and `blue` are their weights in luma. In full range, planes hold 0 to 255. In limited range, luma
    holds 16 to 235 and colour 16 to 240 (ITU-R BT.601, BT.709, BT.2020).
    """
    luma, colour, black = (1.0, 1.0, 0) if full_range else (255 / 219, 255 / 224, 16)
    green = 1 - red - blue
    factors = (
        (0.0, 2 * (1 - red)),
        (-2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green),
        (2 * (1 - blue), 0.0),
    )
    return tuple(
        number
        for u, v in factors
        for number in (luma, u * colour, v * colour, -luma * black - 128 * colour * (u + v))
    )


JPEG_TO_RGB = yuv_to_rgb_matrix(*BT601_WEIGHTS, full_range=True)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The planes of one upright frame: PIL images of mode "L" that may share the decoder's memory."""

    y: Image.Image
    """Luma."""
    u: Image.Image
    v: Image.Image
    """Colour differences, as large as `y` or smaller."""
    yuv_to_rgb: tuple[float, ...] = JPEG_TO_RGB
    """The `yuv_to_rgb_matrix` of these planes."""
    shrink: float = 1.0
    """Lines of the stored frame per line of the picture."""
    transfer: int = ColorTrc.UNSPECIFIED
    """The code of the transfer characteristics (ITU-T H.273). RGB and grey of HDR become SDR."""

    @classmethod
    def from_rgb(cls, image: np.ndarray) -> Self:
        """Return the picture of an `(H, W, 3) uint8` RGB image."""
        y, u, v = Image.fromarray(image).convert("YCbCr").split()
        return cls(y=y, u=u, v=v)

    @classmethod
    def from_decoded(
        cls, frame: av.VideoFrame, mirrored: bool, stated_transfer: int = ColorTrc.UNSPECIFIED
    ) -> Self:
        """Return the upright picture of a decoded frame, at most `MAX_LINES` high.

        `stated_transfer` is the code of the transfer characteristics of a frame that has none of its own.
        Its planes share the decoder's memory as long as the picture exists.
        """
        full_range = frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
        weights = LUMA_WEIGHTS.get(frame.colorspace, BT601_WEIGHTS)
        transfer = frame.color_trc
        if transfer == ColorTrc.UNSPECIFIED:
            transfer = stated_transfer
        turns = quarter_turns(frame)
        lines = frame.width if turns % 2 else frame.height
        shrink = max(lines / MAX_LINES, 1.0)
        is_semiplanar = frame.format.name == "nv12" and shrink == 1
        if not (frame.format.name in PLANAR_FORMATS or is_semiplanar) or shrink > 1:
            full_range, weights = False, BT601_WEIGHTS
            frame = frame.reformat(
                max(round(frame.width / shrink), 1),
                max(round(frame.height / shrink), 1),
                "yuv420p",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
                interpolation="AREA",
            )
        buffers: Any = frame.planes  # buffers, unlike in Pillow's stubs
        planes = [
            Image.frombuffer("L", (buffer.width, buffer.height), buffer, "raw", "L", buffer.line_size, 1)
            for buffer in buffers
        ]
        if is_semiplanar:
            colours = buffers[1]
            pairs = np.frombuffer(colours, np.uint8).reshape(-1, colours.line_size)
            pairs = pairs[: colours.height, : 2 * colours.width]
            planes[1:] = [Image.fromarray(np.ascontiguousarray(pairs[:, n::2])) for n in (0, 1)]
        if mirrored:
            planes = [plane.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for plane in planes]
        if turns:
            planes = [plane.transpose(TURNS[turns]) for plane in planes]
        y, u, v = planes
        matrix = yuv_to_rgb_matrix(*weights, full_range)
        return cls(y=y, u=u, v=v, yuv_to_rgb=matrix, shrink=shrink, transfer=transfer)

    @property
    def width(self) -> int:
        return self.y.width

    @property
    def height(self) -> int:
        return self.y.height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.y.size

    @property
    def nbytes(self) -> int:
        """Bytes of the planes."""
        return sum(plane.width * plane.height for plane in (self.y, self.u, self.v))

    def to_rgb(self) -> np.ndarray:
        """Return the whole picture as `(H, W, 3) uint8` RGB."""
        return self.crop_rgb((0, 0, self.width, self.height), (self.width, self.height))

    def crop_planes(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> "Picture":
        """Return the content of a box, scaled to `size` (width, height), with colours of half the size.

        `box` is xyxy in pixels, inside the picture. Odd sides are halved and rounded up.
        """
        half = (size[0] + 1) // 2, (size[1] + 1) // 2
        y, u, v = (
            resize_plane(plane, box, self.size, plane_size)
            for plane, plane_size in ((self.y, size), (self.u, half), (self.v, half))
        )
        return replace(self, y=y, u=u, v=v, shrink=self.shrink * (box[3] - box[1]) / size[1])

    def crop_rgb(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
        """Return the content of a box, scaled to `size` (width, height), as `(h, w, 3) uint8` RGB.

        `box` is xyxy in pixels, inside the picture. Each new pixel is the average of the area that it covers,
        as in MTCNN's own scaling.
        """
        return np.asarray(self.crop_image(box, size))

    def crop_image(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
        """Return the image of `crop_rgb`."""
        planes = [resize_plane(plane, box, self.size, size) for plane in (self.y, self.u, self.v)]
        return make_rgb_image(planes, self.yuv_to_rgb, self.transfer)

    def to_grey(self, region: Image.Image) -> np.ndarray:
        """Return a region of `y` as `(h, w) uint8` grey, where black is 0 and white 255 in either range."""
        luma, _, colour, offset = self.yuv_to_rgb[:4]
        return _make_grey_table(luma, offset + 128 * colour, self.transfer)[np.asarray(region)]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of a video and its time."""

    time_s: float
    """Seconds since the first frame of the video."""
    index: int = -1
    """Number of the frame since the start of its segment's core, -1 outside a core."""
    picture: Picture
    """The upright frame, at most `MAX_LINES` high."""
    changes: FrameChanges | None = None
    """Changes since the sampled frame before; None if the frame was not read from a video."""

    def __repr__(self) -> str:
        return f"<Frame at {self.time_s:.3f} s, {self.picture.width}×{self.picture.height}>"

    def to_rgb(self) -> np.ndarray:
        """Return the upright frame as `(H, W, 3) uint8` RGB, at most `MAX_LINES` high."""
        return self.picture.to_rgb()


def make_rgb_image(planes: Sequence[Image.Image], matrix: tuple[float, ...], transfer: int) -> Image.Image:
    """Return the RGB image of planes of one size, see `Picture.yuv_to_rgb` and `Picture.transfer`."""
    image = Image.merge("RGB", planes).convert("RGB", matrix)
    tone = make_tone_table(transfer)
    return image if tone is None else image.point(tone.tolist() * 3)


def resize_plane(
    plane: Image.Image,
    box: tuple[float, float, float, float],
    picture_size: tuple[int, int],
    size: tuple[int, int],
) -> Image.Image:
    """Return a box of a plane, scaled to `size`. The box is in pixels of a picture of `picture_size`."""
    x_scale, y_scale = plane.width / picture_size[0], plane.height / picture_size[1]
    plane_box = (box[0] * x_scale, box[1] * y_scale, box[2] * x_scale, box[3] * y_scale)
    return plane.resize(size, Image.Resampling.BOX, plane_box, REDUCING_GAP)


@functools.cache
def _make_grey_table(luma: float, offset: float, transfer: int) -> np.ndarray:
    grey = np.clip(np.round(np.arange(256) * luma + offset), 0, 255).astype(np.uint8)
    tone = make_tone_table(transfer)
    return grey if tone is None else tone[grey]
