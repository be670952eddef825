"""Images of any format are decoded to grey 48×48 pixels."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.data.images import read_image

RAMP = np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1))


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate it clockwise by 90°
    return encode(Image.fromarray(np.rot90(RAMP).copy()), exif=exif)


@pytest.mark.parametrize("content", [b"", b"not an image", encode(Image.fromarray(RAMP))[:60]])
def test_broken_images_are_none(content: bytes) -> None:
    assert read_image(content) is None


@pytest.mark.timeout(10)
def test_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png") is None


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (encode(Image.fromarray(RAMP)), 0),
        (encode(Image.fromarray(RAMP).convert("RGB")), 0),
        (encode(Image.fromarray(RAMP).convert("RGBA")), 0),
        (encode(Image.fromarray(RAMP).convert("P")), 1),
        (encode(Image.fromarray(RAMP).convert("RGB"), "JPEG", quality=95), 4),
        (encode(Image.fromarray(RAMP.astype(np.uint16) * 257)), 0),
        (encode(Image.fromarray(RAMP).resize((96, 144), Image.Resampling.BICUBIC)), 6),
        (encode(Image.fromarray(RAMP), "WEBP", lossless=True), 0),
        (encode_rotated(), 0),
    ],
    ids=["grey", "colour", "alpha", "palette", "jpeg", "16 bits", "other size", "webp", "rotated"],
)
def test_images_are_decoded_to_grey_48_by_48(content: bytes, tolerance: int) -> None:
    image = read_image(content)
    assert image is not None
    assert image.shape == (48, 48)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - RAMP).max() <= tolerance
