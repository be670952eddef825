"""What data sets hold, as files: JSON, CSV, pictures, a workbook and a page."""

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.data.explore.explore import BLANK, Faces
from fer_batch.data.explore.page import page
from fer_batch.data.explore.plots import SIDE, distribution_plot, faces_grid, shortened, spread_plot
from fer_batch.data.explore.tables import count_rows
from fer_batch.data.explore.workbook import workbook
from fer_batch.errors import OutputError
from fer_batch.storage.atomic import format_csv, write_bytes, write_json

SEED = 0
"""Of the choice of samples: the same data gives the same."""
LONGEST_STEM = 30


def write_exploration(
    out: Path,
    figures: dict[str, Any],
    faces: Faces,
    *,
    samples: bool = True,
    on_progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Write what `explore` found into the folder `out`: `explore.json`, `classes.csv`, `explore.xlsx`,
    `explore.html`, and plots of 300 dpi in colour and in black and white: `distribution.png` and
    `distribution_bw.png`, also `brightness` and `sharpness`.

    With `samples`, nine faces of each class, `samples_<class>.png`, and of each kind of odd images,
    `odd_<kind>.png`; `explore.json` has the names of these files. Those of an earlier run that are not made
    again are removed, other files stay. Raises OutputError where they can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} can't be made: {error.strerror}; name another --out") from error
    on_progress("drawing plots …")
    pictures: dict[str, bytes] = {}
    for suffix, colour in (("", True), ("_bw", False)):
        pictures[f"distribution{suffix}.png"] = distribution_plot(figures, colour=colour)
        for name in ("brightness", "sharpness"):
            pictures[f"{name}{suffix}.png"] = spread_plot(figures, name, colour=colour)
    of_class, of_kind = {}, {}
    if samples:
        of_class = dict(zip(faces.classes, file_names("samples", faces.classes), strict=True))
        of_kind = {k: f"odd_{k.replace(' ', '_')}.png" for k in figures["odd"] if k != BLANK}
        of_kind = {k: file for k, file in of_kind.items() if figures["odd"][k]["count"]}
    for number, (name, file) in enumerate(of_class.items()):
        on_progress(f"drawing samples of {shortened(name)} …")
        pictures[file] = faces_grid(choose_samples(faces, number), name)
    for kind, file in of_kind.items():
        oddest = [place["image"] for place in figures["odd"][kind]["listed"][: SIDE * SIDE]]
        pictures[file] = faces_grid(faces.images[oddest], kind)
    on_progress("writing …")
    try:
        for file in _earlier(out) - pictures.keys():
            (out / file).unlink(missing_ok=True)
        for file, png in pictures.items():
            write_bytes(out / file, png)
        write_bytes(out / "classes.csv", format_csv(*count_rows(figures)))
        write_bytes(out / "explore.xlsx", workbook(figures, pictures))
        write_bytes(out / "explore.html", page(figures, pictures, of_class, of_kind).encode())
        write_json(out / "explore.json", figures | {"pictures": {"samples": of_class, "odd": of_kind}})
    except OSError as error:
        raise OutputError(f"{out} can't be written to: {error.strerror}; name another --out") from error


def choose_samples(faces: Faces, label: int) -> np.ndarray:
    """Images, `(n, 48, 48) uint8`, of nine examples of a class, or of all if they are fewer: the last one of
    each, which in CK+48 has the strongest expression.
    """
    its = np.flatnonzero(faces.labels == label)
    random = np.random.default_rng(SEED)
    chosen = np.sort(random.choice(its, min(SIDE * SIDE, len(its)), replace=False))
    return faces.images[np.searchsorted(faces.examples, chosen + 1) - 1]


def file_names(stem: str, names: Sequence[str]) -> list[str]:
    """A file name of its own for each name, of letters and digits, such as "samples_happy.png"."""
    found: list[str] = []
    for name in names:
        file = f"{stem}_" + re.sub(r"[^\w-]+", "_", name)[:LONGEST_STEM]
        while f"{file}.png" in found:
            file += "_"
        found.append(f"{file}.png")
    return found


def _earlier(out: Path) -> set[str]:
    """The pictures of faces that an earlier run has written into the folder, by its own account."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        named = json.loads((out / "explore.json").read_text(encoding="utf-8"))["pictures"]
        files = [*named["samples"].values(), *named["odd"].values()]
        return {file for file in files if re.fullmatch(r"(samples|odd)_[\w-]+\.png", file)}
    return set()
