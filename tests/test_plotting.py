"""Colours of emotions: apart in grey, and for all kinds of colour vision."""

from collections.abc import Iterable
from itertools import combinations, pairwise

import numpy as np
import pytest

from fer_batch.plotting import EMOTION_COLOURS, OTHER_COLOURS, colour_of, ink_on, letters_of
from fer_batch.schema import EMOTIONS

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SIGHT = {
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
"""Linear sRGB as seen: Machado, Oliveira and Fernandes (2009), severity 1.0."""


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: str = "trichromat") -> np.ndarray:
    """`(3,)` CIELAB, D65."""
    seen = np.clip(np.array(SIGHT[sight]) @ linear(colour), 0, 1)
    ratios = XYZ @ seen / XYZ.sum(axis=1)
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luma(colour: str) -> float:
    """0 to 255, by BT.601."""
    return sum(w * int(colour[at : at + 2], 16) for w, at in ((0.299, 1), (0.587, 3), (0.114, 5)))


def least_step(values: Iterable[float]) -> float:
    """The least difference between two."""
    return min(high - low for low, high in pairwise(sorted(values)))


def least_distance(colours: list[str], sight: str) -> float:
    """Between two, in CIELAB; 2 can just be seen."""
    return min(float(np.linalg.norm(lab(a, sight) - lab(b, sight))) for a, b in combinations(colours, 2))


@pytest.mark.parametrize(("colour", "expected"), [("#000000", 0), ("#777777", 50), ("#ffffff", 100)])
def test_lightness_is_that_of_cie(colour: str, expected: float) -> None:
    assert lab(colour)[0] == pytest.approx(expected, abs=0.1)


def test_emotions_are_apart_in_grey() -> None:
    colours = tuple(colour_of(name, EMOTIONS) for name in EMOTIONS)
    assert least_step(lab(colour)[0] for colour in colours) >= 10
    assert least_step(map(luma, colours)) >= 26
    assert least_step(lab(colour)[0] for colour in colours + OTHER_COLOURS) >= 4
    assert least_step(map(luma, colours + OTHER_COLOURS)) >= 11


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_apart_for_everybody(sight: str) -> None:
    assert least_distance(list(EMOTION_COLOURS.values()), sight) >= 15
    assert least_distance([*EMOTION_COLOURS.values(), *OTHER_COLOURS], sight) >= 13


def test_neutral_is_grey() -> None:
    assert np.ptp(linear(colour_of("neutral", EMOTIONS))) == 0


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
def test_other_classes_have_colours_of_their_own(classes: tuple[str, ...]) -> None:
    colours = [colour_of(name, classes) for name in classes]
    assert len(set(colours)) == len(classes)
    for name, colour in zip(classes, colours, strict=True):
        assert (name == "neutral") == (colour == EMOTION_COLOURS["neutral"])
        assert colour == EMOTION_COLOURS.get(name, colour)


def test_a_class_that_the_output_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="contempt"):
        colour_of("contempt", EMOTIONS)
    with pytest.raises(ValueError, match="happy"):
        colour_of("happy", ("calm",))


@pytest.mark.parametrize("colour", [*EMOTION_COLOURS.values(), *OTHER_COLOURS, "#000000", "#ffffff"])
def test_text_on_a_colour_has_contrast(colour: str) -> None:
    paper, ink = (
        0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(colour), linear(ink_on(colour)))
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
def test_letters_tell_classes_apart(classes: tuple[str, ...], letters: list[str]) -> None:
    assert list(letters_of(classes).values()) == letters
