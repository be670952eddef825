"""Pictures, such as photos, are read like videos of one frame."""

import dataclasses
import io
import warnings
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_batch.errors import DecodeError
from fer_batch.storage.media import MediaFile

PICTURE_SUFFIXES = frozenset(
    [".avif", ".bmp", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)
"""Suffixes of pictures. Pillow reads HEIC only where a plug-in for it is registered."""
PICTURE_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's formats that are read, whatever the suffix of a file is. EPS would start Ghostscript."""
PICTURE_ERRORS = (Image.DecompressionBombError, OSError, RuntimeError, SyntaxError, ValueError)
"""Errors of Pillow for a damaged file."""
MAX_PICTURE_BYTES = 500_000_000


def is_picture(name: str) -> bool:
    """Return whether the suffix of a path or address is that of a picture."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def unpack_picture(media: MediaFile, max_px: int) -> MediaFile:
    """Decode a picture and return it as an upright bitmap, which FFmpeg reads like a video of one frame.

    FFmpeg's own decoders of pictures ignore the orientation in some formats. Of several pictures in a file
    the first one counts. Raises DecodeError if it cannot be read, or has more than `max_px` pixels.
    """
    if media.size > MAX_PICTURE_BYTES:
        raise DecodeError(f"the picture has {media.size:,} bytes; the limit is {MAX_PICTURE_BYTES:,} bytes")
    picture, kind = decode_picture(media.read_head(media.size), max_px)
    bitmap = io.BytesIO()
    picture.save(bitmap, "BMP")
    return dataclasses.replace(
        media, source=bitmap, size=bitmap.tell(), picture_format=kind, is_trimmed=False
    )


def decode_picture(content: bytes, max_px: int) -> tuple[Image.Image, str]:
    """Decode the bytes of a picture; return it upright in mode "RGB", and its format, such as "jpeg".

    Raises DecodeError if it cannot be read, or has more than `max_px` pixels.
    """
    if not content:
        raise DecodeError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `max_px` is the limit
            with open_picture(content) as opened:
                kind, (width, height) = opened.format or "", opened.size
                if width * height > max_px:
                    raise DecodeError(
                        f"the picture has {width} × {height} pixels; the limit is {max_px:,} pixels in total"
                    )
                return convert_picture(opened, "RGB"), kind.lower()
    except UnidentifiedImageError:
        raise DecodeError("not a picture that Pillow can read; save it as JPEG or PNG") from None
    except PICTURE_ERRORS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DecodeError(f"not a readable picture ({reason})") from None


def open_picture(content: bytes) -> Image.Image:
    """Open a file of one of `PICTURE_FORMATS`. Raises UnidentifiedImageError for any other."""
    Image.init()  # plug-ins may have been registered
    return Image.open(io.BytesIO(content), formats=[name for name in PICTURE_FORMATS if name in Image.OPEN])


def convert_picture(picture: Image.Image, mode: str) -> Image.Image:
    """Turn a picture upright by its EXIF tag, and convert it to Pillow's mode "L" or "RGB"."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):  # Pillow would clip 16-bit values to 255
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))
    return picture.convert(mode)
