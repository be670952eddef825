"""A colour for each emotion, the same in every picture, page and video."""

from collections.abc import Sequence

EMOTION_COLOURS = {
    "fear": "#661a4a",
    "sad": "#04598c",
    "angry": "#b85000",
    "disgust": "#039f74",
    "surprise": "#53b2e7",
    "neutral": "#c6c6c6",
    "happy": "#f6e948",
}
"""From dark to light: 11 apart in CIE L*, so that they stay apart in grey.

The hues are those of Okabe and Ito, "Color Universal Design" (2008), chosen for all kinds of colour vision;
the lightness is ours, as orange and sky blue are equally light there. Neutral, the most frequent, is grey.
"""

OTHER_COLOURS = ("#7ba64f", "#815935", "#d4b543", "#572c9d", "#8669e2", "#a7e5a6")
"""For classes with other names: between those in lightness, and of the hues that lie furthest from all
others in CIELAB as protanopes, deuteranopes, tritanopes and others see them (Machado, Oliveira and Fernandes,
2009)."""


def colour_of(name: str, classes: Sequence[str]) -> str:
    """The colour, as "#rrggbb", of a class of an output that has these; the thirteenth that is none of the
    seven emotions begins again.

    Raises ValueError where `classes` doesn't have the name.
    """
    if name in EMOTION_COLOURS and name in classes:
        return EMOTION_COLOURS[name]
    free = [colour for known, colour in EMOTION_COLOURS.items() if known not in (*classes, "neutral")]
    colours = (*OTHER_COLOURS, *free)
    unknown = [other for other in classes if other not in EMOTION_COLOURS]
    return colours[unknown.index(name) % len(colours)]


def ink_on(colour: str) -> str:
    """The colour, black or white, of text on "#rrggbb": whichever has more contrast by WCAG 2.2, at least
    4.5 : 1.
    """
    return "#000000" if _luminance(colour) > 0.179 else "#ffffff"  # both have 4.6 : 1 there


def _luminance(colour: str) -> float:
    """Relative luminance, 0 to 1, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
