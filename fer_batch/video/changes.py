"""Changes of brightness between successive decoded frames, the evidence for cuts between sampled frames."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from PIL import Image

ROWS, COLUMNS = 36, 64
"""Points of a frame that are compared."""
TILE = 4
"""Points across, and points down, of a tile."""
MAX_FRAMES = 64
"""Decoded frames that are compared between two sampled ones; of more frames, the last ones count."""
MIN_GAIN, MAX_GAIN = 0.4, 2.5
"""Factors of brightness that pass for a change of light."""


@dataclass(frozen=True, kw_only=True)
class FrameChanges:
    """The changes of the picture since the sampled frame before."""

    steps: np.ndarray
    """`(n, rows, columns) float32`: mean change of each tile in each step from one decoded frame to the next,
    in grey levels. The last step leads to this frame."""
    points: np.ndarray
    """`(rows · TILE, columns · TILE) int16` brightness of points of the upright frame."""


class ChangeMeter:
    """Measure the changes between all decoded frames, whether they are sampled or not."""

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []

    def record_points(self, points: np.ndarray) -> None:
        """Remember the `sample_points` of the next decoded frame."""
        self._points.append(points)
        del self._points[:-MAX_FRAMES]

    def take_changes(self, turns: int, mirrored: bool) -> FrameChanges:
        """Return the changes from the last sampled frame to the last recorded one, which is sampled now.

        The frame is turned by `turns` quarters counter-clockwise for display, after it is flipped if it is
        stored `mirrored`.
        """
        points = np.stack(self._points)
        self._points = self._points[-1:]
        if mirrored:
            points = points[:, ::-1]
        if turns:
            points = np.rot90(points, turns, axes=(1, 2))
        steps = measure_changes(points[:-1], points[1:])
        rows, columns = points.shape[1] // TILE, points.shape[2] // TILE
        tiles = steps.reshape(-1, rows, TILE, columns, TILE).mean(axis=(2, 4))
        return FrameChanges(steps=tiles, points=points[-1])


def measure_changes(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the changes `(n, rows, columns) float32` from points to other points of n pictures.

    A change of light is left out: the points before are scaled and shifted to match those after, if that
    makes the mean change smaller.
    """
    old, new = before.astype(np.float32), after.astype(np.float32)
    axes = (1, 2)
    old_mean, new_mean = old.mean(axis=axes, keepdims=True), new.mean(axis=axes, keepdims=True)
    contrast = old - old_mean
    variance = (contrast * contrast).mean(axis=axes, keepdims=True)
    gain = (contrast * new).mean(axis=axes, keepdims=True) / np.maximum(variance, 1)
    relit = np.abs(new - new_mean - np.clip(gain, MIN_GAIN, MAX_GAIN) * contrast)
    plain = np.abs(new - old)
    is_relit = relit.mean(axis=axes, keepdims=True) < plain.mean(axis=axes, keepdims=True)
    return np.where(is_relit, relit, plain)


def select_region(images: np.ndarray, region: Sequence[float], scale: int = 1) -> np.ndarray:
    """Return the part of `(n, rows, columns)` images in a region.

    `region` is left, top, right and bottom, as shares of the width and height. The part has whole tiles of
    `scale` points across and down, at least one.
    """
    rows, columns = images.shape[1] // scale, images.shape[2] // scale
    left, top, right, bottom = (
        share * count for share, count in zip(region, (columns, rows) * 2, strict=True)
    )
    left, top = min(max(int(left), 0), columns - 1), min(max(int(top), 0), rows - 1)
    right, bottom = max(math.ceil(right), left + 1), max(math.ceil(bottom), top + 1)
    return images[:, top * scale : bottom * scale, left * scale : right * scale]


def sample_points(frame: av.VideoFrame) -> np.ndarray:
    """Return the brightness of `(ROWS, COLUMNS)` points as int16, 0–255; for packed formats, single bytes."""
    plane: Any = frame.planes[0]  # a buffer, unlike in PyAV's stubs
    kind, shift = _describe_samples(frame.format.name)
    values = np.frombuffer(plane, kind)
    per_line = abs(plane.line_size) // values.itemsize
    width = per_line if shift is None else frame.width
    places = _locate_points(frame.height, width, per_line)
    return (values.take(places, mode="clip") >> (shift or 0)).astype(np.int16)


def sample_plane(luma: Image.Image) -> np.ndarray:
    """Return the brightness of the points of `sample_points` in a plane of mode "L"."""
    return np.asarray(luma).take(_locate_points(luma.height, luma.width, luma.width)).astype(np.int16)


@functools.cache
def _describe_samples(name: str) -> tuple[type[Any], int | None]:
    """Return the type of a format's samples and the bits to drop; None if samples of colours alternate."""
    pixel_format = av.VideoFormat(name)
    bits = max(component.bits for component in pixel_format.components)
    if not (pixel_format.is_planar or len(pixel_format.components) == 1):
        return np.uint8, None
    is_in_high_bits = name.startswith(("p0", "p2", "p4"))
    return (np.uint8, 0) if bits <= 8 else (np.uint16, 8 if is_in_high_bits else bits - 8)


@functools.cache
def _locate_points(height: int, width: int, per_line: int) -> np.ndarray:
    """Return the places `(ROWS, COLUMNS)` of the points in a plane."""
    rows = (2 * np.arange(ROWS) + 1) * height // (2 * ROWS)
    columns = (2 * np.arange(COLUMNS) + 1) * width // (2 * COLUMNS)
    return rows[:, None] * per_line + columns
