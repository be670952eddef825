"""The statistics of data sets as one HTML page that needs no network, server or script."""

import base64
import hashlib
from importlib.resources import files

import jinja2

from fer_batch.data.explore import tables
from fer_batch.data.explore.explore import Exploration
from fer_batch.plotting import PRINT_DPI

ASSETS = files("fer_batch.data.explore")
MAX_SETS, MAX_ODD_IMAGES = 20, 10
"""Sets of duplicates, and images of each odd kind, that the page lists. The workbook lists more."""
PAGE_DPI = 110
"""Resolution of pictures on the page. The text of plots is then about as large as that of the page."""


def render_page(
    exploration: Exploration, pictures: dict[str, bytes], samples: dict[str, str], odd: dict[str, str]
) -> str:
    """Return the page with the `pictures` (PNG by file name) embedded.

    `samples` and `odd` name the pictures of faces, by class and by kind. Plots are printed in black and
    white.
    """
    style = ASSETS.joinpath("explore.css").read_text(encoding="utf-8")
    ratio = exploration.together.imbalance_ratio["all"]
    images, classes = len(exploration.faces.pixels), len(exploration.faces.classes)
    summary = f"{images:,} image{'s' * (images != 1)} in {classes:,} class{'es' * (classes != 1)}"
    if ratio:
        summary += f"; the largest class has {ratio:,.1f} times as many examples as the smallest"
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        ASSETS.joinpath("explore.html").read_text(encoding="utf-8")
    )
    return template.render(
        style=jinja2.filters.Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        title=", ".join(dataset.name for dataset in exploration.datasets),
        summary=summary,
        classes=tables.tabulate_classes(exploration),
        duplicates=tables.tabulate_duplicates(exploration),
        duplicate_list=tables.list_duplicates(exploration, MAX_SETS),
        odd=tables.tabulate_odd(exploration),
        odd_list=tables.list_odd(exploration, MAX_ODD_IMAGES),
        spreads=[tables.tabulate_spread(exploration, name) for name in ("brightness", "sharpness")],
        facts=[tables.tabulate_datasets(exploration), tables.tabulate_training(exploration)],
        pictures={name: _embed_picture(png) for name, png in pictures.items()},
        sample_pictures=samples,
        odd_pictures=odd,
    )


def _embed_picture(png: bytes) -> dict[str, str | int]:
    """Return the attributes of an image element."""
    width, height = (int.from_bytes(png[at : at + 4], "big") * PAGE_DPI // PRINT_DPI for at in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"width": width, "height": height, "src": source}
