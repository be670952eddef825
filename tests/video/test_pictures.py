"""Pictures as videos of one frame."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from fer_batch.errors import DecodeError, InputError
from fer_batch.video.reader import read_info
from fer_batch.vision.images import load_image
from tests.video.helpers import read_segment

FORMATS: dict[str, dict[str, Any]] = {
    "avif": {"quality": 100}, "bmp": {}, "jpeg": {"quality": 100}, "jpg": {"progressive": True}, "png": {},
    "tif": {"compression": "tiff_lzw"}, "tiff": {}, "webp": {"lossless": True},
}  # fmt: skip


def gradient(width: int, height: int) -> np.ndarray:
    """Return an `(H, W, 3) uint8` image that is bright at the upper left."""
    rows, columns = np.linspace(120, 0, height), np.linspace(120, 0, width)
    return np.repeat((rows[:, None] + columns)[:, :, None], 3, axis=2).astype(np.uint8)


def read_picture(path: Path) -> np.ndarray:
    (frame,), report = read_segment(path)
    assert report.error is None
    assert frame.time_s == 0
    return frame.to_rgb().astype(int)


@pytest.mark.parametrize("suffix", FORMATS)
def test_picture_is_one_frame(tmp_path: Path, suffix: str) -> None:
    image = gradient(64, 48)
    path = tmp_path / f"photo.{suffix.upper()}"
    Image.fromarray(image).save(path, format=Image.registered_extensions()[f".{suffix}"], **FORMATS[suffix])
    assert np.abs(read_picture(path) - image).mean() < 4
    info = read_info(path)
    assert (info.width, info.height, info.rotation, info.duration_s) == (64, 48, 0, 0.04)
    assert info.codec == info.container == {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_turns_a_picture_upright(tmp_path: Path, suffix: str) -> None:
    image, exif = gradient(64, 48), Image.Exif()
    exif[0x112] = 6  # the stored picture is turned by 90° counter-clockwise
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.rot90(image)).save(path, exif=exif)
    assert np.abs(read_picture(path) - image).mean() < 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_all_kinds_of_pixels_are_read(tmp_path: Path, mode: str) -> None:
    image = gradient(64, 48)
    if mode == "I;16":
        stored = Image.fromarray(image[:, :, 0].astype(np.uint16) * 257)
    else:
        stored = Image.fromarray(image).convert(mode)
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    stored.save(path)
    assert np.abs(read_picture(path).mean() - image.mean()) < (12 if mode == "1" else 4)


def test_first_picture_of_several_counts(tmp_path: Path) -> None:
    images = [Image.fromarray(gradient(64, 48) // part) for part in (1, 8)]
    images[0].save(tmp_path / "pages.tiff", save_all=True, append_images=images[1:])
    assert np.abs(read_picture(tmp_path / "pages.tiff") - gradient(64, 48)).mean() < 4


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("photo.jpg", lambda content: b"", "the file is empty"),
        ("photo.jpg", lambda content: b"text", "not a picture that Pillow can read; save it as JPEG or PNG"),
        (
            "photo.heic",
            lambda content: b"\0\0\0\x18ftypheic" + bytes(40),
            "not a picture that Pillow can read",
        ),
        ("photo.jpg", cut_in_half, r"not a readable picture \(image file is truncated"),
        ("photo.png", cut_in_half, r"not a readable picture \("),
    ],
)
def test_unreadable_picture_gives_the_reason(tmp_path: Path, name: str, change: Any, reason: str) -> None:
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    Image.fromarray(noise).save(content, "PNG" if name.endswith("png") else "JPEG")
    (tmp_path / name).write_bytes(change(content.getvalue()))
    with pytest.raises(DecodeError, match=reason):
        read_info(tmp_path / name)


def test_no_picture_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow starts Ghostscript for a file in PostScript."""
    started = tmp_path / "started"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(DecodeError, match="not a picture that Pillow can read"):
        read_info(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match="Cannot read the image"):
        load_image(content, "L")
    assert not started.exists()


def test_error_of_a_decoder_is_the_reason(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(gradient(64, 48)).save(content, "AVIF")
    stored = content.getvalue()
    header = stored[: stored.index(b"mdat") + 4]
    (tmp_path / "photo.avif").write_bytes(header.ljust(len(stored), b"\0"))
    with pytest.raises(DecodeError, match=r"not a readable picture \(Failed to decode"):
        read_info(tmp_path / "photo.avif")


def test_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (16_000, 9_000)).save(tmp_path / "huge.png")
    with pytest.raises(DecodeError, match="the picture has 16000 × 9000 pixels; the limit is 67,108,864"):
        read_info(tmp_path / "huge.png")
