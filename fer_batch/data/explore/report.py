"""The files of an exploration: JSON, CSV, pictures, a workbook and an HTML page."""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import numpy as np

from fer_batch.data.explore.explore import BLANK, Exploration
from fer_batch.data.explore.faces import LabelledFaces
from fer_batch.data.explore.plots import GRID_SIDE, plot_distribution, plot_faces, plot_spread
from fer_batch.data.explore.tables import list_duplicates, list_odd, list_tables, tabulate_counts
from fer_batch.data.explore.workbook import write_workbook
from fer_batch.plotting import PRINT_DPI, shorten_name
from fer_batch.storage.atomic import encode_json, write_files

ASSETS = Path(__file__).parent
MAX_SETS, MAX_ODD_IMAGES = 20, 10
"""Sets of duplicates, and images of each odd kind, that the page lists. The workbook lists more."""
PAGE_DPI = 110
"""Resolution of pictures on the page. The text of plots is then about as large as that of the page."""
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
        for name in exploration.spreads:
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
        "explore.html": _render_page(exploration, pictures, of_class, of_kind).encode(),
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


def _render_page(
    exploration: Exploration, pictures: dict[str, bytes], samples: dict[str, str], odd: dict[str, str]
) -> str:
    """Return an HTML page that needs no network, server or script; it is printed in black and white.

    `pictures` are PNG by file name. `samples` and `odd` name the pictures of faces, by class and by kind.
    """
    style = (ASSETS / "explore.css").read_text(encoding="utf-8")
    ratio = exploration.together.imbalance_ratio["all"]
    images, classes = len(exploration.faces.pixels), len(exploration.faces.classes)
    summary = f"{images:,} image{'s' * (images != 1)} in {classes:,} class{'es' * (classes != 1)}"
    if ratio:
        summary += f"; the largest class has {ratio:,.1f} times as many examples as the smallest"
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (ASSETS / "explore.html").read_text(encoding="utf-8")
    )
    return template.render(
        style=jinja2.filters.Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        title=", ".join(dataset.name for dataset in exploration.datasets),
        summary=summary,
        tables=list_tables(exploration),
        duplicate_list=list_duplicates(exploration, MAX_SETS),
        odd_list=list_odd(exploration, MAX_ODD_IMAGES),
        pictures={name: _embed_picture(png) for name, png in pictures.items()},
        sample_pictures=samples,
        odd_pictures=odd,
    )


def _embed_picture(png: bytes) -> dict[str, str | int]:
    """Return the attributes of an image element."""
    width, height = (int.from_bytes(png[at : at + 4], "big") * PAGE_DPI // PRINT_DPI for at in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"width": width, "height": height, "src": source}


def _read_earlier_pictures(out: Path) -> set[str]:
    """Return the pictures of faces that an earlier run wrote into the folder, by its `explore.json`."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        pictures = json.loads((out / "explore.json").read_text(encoding="utf-8"))["pictures"]
        files = [*pictures["samples"].values(), *pictures["odd"].values()]
        return {file for file in files if re.fullmatch(r"(samples|odd)_[\w-]+\.png", file)}
    return set()
