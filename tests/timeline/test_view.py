"""The pages of a run in a browser: the list of videos, and the page of each video."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_batch.run.partial import finalize_partial
from fer_batch.schema import EMOTIONS
from fer_batch.timeline.store import open_timeline
from tests.runs import Tracks, add_videos, plan_videos, video_id, write_run
from tests.timeline.conftest import (
    SECONDS,
    Seen,
    serving,
    until,
    watched_faces,
    write_watched,
)
from tests.timeline.viewer.test_page import HOSTILE, hover, shares_at, shown

HOSTILE_FILE = """'"><img src=x onerror=window.hacked=1><script>window.hacked=1<&#47;script>.mp4"""
ARCHIVE: dict[str, Tracks | None] = {
    "/talks/monday.mp4": [["happy"] * 5, ["sad", "sad"]],
    "/talks/tuesday.mp4": [["happy", "sad", "sad"]],
    "/clips/empty.mp4": [],
    "/clips/broken monday.mp4": None,
    f"/clips/{HOSTILE}": [["fear"] * 5],
    **{f"/many/{'m' * (number + 1)}.mp4": [["neutral"]] for number in range(120)},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(write_run(tmp_path_factory.mktemp("view") / "run", ARCHIVE)) as url:
        yield url


@pytest.fixture(scope="module")
def talk(watched: Path) -> Iterator[str]:
    """The address of a video's page."""
    with serving(watched) as url:
        yield f"{url}/video/{video_id(str(watched.parent / 'talk.mp4'))}"


def listed(page: Any) -> list[str]:
    return [str(name) for name in page.locator(".video .what a").all_text_contents()]


def settled(page: Any, act: Callable[[], Any]) -> None:
    """Run an action that loads another list, and wait for the list."""
    before = page.evaluate("document.documentElement.dataset.ready")
    act()
    until(page, "(before) => document.documentElement.dataset.ready !== before", before)


def test_list_is_searched_and_filtered(look: Callable[..., Seen], archive: str) -> None:
    page = look().open(archive)
    assert len(listed(page)) == 50
    page.keyboard.press("/")
    settled(page, lambda: page.keyboard.type("monday"))
    assert listed(page) == ["broken monday.mp4", "monday.mp4"]
    assert page.locator("#found").text_content() == "2 of 125 videos"
    settled(page, lambda: page.locator("[name=status]").select_option("ok"))
    assert listed(page) == ["monday.mp4"]
    assert page.url.endswith("?words=monday&status=ok")
    settled(page, lambda: page.locator("[name=words]").fill(""))
    settled(page, lambda: page.locator("[name=emotion]").select_option("sad"))
    assert listed(page) == ["tuesday.mp4", "monday.mp4"]
    assert "sad 67 %" in page.locator(".video").first.inner_text()
    settled(page, lambda: page.locator("[name=words]").fill("nothing such"))
    assert listed(page) == []
    assert page.locator("#found").text_content() == "0 of 125 videos"
    page.goto(f"{archive}/?words=monday&status=failed")
    page.wait_for_selector("html[data-ready]")
    assert listed(page) == ["broken monday.mp4"]
    assert "no index" in page.locator(".video").inner_text()
    page.locator(".video a").click()
    page.wait_for_selector("html[data-ready]:has(main.watch)")
    page.locator("#back").click()
    page.wait_for_url("**/?words=monday&status=failed")


def test_scrolling_loads_more_videos(look: Callable[..., Seen], archive: str) -> None:
    page = look().open(archive)
    for _ in range(2):
        settled(page, lambda: page.locator("#more").scroll_into_view_if_needed())
    names = listed(page)
    assert len(names) == len(set(names)) == len(ARCHIVE)
    assert page.locator("#more").is_hidden()


def test_strip_shows_emotions_over_time(look: Callable[..., Seen], archive: str) -> None:
    page = look().open(f"{archive}/?words=tuesday")
    assert page.locator(".strip").get_attribute("aria-label") == "emotions over time: sad 67 %, happy 33 %"
    pixels = page.evaluate(
        """() => {
            const canvas = document.querySelector(".strip");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, 1);
            const at = (time) => [...data.slice(4 * Math.floor(time * canvas.width)).slice(0, 4)];
            return [at(0.5), at(0.9)];
        }"""
    )
    swatch = page.locator("#legend .swatch").nth(EMOTIONS.index("sad"))
    blue = swatch.evaluate("(element) => getComputedStyle(element).backgroundColor")
    assert blue == f"rgb({', '.join(map(str, pixels[0][:3]))})"
    assert pixels[1][3] == 0


def test_pictures_are_off_by_default(look: Callable[..., Seen], watched: Path) -> None:
    with serving(watched) as url:
        seen = look()
        page = seen.open(url)
        assert page.locator("video, img").count() == 0
        assert not [address for address in seen.requests if "/media/" in address]
        settled(page, lambda: page.locator("#pictures").check())
        until(page, "document.querySelector('video.picture').videoWidth > 0")
        seen.open(url)
        assert not page.locator("#pictures").is_checked()


def test_keys_of_the_list(look: Callable[..., Seen], archive: str) -> None:
    page = look().open(archive)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == listed(page)[1]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == listed(page)[0]
    page.keyboard.press("?")
    assert page.locator("dialog[open]").is_visible()
    page.keyboard.press("Escape")
    first = listed(page)[0]
    page.keyboard.press("Enter")
    page.wait_for_url("**/video/**")
    page.wait_for_selector("html[data-ready]")
    assert page.locator("h1").text_content() == first


def playing(page: Any) -> None:
    """Wait for the player."""
    until(page, "fer.page.player.readyState >= 2 && !fer.page.player.seeking")


def now(page: Any) -> tuple[float, float]:
    """Return the times of the player and of the lanes in seconds."""
    playing(page)
    player_s, lanes_s = page.evaluate("[fer.page.player.currentTime, fer.page.lanes.time_s]")
    return float(player_s), float(lanes_s)


def test_click_seeks_the_video(look: Callable[..., Seen], talk: str, watched: Path) -> None:
    page = look().open(talk)
    playing(page)
    hover(page, 0, 6.1)
    page.mouse.down()
    page.mouse.up()
    assert now(page) == pytest.approx((6.1, 6.1), abs=0.05)
    page.mouse.move(0, 0)
    texts, wanted = shown(page), shares_at(open_timeline(watched), 6.1)
    assert texts.keys() == wanted.keys()
    for name, values in wanted.items():
        assert texts[name] == pytest.approx(values, abs=1)
    box = page.locator(".overview").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 2.5 / SECONDS, box["y"] + 5)
    assert now(page) == pytest.approx((2.5, 2.5), abs=0.05)
    page.locator(".episodes td button").nth(1).click()
    start_s = open_timeline(watched).sql("SELECT start_s FROM episodes ORDER BY 1, track_id").fetchall()[1][0]
    assert now(page) == pytest.approx((start_s, start_s), abs=0.01)


def test_keys_of_a_video_page(look: Callable[..., Seen], talk: str) -> None:
    page = look().open(talk)
    playing(page)
    for key, wanted in [
        (".", 0.2),
        (".", 0.4),
        (",", 0.2),
        ("ArrowRight", 5.2),
        ("ArrowLeft", 0.2),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        assert now(page) == pytest.approx((wanted, wanted), abs=0.01)
    page.keyboard.press("Space")
    until(page, "!fer.page.player.paused && fer.page.lanes.time_s > 0.5")
    page.keyboard.press("Space")
    until(page, "fer.page.player.paused")
    player_s, lanes_s = now(page)
    assert lanes_s == pytest.approx(player_s, abs=0.1)
    page.keyboard.press("b")
    assert page.locator(".box:visible").count() == 0
    page.keyboard.press("b")
    assert page.locator(".box:visible").count() == 1
    page.keyboard.press("/")
    page.wait_for_url("**/#search")
    until(page, "document.activeElement.name === 'words'")


@pytest.mark.parametrize("time_s", [0.0, 2.8, 3.4, 5.0, 8.6])
@pytest.mark.parametrize("width", [400, 1600])
def test_boxes_equal_the_tables(
    time_s: float, width: int, look: Callable[..., Seen], talk: str, watched: Path
) -> None:
    page = look(width).open(f"{talk}#t={time_s}")
    playing(page)
    picture = page.locator(".stage video").bounding_box()
    assert picture["width"] / picture["height"] == pytest.approx(640 / 360, rel=0.01)
    rows = open_timeline(watched).sql(f"SELECT * FROM tracks WHERE abs(time_s - {time_s}) < 0.01").df()
    boxes = {box.inner_text().split(" · ")[0]: box for box in page.locator(".box:visible").all()}
    assert boxes.keys() == {f"track {track}" for track in rows["track_id"]}
    for row in rows.to_dict("records"):
        box = boxes[f"track {row['track_id']}"]
        assert row["emotion"] in box.inner_text()
        drawn = box.bounding_box()
        wanted = {
            "x": picture["x"] + picture["width"] * row["box_x0"],
            "y": picture["y"] + picture["height"] * row["box_y0"],
            "width": picture["width"] * (row["box_x1"] - row["box_x0"]),
            "height": picture["height"] * (row["box_y1"] - row["box_y0"]),
        }
        assert drawn == pytest.approx(wanted, abs=1.5)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("gone", "no longer exists"),
        ("changed", "changed since it was analyzed"),
        ("undecodable", "cannot play"),
    ],
)
def test_lanes_work_without_a_picture(
    damage: str, reason: str, look: Callable[..., Seen], tmp_path: Path, sample: Path
) -> None:
    video = Path(shutil.copy(sample, tmp_path / "talk.mp4"))
    if damage == "undecodable":
        video.write_bytes(bytes(1000))
    out = write_watched(tmp_path / "run", {str(video): watched_faces()})
    if damage == "gone":
        video.unlink()
    elif damage == "changed":
        video.write_bytes(bytes(1000))
    with serving(out) as url:
        seen = look()
        page = seen.open(f"{url}/video/{video_id(str(video))}")
        texts = page.locator(".player [role=status]")
        until(page, "document.querySelector('.stage').hidden")
        assert reason in texts.text_content()
        hover(page, 0, 6.1)
        page.mouse.down()
        page.mouse.up()
        assert page.evaluate("fer.page.lanes.time_s") == pytest.approx(6.1, abs=0.05)
        assert shown(page)
        page.keyboard.press("Space")


@pytest.mark.parametrize("tracks", [None, []])
def test_page_of_a_video_without_faces(
    tracks: Tracks | None, look: Callable[..., Seen], archive: str
) -> None:
    uri = next(uri for uri, faces in ARCHIVE.items() if faces == tracks)
    page = look().open(f"{archive}/video/{video_id(uri)}")
    text = page.locator("main").inner_text()
    assert ("could not be read: no index" if tracks is None else "no face found") in text
    assert page.locator(".lane").count() == 0
    page.keyboard.press(".")


def test_hostile_name_is_shown_as_text(
    look: Callable[..., Seen], tmp_path: Path, sample: Path, archive: str
) -> None:
    seen = look()
    page = seen.open(f"{archive}/?words=hacked")
    assert listed(page) == [HOSTILE.rpartition("/")[2]]
    page.locator(".video a").click()
    page.wait_for_selector("html[data-ready]:has(main.watch)")
    assert page.locator("h1").text_content() == HOSTILE.rpartition("/")[2]
    assert page.evaluate("window.hacked") is None

    video = Path(shutil.copy(sample, tmp_path / HOSTILE_FILE))
    with serving(write_watched(tmp_path / "run", {str(video): watched_faces()})) as url:
        page = seen.open(f"{url}/video/{video_id(str(video))}")
        playing(page)
        assert page.locator("h1").text_content() == HOSTILE_FILE
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0


def test_injected_script_does_not_run(look: Callable[..., Seen], talk: str) -> None:
    seen = look()
    page = seen.open(talk)
    page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.hacked = 1'>");
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert seen.troubles
    assert all("Content Security Policy" in texts for texts in seen.troubles)
    seen.troubles.clear()


def test_other_origin_cannot_read(look: Callable[..., Seen], talk: str, archive: str) -> None:
    """Two servers on this machine are two origins of one site."""
    seen = look()
    page = seen.open(archive)
    tried = page.evaluate("(url) => fetch(url).then(() => 'read', (error) => error.name)", talk)
    assert tried == "TypeError"
    page.context.new_page().set_content(f"<iframe src='{talk}'></iframe><video src='{talk}'></video>")
    assert seen.troubles
    seen.troubles.clear()


def test_pages_show_that_results_are_partial(look: Callable[..., Seen], tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    with serving(out) as url:
        page_of_video = f"{url}/video/{video_id('/a.mp4')}"
        assert "partial" not in look().open(page_of_video).locator("body").inner_text()
        plan_videos(out, {"/b.mp4": [["sad"]]})
        finalize_partial(out)
        for address in (url, page_of_video):
            text = look().open(address).locator("body").inner_text()
            assert "partial results: 1 of 2 videos" in text


def test_changed_tables_are_shown(look: Callable[..., Seen], tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", {"/a.mp4": [["happy"]]})
    with serving(out) as url:
        seen = look()
        seen.page.clock.install()
        page = seen.open(url)
        assert listed(page) == ["a.mp4"]
        add_videos(out, {"/b.mp4": [["sad"]]})
        page.clock.run_for(16_000)
        until(page, "document.querySelectorAll('.video').length === 2")
        until(page, "document.getElementById('found').textContent.includes('have changed')")
