"""Image files of figures."""

import io
import warnings
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fer_batch.errors import OutputError
from fer_batch.storage.atomic import write_bytes
from fer_batch.storage.folder import check_outside_run

SUFFIXES = (".png", ".svg")
DPI = 150


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as .png (150 dpi) or .svg; the same figure gives the same bytes.

    Raises OutputError if the file cannot be written.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "fer_batch"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts that the font lacks
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(content, format=path.suffix.lower()[1:], dpi=DPI, metadata=metadata)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}") from error


def check_figure_path(path: Path, out: Path) -> None:
    """Raise OutputError for a file that is neither .png nor .svg, or lies in the run folder `out`."""
    check_outside_run(path, out)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"Cannot write {path} as an image: its name must end in .png or .svg")
