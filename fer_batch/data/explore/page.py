"""The figures of data sets as one page that needs nothing else: no network, no server, no script."""

import base64
import hashlib
import html
import re
from importlib.resources import files
from typing import Any

from fer_batch.data.explore.explore import TOGETHER
from fer_batch.data.explore.tables import (
    Table,
    class_tables,
    data_table,
    duplicate_list,
    duplicate_table,
    odd_list,
    odd_table,
    spread_table,
    training_table,
)
from fer_batch.plotting import PRINT_DPI

ASSETS = files("fer_batch.data.explore")
SETS, ODD_IMAGES = 20, 10
"""Sets of duplicates, and images of each odd kind, that the page names; the workbook has more."""
SHOWN_DPI = 110
"""Of pictures, where there is room: their letters are then about as large as the page's."""
FACES = (
    "This page shows faces. Those of FER2013 and CK+48 are for research only, and many are of people who were"
    " not asked: don't publish the page. The option --no-samples makes one without them."
)
NO_FACES = "This page shows no picture of anyone."


def page(
    figures: dict[str, Any],
    pictures: dict[str, bytes],
    samples: dict[str, str],
    odd: dict[str, str],
) -> str:
    """The figures that `explore` gives as HTML, with the `pictures` (PNG by file name) in it: all plots, and
    the faces that `samples` and `odd` name, by class and by kind. Plots are in black and white on paper.
    """
    name = ", ".join(part["name"] for part in figures["data"])
    images, classes = figures["images"], len(figures["classes"])
    ratio = figures[TOGETHER]["imbalance_ratio"]["all"]
    summary = f"{_count(images, 'image', 'images')} in {_count(classes, 'class', 'classes')}"
    if ratio:
        summary += f"; the largest class has {ratio:,.1f} times as many examples as the smallest"
    sections = [
        _section(
            "Classes and splits",
            *map(_table, class_tables(figures)),
            beside=_plot(pictures, "distribution", "Bars: the share of each class in each split."),
        ),
        _section(
            "Duplicates",
            _table(duplicate_table(figures), caption=False),
            _details(duplicate_list(figures, SETS)),
        ),
        _section(
            "Blank and odd images",
            _table(odd_table(figures), caption=False),
            _details(odd_list(figures, ODD_IMAGES)),
            _faces(pictures, odd, "images"),
        ),
        *(
            _section(
                name.capitalize(),
                _table(spread_table(figures, name), caption=False),
                beside=_plot(pictures, name, f"Boxes: the spread of {name} in each class."),
            )
            for name in ("brightness", "sharpness")
        ),
        _section("Samples", _faces(pictures, samples, "faces")) if samples else "",
        _section("Data sets and training", _table(data_table(figures)), _table(training_table(figures))),
    ]
    style = ASSETS.joinpath("explore.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": html.escape(policy),
        "TITLE": html.escape(name),
        "STYLE": style,
        "SUMMARY": html.escape(summary) + ".",
        "SECTIONS": "\n".join(sections),
        "FACES": html.escape(FACES if samples else NO_FACES),
    }
    template = ASSETS.joinpath("explore.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], template)


def _section(title: str, *content: str, beside: str = "") -> str:
    inside = "\n".join(content)
    if beside:
        inside = f'<div class="beside"><div>{inside}</div>\n{beside}</div>'
    return f"<section>\n<h2>{title}</h2>\n{inside}\n</section>"


def _details(table: Table) -> str:
    """A table to unfold, if it has rows."""
    inside = _table(table, caption=False)
    return f"<details>\n<summary>{table.title}</summary>\n{inside}\n</details>" if table.rows else ""


def _table(table: Table, *, caption: bool = True) -> str:
    """A table that scrolls by itself where the page is narrow, also by keyboard."""
    numbers = [
        any(isinstance(row[column], int | float) for row in table.rows)
        and not any(isinstance(row[column], str) for row in table.rows)
        for column in range(len(table.header))
    ]
    kinds = ["number" if number else "text" for number in numbers]
    head = "".join(
        f'<th scope="col" class="{kind}">{html.escape(text)}</th>'
        for text, kind in zip(table.header, kinds, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{html.escape(table.text(row, column))}</td>'
            if column
            else f'<th scope="row" class="{kind}">{html.escape(table.text(row, 0))}</th>'
            for column, kind in enumerate(kinds)
        )
        + "</tr>"
        for row in range(len(table.rows))
    )
    title = html.escape(table.title)
    above = f"<caption>{title}</caption>\n" if caption else ""
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}"><table>\n'
        f"{above}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _plot(pictures: dict[str, bytes], name: str, text: str) -> str:
    """A plot in colour on the screen, in black and white on paper."""
    return (
        f'<figure class="wide" tabindex="0">{_image(pictures[name + ".png"], text, "screen")}'
        f"{_image(pictures[name + '_bw.png'], text, 'ink')}</figure>"
    )


def _faces(pictures: dict[str, bytes], named: dict[str, str], what: str) -> str:
    images = (
        f"<figure>{_image(pictures[file], f'Up to nine {what}: {name}')}</figure>"
        for name, file in named.items()
    )
    return f'<div class="faces">{"".join(images)}</div>' if named else ""


def _image(png: bytes, text: str, kind: str = "") -> str:
    width, height = (int.from_bytes(png[at : at + 4], "big") * SHOWN_DPI // PRINT_DPI for at in (16, 20))
    return (
        f'<img class="{kind}" width="{width}" height="{height}" alt="{html.escape(text)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
