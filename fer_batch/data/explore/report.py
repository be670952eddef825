"""The files of an exploration: JSON, CSV, pictures, a workbook and a page."""

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fer_batch.data.explore.explore import BLANK, Exploration
from fer_batch.data.explore.faces import LabelledFaces
from fer_batch.data.explore.page import render_page
from fer_batch.data.explore.plots import GRID_SIDE, plot_distribution, plot_faces, plot_spread
from fer_batch.data.explore.tables import tabulate_counts
from fer_batch.data.explore.workbook import write_workbook
from fer_batch.plotting import shorten_name
from fer_batch.storage.atomic import encode_json, write_files

SAMPLE_SEED = 0
MAX_STEM_CHARS = 30


def write_exploration(
    out: Path,
    exploration: Exploration,
    *,
    samples: bool = True,
    on_progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the results of `explore` into the folder `out`.

    The files are `explore.json`, `classes.csv`, `explore.xlsx`, `explore.html`, and plots of 300 dpi in
    colour and in black and white: `distribution.png` and `distribution_bw.png`, and likewise `brightness` and
    `sharpness`. With `samples`, there are also nine faces of each class, `samples_<class>.png`, and of each
    kind of odd images, `odd_<kind>.png`; `explore.json` lists these files. Such files of an earlier run are
    removed; other files stay.

    Raises OutputError if a file cannot be written.
    """
    on_progress("drawing plots …")
    pictures: dict[str, bytes] = {}
    for suffix, colour in (("", True), ("_bw", False)):
        pictures[f"distribution{suffix}.png"] = plot_distribution(exploration, colour=colour)
        for name in ("brightness", "sharpness"):
            pictures[f"{name}{suffix}.png"] = plot_spread(exploration, name, colour=colour)
    faces, of_class, of_kind = exploration.faces, {}, {}
    if samples:
        of_class = dict(zip(faces.classes, name_files("samples", faces.classes), strict=True))
        odd = {kind: images for kind, images in exploration.odd.items() if kind != BLANK and images.count}
        of_kind = {kind: f"odd_{kind.replace(' ', '_')}.png" for kind in odd}
        for kind, file in of_kind.items():
            oddest = odd[kind].listed["image"].head(GRID_SIDE**2)
            pictures[file] = plot_faces(faces.pixels[oddest], kind)
    for name, file in of_class.items():
        on_progress(f"drawing samples of {shorten_name(name)} …")
        pictures[file] = plot_faces(draw_samples(faces, name), name)
    on_progress("writing …")
    record = exploration.to_dict() | {"pictures": {"samples": of_class, "odd": of_kind}}
    files = {
        **pictures,
        "classes.csv": tabulate_counts(exploration).to_csv(index=False).encode(),
        "explore.xlsx": write_workbook(exploration, pictures),
        "explore.html": render_page(exploration, pictures, of_class, of_kind).encode(),
        "explore.json": encode_json(record),
    }
    earlier = _read_earlier_pictures(out)
    write_files(out, files)
    for file in earlier - pictures.keys():
        (out / file).unlink(missing_ok=True)


def draw_samples(faces: LabelledFaces, name: str) -> np.ndarray:
    """Return images of up to nine random examples of a class, `(n, 48, 48) uint8`, always the same.

    A sequence is shown by its last image, which in CK+48 has the strongest expression.
    """
    last = faces.table.drop_duplicates("example", keep="last")
    candidates = np.flatnonzero(last["class"] == name)
    random = np.random.default_rng(SAMPLE_SEED)
    drawn = np.sort(random.choice(candidates, min(GRID_SIDE**2, len(candidates)), replace=False))
    return faces.pixels[last.index[drawn]]


def name_files(stem: str, names: Sequence[str]) -> list[str]:
    """Return a unique file name of letters and digits for each name, such as "samples_happy.png"."""
    files: list[str] = []
    for name in names:
        file = f"{stem}_" + re.sub(r"[^\w-]+", "_", name)[:MAX_STEM_CHARS]
        while f"{file}.png" in files:
            file += "_"
        files.append(f"{file}.png")
    return files


def _read_earlier_pictures(out: Path) -> set[str]:
    """Return the pictures of faces that an earlier run wrote into the folder, by its `explore.json`."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        pictures = json.loads((out / "explore.json").read_text(encoding="utf-8"))["pictures"]
        files = [*pictures["samples"].values(), *pictures["odd"].values()]
        return {file for file in files if re.fullmatch(r"(samples|odd)_[\w-]+\.png", file)}
    return set()
