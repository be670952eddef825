"""Drawing on the planes of a frame."""

import numpy as np
import pytest
from PIL import Image

from fer_batch.video.canvas import Box, Canvas, render_text
from fer_batch.video.planes import JPEG_TO_RGB, yuv_to_rgb_matrix

BT709 = (0.2126, 0.0722)


def make_canvas(width: int = 40, height: int = 20, full: bool = True) -> Canvas:
    y = np.full((height, width), 100, np.uint8)
    u, v = (np.full((height // 2, width // 2), 128, np.uint8) for _ in range(2))
    return Canvas(planes=(y, u, v), yuv_to_rgb=yuv_to_rgb_matrix(*BT709, full))


def find_changes(canvas: Canvas) -> Box | None:
    """Return the box of changed luma, None if there is none."""
    lines, columns = np.nonzero(canvas.planes[0] != 100)
    return (columns.min(), lines.min(), columns.max() + 1, lines.max() + 1) if len(lines) else None


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((4, 4, 4, 8), None),
        ((8, 4, 4, 8), None),
        ((-9, -9, -1, -1), None),
        ((50, 2, 60, 4), None),
        ((2, 4, 8, 6), (2, 4, 8, 6)),
        ((-4, -4, 4, 4), (0, 0, 4, 4)),
        ((36, 16, 99, 99), (36, 16, 40, 20)),
    ],
)
def test_box_is_filled_inside_the_frame(box: Box, expected: Box | None) -> None:
    canvas = make_canvas()
    canvas.fill(box, "#ffffff")
    assert find_changes(canvas) == expected


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#994201", "#04456e"])
def test_colour_is_converted_to_the_colour_space(colour: str, full: bool) -> None:
    canvas = make_canvas(full=full)
    canvas.fill((0, 0, 40, 20), colour)
    yuv1 = [*(int(plane[0, 0]) for plane in canvas.planes), 1]
    rgb = np.array(yuv_to_rgb_matrix(*BT709, full)).reshape(3, 4) @ yuv1
    assert rgb == pytest.approx([int(colour[at : at + 2], 16) for at in (1, 3, 5)], abs=2)


def test_half_opacity_mixes_colours() -> None:
    canvas = make_canvas()
    canvas.fill((0, 0, 4, 4), "#ffffff", 0.5)
    assert canvas.planes[0][0, 0] == 178  # (100 + 255) / 2


def test_outline_does_not_change_the_inside() -> None:
    canvas = make_canvas()
    canvas.outline((4, 4, 24, 16), "#ffffff", 2)
    assert find_changes(canvas) == (4, 4, 24, 16)
    assert (canvas.planes[0][6:14, 6:22] == 100).all()
    assert (canvas.planes[0][4:16, 4:6] == 255).all()


@pytest.mark.parametrize(("x", "y"), [(2, 2), (-5, 2), (30, 12), (100, 2)])
def test_text_is_clipped_to_the_frame(x: int, y: int) -> None:
    canvas = make_canvas()
    canvas.write_text("Zoë", x, y, 12, "#000000")
    whole = np.full((120, 220), 100.0)
    mask = render_text("Zoë", 12)
    whole[50 + y : 50 + y + mask.shape[0], 50 + x : 50 + x + mask.shape[1]] *= 1 - mask
    assert np.abs(canvas.planes[0] - whole[50:70, 50:90]).max() <= 1


def test_pixelated_box_has_few_values() -> None:
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((90, 160), (45, 80), (45, 80))]
    before = [plane.copy() for plane in planes]
    canvas = Canvas(planes=(planes[0], planes[1], planes[2]), yuv_to_rgb=JPEG_TO_RGB)
    canvas.pixelate((20, 10, 80, 70), 6)
    inside = planes[0][10:70, 20:80]
    assert len(np.unique(inside)) <= 36
    means = before[0][10:70, 20:80].reshape(6, 10, 6, 10).mean((1, 3))
    assert np.abs(inside[::10, ::10] - means).max() <= 0.5
    assert len(np.unique(planes[1][5:35, 10:40])) <= 36
    for plane, old, half in zip(planes, before, (1, 2, 2), strict=True):
        plane[10 // half : 70 // half, 20 // half : 80 // half] = 0
        old[10 // half : 70 // half, 20 // half : 80 // half] = 0
        assert np.array_equal(plane, old)


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (38, 18, 60, 60), (3, 3, 4, 4), (-50, -50, -1, -1)])
def test_small_or_outside_box_is_pixelated(box: Box) -> None:
    canvas = make_canvas()
    canvas.pixelate(box, 6)
    assert find_changes(canvas) is None  # it had one colour before


def test_letters_are_rendered() -> None:
    assert render_text("", 12).max() == 0
    assert render_text("H", 20).max() > 0.9
    assert not np.array_equal(render_text("Ж", 20), render_text("\U00012345", 20))
    assert Image.fromarray((render_text("happy", 20) * 255).astype(np.uint8)).size[0] > 40
