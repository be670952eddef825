"""Load images from files, PIL images, arrays and frames of videos."""

from pathlib import Path

import numpy as np
from PIL import Image

from fer_batch.config import CROP_SIZE_PX
from fer_batch.errors import InputError
from fer_batch.storage.user_files import read_bounded
from fer_batch.video.pictures import MAX_PICTURE_BYTES, PICTURE_ERRORS, convert_picture, open_picture
from fer_batch.video.planes import Frame

ImageInput = str | Path | bytes | Image.Image | np.ndarray | Frame
"""A path, the bytes of a file, a PIL image, a uint8 array of shape `(H, W)` (grey) or `(H, W, 3)` (RGB), or a
frame of `read_frames`."""


def load_image(image: ImageInput, mode: str) -> Image.Image:
    """Load an image, turn it upright by its EXIF tag, and convert it to Pillow's mode "L" or "RGB".

    Raises InputError for a file that is not a readable image, and for an array of another shape or dtype.
    """
    if isinstance(image, Frame):
        image = image.to_rgb()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise InputError(
                "Cannot use this array as an image: expected uint8 of shape (H, W) or (H, W, 3), got "
                f"{image.dtype} of shape {image.shape}; pass several images as a list"
            )
        return Image.fromarray(image).convert(mode)
    if isinstance(image, Image.Image):
        return convert_picture(image, mode)
    try:
        content = image if isinstance(image, bytes) else read_bounded(Path(image), MAX_PICTURE_BYTES)
        with open_picture(content) as opened:
            return convert_picture(opened, mode)
    except PICTURE_ERRORS as error:
        name = "the image" if isinstance(image, bytes) else image
        raise InputError(f"Cannot read {name}: {error}") from error


def scale_to_crop(image: Image.Image) -> np.ndarray:
    """Scale a grey image of one face to a `(48, 48) uint8` crop."""
    size = (CROP_SIZE_PX, CROP_SIZE_PX)
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))
