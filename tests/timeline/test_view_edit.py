"""Name faces in the browser, on the page of a video that `view --edit` serves."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_batch.cli.main import main
from fer_batch.storage.lease import hold_lease
from fer_batch.timeline.naming import name_face
from fer_batch.timeline.store import open_timeline
from tests.runs import video_id
from tests.timeline.conftest import Seen, serving, until, watched_faces, write_watched
from tests.timeline.test_person_numbers import group
from tests.timeline.test_view import playing

HOSTILE_NAME = """"><img src=x onerror=window.hacked=1><script>window.hacked=1</script>"""


@pytest.fixture
def out(tmp_path: Path, sample: Path) -> Path:
    video = shutil.copy(sample, tmp_path / "talk.mp4")
    return write_watched(tmp_path / "run", {str(video): watched_faces()})


@pytest.fixture
def address(out: Path) -> Iterator[str]:
    """The address of the page of the video."""
    with serving(out, edit=True) as url:
        yield f"{url}/video/{id_of(out)}"


def id_of(out: Path) -> str:
    return video_id(str(out.parent / "talk.mp4"))


def lanes(page: Any) -> list[str]:
    return [str(text) for text in page.locator(".lane h3").all_text_contents()]


def type_name(page: Any, name: str) -> None:
    """Type a name into the open dialog, and wait until the page shows it."""
    page.locator("#naming input").fill(name)
    page.keyboard.press("Enter")
    until(page, "!document.querySelector('dialog[open]')")


def query_persons(out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["query", str(out), "SELECT DISTINCT track_id, person FROM tracks ORDER BY 1"]) == 0
    return capsys.readouterr().out.splitlines()[1:]


def test_face_is_named_and_named_back(
    look: Callable[..., Seen], address: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = look().open(f"{address}#t=6.1")
    playing(page)
    page.evaluate("fer.page.player.dataset.mark = 'same'")
    page.locator(".box").nth(1).click()
    assert "Who is track 1?" in page.locator("#naming").inner_text()
    type_name(page, "Ann")
    until(page, "document.querySelector('.naming').innerText.includes('track 1 → Ann')")
    assert lanes(page) == ["track 0", "Ann"]
    assert [text.partition(" · ")[0] for text in page.locator(".box:visible").all_inner_texts()] == [
        "track 0",
        "Ann",
    ]
    assert "Ann" in page.locator(".shares").inner_text()
    assert "Ann" in page.locator(".episodes").inner_text()
    assert page.evaluate("[fer.page.player.dataset.mark, fer.page.player.currentTime]") == [
        "same",
        pytest.approx(6.1, abs=0.05),
    ]
    assert query_persons(out, capsys) == ["0\t", "1\tAnn"]

    page.locator(".lane h3 button").first.click()
    until(page, "document.querySelectorAll('#names option').length > 0")
    assert page.locator("#names option").evaluate_all("(all) => all.map((o) => o.value)") == ["Ann"]
    type_name(page, "Bo")
    until(page, "document.querySelector('.naming').innerText.includes('track 0 → Bo')")
    assert lanes(page) == ["Bo", "Ann"]
    page.get_by_role("button", name="undo").click()
    until(page, "document.querySelector('.naming').innerText.includes('track 1 → Ann')")
    assert lanes(page) == ["track 0", "Ann"]
    page.keyboard.press("u")
    until(page, "document.querySelector('.naming').innerText.includes('Click a face')")
    assert lanes(page) == ["track 0", "track 1"]
    assert page.get_by_role("button", name="undo").is_hidden()
    assert query_persons(out, capsys) == ["0\t", "1\t"]


def test_face_is_named_with_the_keyboard(look: Callable[..., Seen], address: str) -> None:
    page = look().open(address)
    assert page.locator("[role=slider] button").count() == 0  # screen readers ignore the children of a slider
    page.locator("[role=slider]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.type("Ann")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.lane h3').textContent === 'Ann'")


def test_numbered_person_is_named_for_all_tracks(look: Callable[..., Seen], address: str, out: Path) -> None:
    ((version,),) = open_timeline(out).sql("SELECT version FROM videos").fetchall()
    group(out, {(str(out.parent / "talk.mp4"), track): 1 for track in (0, 1)}, version=version)
    page = look().open(address)
    assert lanes(page) == ["person 1"]
    page.locator(".lane h3 button").click()
    assert "2 tracks get the name" in page.locator("#naming").inner_text()
    type_name(page, "Ann")
    until(page, "document.querySelector('.naming').innerText.includes('person 1 → Ann')")
    assert lanes(page) == ["Ann"]


def test_hostile_name_is_shown_as_text(look: Callable[..., Seen], address: str) -> None:
    page = look().open(f"{address}#t=6.1")
    page.locator(".lane h3 button").first.click()
    type_name(page, HOSTILE_NAME)
    until(page, "(name) => document.querySelector('.lane h3').textContent === name", HOSTILE_NAME)
    page.locator(".lane h3 button").nth(1).click()
    until(page, "document.querySelectorAll('#names option').length === 1")
    assert HOSTILE_NAME in page.locator(".box:visible").all_inner_texts()[-1]
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.goto(address.partition("/video/")[0])
    page.wait_for_selector("html[data-ready]")
    until(page, "document.querySelector('[name=person]').options.length === 2")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_errors_are_shown_and_nothing_is_lost(look: Callable[..., Seen], address: str, out: Path) -> None:
    seen = look()
    page = seen.open(address)
    page.locator(".lane h3 button").first.click()
    with hold_lease(out, "analyze"):
        page.locator("#naming input").fill("Ann")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#naming [role=alert]').textContent.includes('is in use')")
    assert lanes(page) == ["track 0", "track 1"]
    name_face(out, id_of(out), 0, "Bo", None)
    page.locator("#naming button", has_text="save").click()
    until(page, "document.querySelector('#naming').innerText.includes('Who is Bo?')")
    assert "have changed" in page.locator("#naming [role=alert]").inner_text()
    assert lanes(page) == ["Bo", "track 1"]
    type_name(page, "Cy")
    until(page, "document.querySelector('.naming').innerText.includes('Bo → Cy')")
    name_face(out, id_of(out), 0, "Di", "Cy")
    page.keyboard.press("u")
    until(
        page, "document.querySelector('.naming').innerText.includes('Not undone: Bo → Cy cannot be undone')"
    )
    assert lanes(page) == ["Di", "track 1"]
    assert len(seen.troubles) == 3
    assert all("Failed to load resource" in text for text in seen.troubles)
    seen.troubles.clear()


def test_cancelled_dialog_changes_nothing(look: Callable[..., Seen], address: str) -> None:
    seen = look()
    page = seen.open(address)
    for leave in (
        lambda: page.keyboard.press("Escape"),
        lambda: page.get_by_role("button", name="cancel").click(),
    ):
        page.locator(".lane h3 button").first.click()
        page.locator("#naming input").fill("Ann")
        leave()
        until(page, "!document.querySelector('dialog[open]')")
    assert lanes(page) == ["track 0", "track 1"]
    assert not [request for request in seen.requests if request.endswith(("/name", "/undo"))]


def test_faces_cannot_be_named_without_edit(look: Callable[..., Seen], out: Path) -> None:
    with serving(out) as url:
        page = look().open(f"{url}/video/{id_of(out)}#t=6.1")
        playing(page)
        assert page.locator(".lane h3 button, .naming, #naming").count() == 0
        box = page.locator(".box").first.bounding_box()
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        page.keyboard.press("u")
        assert page.locator("dialog[open]").count() == 0
