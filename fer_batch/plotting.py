"""Emotion colours, and the parts that all plots share: figures, hatches, and saving to files.

matplotlib is imported inside the functions that need it, so that importing this module is cheap.
"""

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fer_batch.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMOTION_COLOURS = {
    "fear": "#4b0032",
    "sad": "#04456e",
    "angry": "#994201",
    "disgust": "#0ca176",
    "surprise": "#5ab7ec",
    "neutral": "#c9c9c9",
    "happy": "#fff251",
}
"""Colours from dark to light. They differ by at least 10 in CIE L*, and by 26 of 255 in the luma of BT.601,
which most programs and printers use as grey.

The hues are those of Okabe and Ito, "Color Universal Design" (2008), which suit all kinds of colour vision.
The lightness differs from theirs, because their orange and sky blue are equally light. Neutral is grey.
"""

OTHER_COLOURS = ("#c454aa", "#8ba914", "#42f8a3", "#44783d", "#620f1b", "#773b18")
"""Colours for classes with other names. Their lightness lies between those above. Their hues are the furthest
from all others in CIELAB for every kind of colour vision (Machado, Oliveira and Fernandes, 2009)."""

HATCHES = ("///", "", "...", "xx", "\\\\\\", "--", "++", "oo", "||", "**")
"""Fill patterns for plots in black and white. The eleventh class repeats the first."""

INK, GREY, BLUE, RED, GREEN = "#222222", "#8a8a8a", "#3b6fb6", "#d1495b", "#3f8f5f"
"""Colours of text and of series that are not emotions."""

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
PRINT_DPI = 300
SCREEN_DPI = 150
MAX_SIDE_PX = 7500
"""Longest side of a PNG. A larger figure is rendered with fewer dots per inch."""
MAX_NAME_CHARS = 34


def pick_colour(name: str, classes: Sequence[str]) -> str:
    """Return the colour, as "#rrggbb", of the class `name` of a model with these `classes`.

    The seven emotions have fixed colours. The colours of other classes repeat after the twelfth.

    Raises ValueError if `classes` does not contain the name.
    """
    if name in EMOTION_COLOURS and name in classes:
        return EMOTION_COLOURS[name]
    unused = [colour for emotion, colour in EMOTION_COLOURS.items() if emotion not in (*classes, "neutral")]
    colours = (*OTHER_COLOURS, *unused)
    others = [other for other in classes if other not in EMOTION_COLOURS]
    return colours[others.index(name) % len(colours)]


def pick_text_colour(background: str) -> str:
    """Return black or white, whichever contrasts more with the `background` "#rrggbb".

    The contrast ratio is at least 4.5 : 1 by WCAG 2.2.
    """
    return "#000000" if _relative_luminance(background) > 0.179 else "#ffffff"  # both have 4.6 : 1 there


def pick_hatch(name: str, classes: Sequence[str]) -> str:
    """Return the fill pattern of the class `name` in plots in black and white."""
    return HATCHES[list(classes).index(name) % len(HATCHES)]


def abbreviate_classes(classes: Sequence[str]) -> dict[str, str]:
    """Return for each class the fewest first letters that no other class begins with.

    Plots write them on colours, so that classes stay distinguishable in grey.
    """
    letters = {}
    for name in classes:
        others = [other for other in classes if other != name]
        lengths = (n for n in range(1, len(name)) if not any(other.startswith(name[:n]) for other in others))
        letters[name] = name[: next(lengths, None)].capitalize()
    return letters


def shorten_name(name: str, max_chars: int = MAX_NAME_CHARS) -> str:
    """Return a name in one line of at most `max_chars` characters, with "…" in place of its middle."""
    name = "".join(char if char.isprintable() else " " for char in name)
    if len(name) <= max_chars:
        return name
    return f"{name[: max_chars - max_chars // 2 - 1]}…{name[len(name) - max_chars // 2 :]}"


def new_figure(width_in: float, height_in: float, *, layout: str | None = "constrained") -> "Figure":
    """Create a matplotlib figure outside pyplot's global state.

    Notebooks display it as a picture, also without pyplot or `%matplotlib inline`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout=layout)  # type: ignore[arg-type]
    figure._repr_png_ = functools.partial(render_figure, figure, dpi=SCREEN_DPI)  # type: ignore[attr-defined]
    return figure


def hide_frame(axes: "Axes") -> None:
    """Hide the upper and the right edge of the axes."""
    axes.spines[["top", "right"]].set_visible(False)


def render_figure(figure: "Figure", suffix: str = ".png", dpi: int = PRINT_DPI) -> bytes:
    """Return the content of an image file of the figure. The same figure gives the same bytes.

    `suffix` is one of `FIGURE_SUFFIXES`. `dpi` applies to PNG files.
    """
    import matplotlib

    content = io.BytesIO()
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "fer_batch"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts
        figure.savefig(
            content,
            format=suffix.removeprefix("."),
            dpi=min(dpi, int(MAX_SIDE_PX / max(figure.get_size_inches()))),
            metadata=metadata,
        )
    return content.getvalue()


def save_figure(figure: "Figure", path: Path, dpi: int = PRINT_DPI) -> None:
    """Write the figure to `path` atomically, in the format of its suffix.

    Raises OutputError if the suffix is not one of `FIGURE_SUFFIXES` or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FIGURE_SUFFIXES:
        raise OutputError(f"cannot save a figure as {path}: use one of {', '.join(FIGURE_SUFFIXES)}")
    content = render_figure(figure, suffix, dpi)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _relative_luminance(colour: str) -> float:
    """Return the relative luminance, 0 to 1, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
