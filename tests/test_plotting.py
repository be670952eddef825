"""Emotion colours are distinguishable in grey and by all kinds of colour vision; figures are saved whole."""

import io
from collections.abc import Iterable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.errors import OutputError
from fer_batch.plotting import (
    EMOTION_COLOURS,
    FIGURE_SUFFIXES,
    HATCHES,
    MAX_SIDE_PX,
    OTHER_COLOURS,
    abbreviate_classes,
    new_figure,
    pick_colour,
    pick_hatch,
    pick_text_colour,
    render_figure,
    save_figure,
    shorten_name,
)
from fer_batch.schema import EMOTIONS

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
VISION = {
    "trichromat": np.eye(3),
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Matrices on linear sRGB from Machado, Oliveira and Fernandes (2009), severity 1.0."""


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour: str, vision: str = "trichromat") -> np.ndarray:
    """Return `(3,)` CIELAB under D65."""
    seen = np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)
    ratios = XYZ @ seen / XYZ.sum(axis=1)
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luma(colour: str) -> float:
    """Return the luma of BT.601, 0 to 255."""
    return sum(w * int(colour[at : at + 2], 16) for w, at in ((0.299, 1), (0.587, 3), (0.114, 5)))


def smallest_step(values: Iterable[float]) -> float:
    return min(high - low for low, high in pairwise(sorted(values)))


def smallest_distance(colours: list[str], vision: str) -> float:
    """Return the smallest distance in CIELAB; a distance of 2 is just noticeable."""
    return min(float(np.linalg.norm(lab(a, vision) - lab(b, vision))) for a, b in combinations(colours, 2))


@pytest.mark.parametrize(("colour", "expected"), [("#000000", 0), ("#777777", 50), ("#ffffff", 100)])
def test_reference_lightness_matches_cie(colour: str, expected: float) -> None:
    assert lab(colour)[0] == pytest.approx(expected, abs=0.1)


def test_emotions_differ_in_grey() -> None:
    colours = tuple(pick_colour(name, EMOTIONS) for name in EMOTIONS)
    assert smallest_step(lab(colour)[0] for colour in colours) >= 10
    assert smallest_step(map(luma, colours)) >= 26
    assert smallest_step(lab(colour)[0] for colour in colours + OTHER_COLOURS) >= 4
    assert smallest_step(map(luma, colours + OTHER_COLOURS)) >= 11


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_every_kind_of_colour_vision(vision: str) -> None:
    assert smallest_distance(list(EMOTION_COLOURS.values()), vision) >= 15
    assert smallest_distance([*EMOTION_COLOURS.values(), *OTHER_COLOURS], vision) >= 13


def test_neutral_is_grey() -> None:
    assert np.ptp(linear(pick_colour("neutral", EMOTIONS))) == 0


@pytest.mark.parametrize(
    "classes",
    [
        ("calm",),
        ("calm", "excited", "neutral"),
        (*EMOTIONS, "contempt"),
        tuple(f"class {n}" for n in range(12)),
        ("happy", "neutral", *(f"class {n}" for n in range(11))),
    ],
)
def test_other_classes_have_distinct_colours(classes: tuple[str, ...]) -> None:
    colours = [pick_colour(name, classes) for name in classes]
    assert len(set(colours)) == len(classes)
    for name, colour in zip(classes, colours, strict=True):
        assert (name == "neutral") == (colour == EMOTION_COLOURS["neutral"])
        assert colour == EMOTION_COLOURS.get(name, colour)


def test_unknown_class_has_no_colour() -> None:
    with pytest.raises(ValueError, match="contempt"):
        pick_colour("contempt", EMOTIONS)
    with pytest.raises(ValueError, match="happy"):
        pick_colour("happy", ("calm",))


@pytest.mark.parametrize("colour", [*EMOTION_COLOURS.values(), *OTHER_COLOURS, "#000000", "#ffffff"])
def test_text_contrasts_with_its_background(colour: str) -> None:
    paper, ink = (
        0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(colour), linear(pick_text_colour(colour)))
    )
    assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("classes", "letters"),
    [
        ((), []),
        (("calm",), ["C"]),
        (EMOTIONS, ["A", "D", "F", "H", "N", "Sa", "Su"]),
        (("a", "ab", "abc"), ["A", "Ab", "Abc"]),
    ],
)
def test_abbreviations_are_unique(classes: tuple[str, ...], letters: list[str]) -> None:
    assert list(abbreviate_classes(classes).values()) == letters


def test_hatches_differ_for_ten_classes_and_then_repeat() -> None:
    classes = [f"class {n}" for n in range(11)]
    hatches = [pick_hatch(name, classes) for name in classes]
    assert len(set(hatches[:10])) == len(HATCHES)
    assert hatches[10] == hatches[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("happy", "happy"), ("abcdefghijkl", "abcd…ijkl"), ("two\nlines", "two lines"), ("", "")],
)
def test_long_names_lose_their_middle(name: str, expected: str) -> None:
    assert shorten_name(name, 9) == expected


@pytest.mark.parametrize("suffix", [*FIGURE_SUFFIXES, ".PNG"])
def test_saved_figures_are_complete_and_repeatable(suffix: str, tmp_path: Path) -> None:
    contents = []
    for number in range(2):
        figure = new_figure(3, 2)
        figure.subplots().plot([0, 1], [1, 0])
        save_figure(figure, tmp_path / f"{number}{suffix}", dpi=50)
        contents.append((tmp_path / f"{number}{suffix}").read_bytes())
    assert contents[0] == contents[1] and len(contents[0]) > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"0{suffix}", f"1{suffix}"]


def test_figure_that_cannot_be_saved_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"figure\.gif: use one of \.png, \.svg, \.pdf"):
        save_figure(new_figure(1, 1), tmp_path / "figure.gif")
    with pytest.raises(OutputError, match=r"cannot write .*figure\.png"):
        save_figure(new_figure(1, 1), tmp_path / "missing" / "figure.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*folder\.png"):
        save_figure(new_figure(1, 1), tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_large_figures_are_rendered_with_fewer_dots() -> None:
    with Image.open(io.BytesIO(render_figure(new_figure(3, 50)))) as image:
        assert max(image.size) <= MAX_SIDE_PX


def test_notebooks_display_figures() -> None:
    assert new_figure(1, 1)._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
