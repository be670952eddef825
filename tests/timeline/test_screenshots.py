"""Pictures of all pages: light and dark, in a narrow and a wide window.

See `tests.pages` for the place of pictures. A new page of a run needs an address in `addresses`, its name in
`PAGES`, and an action in `ACTIONS` if something has to be opened first. Any other test keeps and checks pages
with the fixture `keep`.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fer_batch.data.explore.explore import explore
from fer_batch.data.explore.report import write_exploration
from fer_batch.run.partial import finalize_partial
from fer_batch.schema import EMOTIONS
from fer_batch.timeline.naming import name_face
from fer_batch.timeline.store import open_timeline
from fer_batch.timeline.viewer.page import render_archive_report, render_report
from tests.datasets import random_images, write_images
from tests.runs import add_videos, plan_videos, video_id
from tests.timeline.conftest import Seen, serving, until, watched_faces, write_watched
from tests.timeline.test_view import playing, settled

PAGES = ("list", "list_with_pictures", "video", "crowd", "naming", "report", "archive_report")


def crowd_faces() -> list[dict[str, Any]]:
    """Return rows of twelve faces of different sizes in rows, some at the edges of the picture."""
    rows = []
    for track in range(12):
        size = 0.03 + 0.012 * track
        left, top = 0.24 * (track % 4) + 0.01 * track, 0.33 * (track // 4)
        for row in watched_faces(seed=track):
            if row["track"] == 0:
                box = {
                    "box_x0": left,
                    "box_x1": min(left + size, 1.0),
                    "box_y0": top,
                    "box_y1": top + 2 * size,
                }
                rows.append(row | box | {"track": track})
    return rows


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Iterator[dict[str, str]]:
    """The address of each page, those of a run that is not finished."""
    folder = tmp_path_factory.mktemp("pages")
    videos = {
        str(shutil.copy(sample, folder / name)): faces
        for name, faces in {
            "talk.mp4": watched_faces(),
            "crowd.mp4": crowd_faces(),
            "a video with a name that is much longer than the names that most people give to videos.mp4":
                watched_faces(seed=2),
        }.items()
    }  # fmt: skip
    out = write_watched(folder / "run", videos)
    add_videos(
        out,
        {"/talks/monday.mp4": [["happy"] * 5, ["sad"] * 2], "/talks/empty.mp4": [], "/talks/torn.mp4": None},
    )
    plan_videos(out, {"/talks/later.mp4": [["happy"]]})
    finalize_partial(out)
    talk, crowd = (video_id(str(folder / name)) for name in ("talk.mp4", "crowd.mp4"))
    name_face(out, talk, 1, "Eileen Collins", None)
    (folder / "talk.html").write_text(render_report(open_timeline(out), talk))
    (folder / "all.html").write_text(render_archive_report(open_timeline(out)))
    with ExitStack() as stack:
        site = stack.enter_context(serving(out))
        editable = stack.enter_context(serving(out, edit=True))
        yield {
            "list": site,
            "list_with_pictures": f"{site}/?words={folder.name}",
            "video": f"{site}/video/{talk}#t=6.2",
            "crowd": f"{site}/video/{crowd}#t=1.2",
            "naming": f"{editable}/video/{talk}#t=6.2",
            "report": (folder / "talk.html").as_uri(),
            "archive_report": (folder / "all.html").as_uri(),
        }


def show_pictures(page: Any) -> None:
    settled(page, lambda: page.locator("#pictures").check())
    until(page, "document.querySelectorAll('video.picture').length === 3")
    until(
        page,
        "[...document.querySelectorAll('video.picture')].every((v) => v.readyState >= 2 || v.error)",
    )


def open_naming(page: Any) -> None:
    playing(page)
    page.locator(".lane h3 button").first.click()


ACTIONS: dict[str, Callable[[Any], None]] = {
    "list_with_pictures": show_pictures,
    "video": playing,
    "crowd": playing,
    "naming": open_naming,
    "archive_report": lambda page: page.evaluate("dispatchEvent(new Event('beforeprint'))"),
}
"""What happens on a page before it is photographed."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_is_legible(
    name: str,
    width: int,
    scheme: str,
    look: Callable[..., Seen],
    addresses: dict[str, str],
    keep: Callable[[Any, str], None],
) -> None:
    page = look(width, color_scheme=scheme).open(addresses[name])
    ACTIONS.get(name, lambda page: None)(page)
    keep(page, f"{name}_{width}_{scheme}")


@pytest.fixture(scope="module")
def exploration(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of `explore`."""
    folder = tmp_path_factory.mktemp("faces")
    images = {name: random_images(6 + number, number) for number, name in enumerate(EMOTIONS)}
    images["happy"][0] = images["sad"][0]
    write_exploration(folder / "out", explore([("folder", str(write_images(folder / "images", images)))]))
    return (folder / "out" / "explore.html").as_uri()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_exploration_fits_and_is_legible(
    width: int, scheme: str, look: Callable[..., Seen], exploration: str, keep: Callable[[Any, str], None]
) -> None:
    page = look(width, color_scheme=scheme).page
    page.goto(exploration)
    keep(page, f"explore_{width}_{scheme}")
