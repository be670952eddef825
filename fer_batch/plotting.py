"""A colour for each emotion, the same in every picture, page and video."""

from collections.abc import Sequence

EMOTION_COLOURS = {
    "fear": "#4b0032",
    "sad": "#04456e",
    "angry": "#994201",
    "disgust": "#0ca176",
    "surprise": "#5ab7ec",
    "neutral": "#c9c9c9",
    "happy": "#fff251",
}
"""From dark to light: at least 10 apart in CIE L*, and 26 of 255 in BT.601's luma, which programs and
printers commonly take for grey.

The hues are those of Okabe and Ito, "Color Universal Design" (2008), chosen for all kinds of colour vision;
the lightness is ours, as orange and sky blue are equally light there. Neutral, the most frequent, is grey.
"""

OTHER_COLOURS = ("#c454aa", "#8ba914", "#42f8a3", "#44783d", "#620f1b", "#773b18")
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


def letters_of(classes: Sequence[str]) -> dict[str, str]:
    """The fewest first letters that tell each class from the others: what a colour has beside it in grey."""
    found = {}
    for name in classes:
        others = [other for other in classes if other != name]
        told = (n for n in range(1, len(name)) if not any(other.startswith(name[:n]) for other in others))
        found[name] = name[: next(told, None)].capitalize()
    return found


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
