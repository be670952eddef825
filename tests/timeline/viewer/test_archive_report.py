"""The report of a run: one file with a table, strips and shares that equal the tables."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fer_batch.plotting import pick_colour
from fer_batch.run.snapshot import Partial
from fer_batch.schema import EMOTIONS
from fer_batch.timeline.assign import assign_from_csv
from fer_batch.timeline.cells import NOT_ANALYZED, divide_videos
from fer_batch.timeline.store import open_timeline
from fer_batch.timeline.viewer.archive import pack_archive
from fer_batch.timeline.viewer.catalogue import STRIP_CELLS
from fer_batch.timeline.viewer.page import render_archive_report
from tests.runs import Tracks, video_id, write_run
from tests.timeline.conftest import Seen, until
from tests.timeline.test_person_numbers import group
from tests.timeline.viewer.test_page import HOSTILE

HOSTILE_URI = f"/archive/{HOSTILE}"
VIDEOS: dict[str, Tracks | None] = {
    "/archive/two.mp4": [["happy", "happy", "sad", "sad", "happy"], ["neutral", "fear"]],
    "/archive/ten.mp4": [["angry"] * 4],
    HOSTILE_URI: [["surprise"] * 5],
    "/archive/empty.mp4": [],
    "/archive/broken.mp4": None,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    out = write_run(folder / "run & <b>", VIDEOS, in_bucket=1)
    people = pd.DataFrame(
        {"video": ["/archive/two.mp4", HOSTILE_URI], "track_id": 0, "person": "</script><img src=x>"}
    )
    people.to_csv(folder / "people.csv", index=False)
    assign_from_csv(out, folder / "people.csv")
    return out


@pytest.fixture(scope="module")
def address(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "run.html"
    path.write_text(render_archive_report(open_timeline(finished)))
    return path.as_uri()


def unpack(packed: bytes) -> dict[str, Any]:
    length = int.from_bytes(packed[:4], "little")
    report: dict[str, Any] = json.loads(packed[4 : 4 + length])
    offset = 4 + length
    for name, (kind, count) in report["arrays"].items():
        report[name] = np.frombuffer(packed, np.dtype(kind), count, offset)
        offset += report[name].nbytes
    assert offset == len(packed)
    return report


def names(page: Any) -> list[str]:
    return page.locator(".archive td.name strong").all_text_contents()


def test_packed_values_equal_the_tables(finished: Path) -> None:
    timeline = open_timeline(finished)
    report = unpack(pack_archive(timeline))
    uris = report["videos"]["uri"]
    assert uris == sorted(VIDEOS)
    counts = report["counts"].reshape(len(uris), -1)
    rows = timeline.sql("SELECT uri, emotion, count(*) FROM tracks GROUP BY ALL").fetchall()
    assert {(uris[i], EMOTIONS[k], counts[i, k]) for i, k in zip(*np.nonzero(counts), strict=True)} == set(
        rows
    )
    assert report["shares"] == counts.sum(axis=0).tolist()
    (person,) = report["persons"]
    assert (person["name"], sum(person["counts"])) == ("</script><img src=x>", 10)
    ids = [video_id(uri) for uri in uris]
    cells = divide_videos(timeline, ids, STRIP_CELLS)
    for strip, number in zip(report["strips"].reshape(len(uris), -1), ids, strict=True):
        assert (strip == cells[number].number()).all()
    assert report["videos"]["with_face"][uris.index("/archive/ten.mp4")] == 0.8


def test_filtered_report_has_only_matching_faces(finished: Path) -> None:
    report = unpack(pack_archive(open_timeline(finished).filter_faces(min_confidence=0.95)))
    assert report["face_filter"] == "faces with confidence ≥ 0.95"
    assert not report["counts"].any() and not report["persons"]
    assert set(report["strips"].tolist()) == {254, NOT_ANALYZED}


def test_numbers_within_a_video_are_not_persons(tmp_path: Path) -> None:
    """Person 1 of one video may be someone else than person 1 of another."""
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]], "/b.mp4": [["sad"], ["fear"]]})
    numbers: dict[tuple[str, int], int | str] = {("/a.mp4", 0): 1, ("/b.mp4", 0): 1, ("/b.mp4", 1): 2}
    group(out, numbers)
    assert unpack(pack_archive(open_timeline(out)))["persons"] == []
    group(out, numbers, across_videos=True)
    persons = unpack(pack_archive(open_timeline(out)))["persons"]
    assert [(person["name"], sum(person["counts"])) for person in persons] == [
        ("person 1", 2),
        ("person 2", 1),
    ]


def test_report_of_a_run_without_videos(look: Callable[..., Seen], tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(render_archive_report(open_timeline(write_run(tmp_path / "run", {}))))
    page = look().open((tmp_path / "a.html").as_uri())
    text = page.locator("main").inner_text()
    assert "0 videos" in text and "No face was found." in text and "The run has no videos." in text


def test_page_has_videos_problems_and_shares(look: Callable[..., Seen], address: str) -> None:
    page = look().open(address)
    assert page.locator("h1").text_content() == "run & <b>"
    assert sorted(names(page)) == sorted(uri.rpartition("/")[2] for uri in VIDEOS)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    problems = page.locator(".problems")
    assert problems.locator("summary").all_text_contents() == [
        "failed could not be read: 1 video",
        "no faces analyzed, no face found: 1 video",
    ]
    assert "broken.mp4: no index" in problems.inner_text()
    assert "surprise 31 %" in page.locator(".shares .sharebar p").first.text_content()
    assert page.locator(".persons h3").all_text_contents() == ["</script><img src=x> (10)"]


def test_strips_have_the_colours_of_the_cells(look: Callable[..., Seen], address: str) -> None:
    page = look().open(address)
    until(page, "[...document.querySelectorAll('canvas')].every((canvas) => canvas.isDrawn)")
    row = names(page).index("two.mp4")
    for share, emotion in ((0.1, "happy"), (0.7, "sad"), (0.9, "happy")):
        pixel = page.evaluate(
            """([row, share]) => {
                const canvas = document.querySelectorAll(".archive canvas")[row];
                return [...canvas.getContext("2d").getImageData(share * canvas.width, 5, 1, 1).data];
            }""",
            [row, share],
        )
        assert "#" + bytes(pixel[:3]).hex() == pick_colour(emotion, EMOTIONS)


def test_table_is_sorted_and_searched_by_keyboard(look: Callable[..., Seen], address: str) -> None:
    page = look().open(address)
    page.locator(".archive th.length button").focus()
    page.keyboard.press("Enter")
    assert page.locator(".archive th.length").get_attribute("aria-sort") == "descending"
    assert names(page)[-1] == "broken.mp4"  # its length is not known
    page.keyboard.press("Enter")
    assert page.locator(".archive th.length").get_attribute("aria-sort") == "ascending"
    assert names(page)[-1] == "broken.mp4"
    page.locator("select[name=emotion]").select_option(label="happy")
    until(page, "document.querySelector('.archive th.share').textContent === 'happy'")
    assert names(page)[0] == "two.mp4"
    assert page.locator(".archive td.share").first.text_content() == "happy 43 %"
    page.locator("h1").click()
    page.keyboard.press("/")
    page.keyboard.type("TEN archive")
    until(page, "document.querySelectorAll('.archive tbody tr').length === 1")
    assert names(page) == ["ten.mp4"]
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('.archive tbody tr').length === 5")


def test_long_table_is_shown_in_parts_and_printed_whole(look: Callable[..., Seen], tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {f"/{'a' * n}.mp4": [["happy"]] for n in range(1, 204)})
    (tmp_path / "a.html").write_text(render_archive_report(open_timeline(out)))
    page = look().open((tmp_path / "a.html").as_uri())
    assert len(names(page)) == 200
    assert page.locator(".list > .more").text_content() == "show 3 more of 3 videos"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(names(page)) == 203
    assert page.evaluate("[...document.querySelectorAll('canvas')].every((canvas) => canvas.isDrawn)")
    assert page.locator(".list > .more").is_hidden()


def test_partial_run_and_filter_are_named(look: Callable[..., Seen], finished: Path, tmp_path: Path) -> None:
    timeline = open_timeline(finished).filter_faces(min_confidence=0.5)
    timeline.partial = Partial(videos=5, planned_videos=10, video_s=3600.0, planned_s=7200.0)
    timeline.write_archive_report(tmp_path / "a.html")
    page = look().open((tmp_path / "a.html").as_uri())
    text = page.locator("main section").first.inner_text()
    assert "partial results: 5 of 10 videos, 1 of 2 hours" in text
    assert "only faces with confidence ≥ 0.5" in text


def test_policy_allows_no_network_and_no_other_script(address: str, finished: Path) -> None:
    content = render_archive_report(open_timeline(finished))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy and "default-src &#x27;none&#x27;" in policy[1] and "unsafe" not in policy[1]
    assert not re.search(r"https?://(?!www\.w3\.org)", content.partition("<header")[0])
