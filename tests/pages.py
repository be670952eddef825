"""Pictures of pages in a browser, and checks that a page fits its window and is legible.

The pictures stay in the folder that the environment variable `FER_BATCH_SCREENSHOTS` names, by default in a
temporary folder of pytest.
"""

import os
from pathlib import Path
from typing import Any

SCREENSHOTS = "FER_BATCH_SCREENSHOTS"
MIN_CONTRAST = 4.5
"""The lowest contrast of text that WCAG 2.2 allows at level AA."""
ONE_LINE = ".box span, .badge, .episodes .time, .episodes .number"
"""Elements whose text must not break into lines."""


def keep_picture(page: Any, name: str, folder: Path) -> None:
    """Save a picture of the whole page as `name`.png, and check its width, contrast and lines."""
    path = Path(os.environ.get(SCREENSHOTS) or folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 5_000
    assert no_wider_than_the_window(page)
    assert measure_contrast(page) >= MIN_CONTRAST
    assert find_wrapped(page, ONE_LINE) == []


def no_wider_than_the_window(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def find_wrapped(page: Any, selector: str) -> list[str]:
    """Return the texts of visible elements that have more than one line."""
    texts: list[str] = page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].filter((element) => {
            const range = document.createRange();
            range.selectNodeContents(element);
            const tops = [...range.getClientRects()].map((line) => Math.round(line.top));
            return element.checkVisibility() && new Set(tops).size > 1;
        }).map((element) => element.textContent)""",
        selector,
    )
    return texts


def measure_contrast(page: Any) -> float:
    """Return the lowest contrast of text with its background, by WCAG's formula."""
    return float(
        page.evaluate(
            """() => {
            const light = (colour) => {
                const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
                const [r, g, b] = colour.match(/[\\d.]+/g).map((n) => linear(n / 255));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = (element) => {
                for (let e = element; e; e = e.parentElement) {
                    const colour = getComputedStyle(e).backgroundColor;
                    if (!/, 0\\)$/.test(colour)) return colour;
                }
            };
            let least = 21;
            for (const element of document.querySelectorAll("body *")) {
                const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
                if (!own || !element.checkVisibility()) continue;
                const [a, b] = [getComputedStyle(element).color, behind(element)].map(light);
                least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
            }
            return least;
        }"""
        )
    )
