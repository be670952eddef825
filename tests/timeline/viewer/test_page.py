"""The report of a video: one file with the tables' numbers that needs no network."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fer_batch.errors import QueryError
from fer_batch.plotting import pick_colour
from fer_batch.schema import EMOTIONS, probability_column
from fer_batch.timeline.store import Timeline, open_timeline
from fer_batch.timeline.viewer.page import render_report
from fer_batch.timeline.viewer.payload import NO_EMOTION, number_classes, pack_video
from tests.runs import Tracks, video_id, write_run
from tests.timeline.conftest import SECONDS, Seen, write_random_run

HOSTILE = (
    """</title></script><script>window.hacked = 1</script>"><img src=x onerror="hacked=1">{{DATA}}'.mp4"""
)


def unpacked(packed: bytes) -> dict[str, Any]:
    """Unpack the result of `pack_video` as its docstring describes it."""
    length = int.from_bytes(packed[:4], "little")
    video = json.loads(packed[4 : 4 + length])
    offset = 4 + length
    for name, (kind, count) in video["arrays"].items():
        array = np.frombuffer(packed, f"<{np.dtype(kind).str[1:]}", count, offset)
        assert offset % array.itemsize == 0
        video[name] = array
        offset += array.nbytes
    assert offset == len(packed)
    return video


def rows_of(video: dict[str, Any]) -> list[tuple[int, float, str, list[float]]]:
    """Return the track, time, emotion and probabilities of each row."""
    times_s = np.cumsum(video["times"]) / 1000
    probs = video["probs"].reshape(len(video["classes"]), -1).T / 255
    rows, first = [], 0
    for track in video["tracks"]:
        moments = np.cumsum(video["moments"][first : first + track["rows"]])
        for number, moment in enumerate(moments, first):
            kind = video["emotion"][number]
            name = video["classes"][kind] if kind != NO_EMOTION else None
            rows.append((track["id"], times_s[moment], name, probs[number].tolist()))
        first += track["rows"]
    return rows


@pytest.mark.parametrize("tracks", [None, [], [["happy"]], [["sad"] * 5, ["fear", "fear", "angry"]]])
@pytest.mark.parametrize("boxes", [False, True])
def test_packed_values_equal_the_tables(tmp_path: Path, tracks: Tracks | None, boxes: bool) -> None:
    timeline = open_timeline(write_run(tmp_path / "run", {"/a.mp4": tracks}))
    video = unpacked(pack_video(timeline, video_id("/a.mp4"), boxes=boxes))
    wanted = timeline.to_pandas()
    assert video["name"] == "a.mp4"
    assert video["facts"]["status"] == ("failed" if tracks is None else "ok" if tracks else "no_faces")
    assert len(video["times"]) == (0 if tracks is None else 5)
    rows = rows_of(video)
    assert [row[:3] for row in rows] == list(
        wanted[["track_id", "time_s", "emotion"]].round(3).itertuples(index=False, name=None)
    )
    columns = [probability_column(name) for name in EMOTIONS]
    assert np.allclose(
        np.reshape([row[3] for row in rows], (-1, len(EMOTIONS))),
        wanted[columns].to_numpy().reshape(-1, len(EMOTIONS)),
        atol=0.5 / 255,
    )
    assert len(video["box"]) == (4 * len(rows) if boxes else 0)
    sides = wanted[["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy().reshape(-1)
    assert not boxes or np.allclose(video["box"] / 65535, sides, atol=1e-5)


@pytest.mark.parametrize(
    ("emotions", "numbers"),
    [
        ([], []),
        ([None], [NO_EMOTION]),
        (["sad", "Very happy!", None, "other", "sad"], [1, 0, NO_EMOTION, NO_EMOTION, 1]),
    ],
)
def test_number_classes(emotions: list[str | None], numbers: list[int]) -> None:
    column = pa.chunked_array([pa.array(emotions, pa.string())])
    assert number_classes(column, ("very_happy_", "sad")).tolist() == numbers


def test_two_hours_of_five_faces_take_less_than_3_mb(tmp_path: Path) -> None:
    write_random_run(tmp_path / "run", "/long.mp4", faces=5, moments=36_000)
    timeline = open_timeline(tmp_path / "run")
    assert timeline.sql("SELECT count(*) FROM tracks").fetchall() == [(180_000,)]
    assert len(render_report(timeline, "long.mp4").encode()) < 3_000_000


def test_report_of_unknown_video_raises_query_error(watched: Path) -> None:
    with pytest.raises(QueryError, match=r"other\.mp4"):
        render_report(open_timeline(watched), "other.mp4")


@pytest.fixture(scope="module")
def talk(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report on disk."""
    path = tmp_path_factory.mktemp("report") / "talk.html"
    path.write_text(render_report(open_timeline(watched), "talk.mp4"))
    return path.as_uri()


def shares_at(timeline: Timeline, time_s: float) -> dict[str, dict[str, float]]:
    """Return each face's probabilities in percent in the frame that stands for a time."""
    moment = timeline.sql(f"SELECT max(time_s) FROM moments WHERE time_s <= {time_s}").fetchall()[0][0]
    rows = timeline.sql(f"SELECT * FROM tracks WHERE abs(time_s - {moment}) < 1e-6").df().to_dict("records")
    return {
        f"track {row['track_id']}": {name: 100 * row[probability_column(name)] for name in EMOTIONS}
        for row in rows
    }


def shown(page: Any) -> dict[str, dict[str, float]]:
    """Return the values beside the lanes of visible faces."""
    shown_values: dict[str, dict[str, str]] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".lane")].map((lane) => [
            lane.querySelector("h3").textContent,
            Object.fromEntries([...lane.querySelectorAll(".values li")].map((item) =>
                [item.querySelector(".name").textContent, item.querySelector(".share").textContent]))]))"""
    )
    numbers = {
        name: {kind: float(re.sub(r"[<%]", "", text)) for kind, text in values.items() if text != "–"}
        for name, values in shown_values.items()
    }
    return {name: values for name, values in numbers.items() if values}


def hover(page: Any, lane: int, time_s: float, window: tuple[float, float] = (0, SECONDS)) -> None:
    box = page.locator(".lane .u-over").nth(lane).bounding_box()
    page.mouse.move(box["x"] + box["width"] * (time_s - window[0]) / (window[1] - window[0]), box["y"] + 40)


@pytest.mark.parametrize("time_s", [0.1, 2.9, 3.5, 4.9, 5.1, 8.7])
def test_hovering_shows_the_tables_values(
    time_s: float, look: Callable[..., Seen], talk: str, watched: Path
) -> None:
    page = look().open(talk)
    hover(page, 0, time_s)
    wanted, shown_values = shares_at(open_timeline(watched), time_s), shown(page)
    assert shown_values.keys() == wanted.keys()
    for name, values in wanted.items():
        assert shown_values[name] == pytest.approx(values, abs=1)
    assert page.locator("#time").text_content() == f"0:0{time_s:.1f}"


def test_lanes_equal_the_tables(look: Callable[..., Seen], talk: str, watched: Path) -> None:
    page = look().open(talk)
    timeline = open_timeline(watched)
    for lane, name in enumerate(page.locator(".lane h3").all_text_contents()):
        for time_s in np.arange(0.1, SECONDS, 0.8):
            pixel = page.evaluate(
                """([lane, share]) => {
                    const over = document.querySelectorAll(".lane .u-over")[lane].getBoundingClientRect();
                    const canvas = document.querySelectorAll(".lane canvas")[lane];
                    const place = canvas.getBoundingClientRect();
                    const scale = canvas.width / place.width;
                    const x = (over.left - place.left + over.width * share) * scale;
                    const y = (over.top - place.top + 3) * scale;
                    return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
                }""",
                [lane, time_s / SECONDS],
            )
            values = shares_at(timeline, time_s).get(name)
            drawn = "#" + bytes(pixel[:3]).hex() if pixel[3] else None
            assert drawn == (pick_colour(max(values, key=values.__getitem__), EMOTIONS) if values else None)


def test_report_shows_facts_and_status(look: Callable[..., Seen], talk: str) -> None:
    page = look().open(talk)
    assert page.title().startswith("talk.mp4")
    assert page.locator("h1").text_content() == "talk.mp4"
    text = page.locator("body").inner_text()
    for words in ("analyzed", "640 × 360", "h264", "0:09.0", "not a feeling"):
        assert words in text
    assert page.locator("video, img").count() == 0


def test_shares_and_episodes_equal_the_tables(look: Callable[..., Seen], talk: str, watched: Path) -> None:
    page, timeline = look().open(talk), open_timeline(watched)
    text = page.locator(".sharebar").first.locator("p").text_content()
    counts = timeline.sql("SELECT emotion, 100 * count(*) / sum(count(*)) OVER () FROM tracks GROUP BY 1")
    shown_values = {words.rsplit(" ", 2)[0]: float(words.rsplit(" ", 2)[1]) for words in text.split(", ")}
    assert shown_values == pytest.approx(dict(counts.fetchall()), abs=0.5)
    episodes = timeline.sql(
        "SELECT start_s, end_s, emotion FROM episodes ORDER BY start_s, track_id"
    ).fetchall()
    cells = [row.locator("td").all_text_contents() for row in page.locator(".episodes tbody tr").all()]
    assert len(cells) == len(episodes) > 3
    for (start_s, end_s, emotion), (start, length, _, kind, _) in zip(episodes, cells, strict=True):
        assert (start, length, kind) == (f"0:0{start_s:.1f}", f"{end_s - start_s:.1f} s", emotion)


def test_keys_and_clicks_of_a_report(look: Callable[..., Seen], talk: str) -> None:
    page = look().open(talk)
    time = lambda: float(page.evaluate("fer.page.lanes.time_s"))  # noqa: E731
    for key, wanted in [
        (".", 0.2),
        (".", 0.4),
        ("ArrowRight", 1.4),
        (",", 1.2),
        ("ArrowLeft", 0.2),
        ("End", SECONDS),
        (".", 8.8),
        ("Home", 0.0),
        (",", 0.0),
    ]:
        page.keyboard.press(key)
        assert time() == pytest.approx(wanted)
    hover(page, 1, 6.1)
    page.mouse.down()
    page.mouse.up()
    assert time() == pytest.approx(6.1, abs=0.02)
    page.keyboard.press("+")
    start_s, end_s = page.evaluate("fer.page.lanes.window_s")
    assert end_s - start_s == pytest.approx(SECONDS / 2)
    assert start_s < 6.1 < end_s
    page.keyboard.press("0")
    hover(page, 0, 2)
    page.mouse.down()
    hover(page, 0, 4)
    page.mouse.up()
    assert page.evaluate("fer.page.lanes.window_s") == pytest.approx([2, 4], abs=0.02)
    assert time() == pytest.approx(6.1, abs=0.02)
    page.keyboard.press("?")
    assert page.locator("dialog[open] kbd").count() > 5


@pytest.mark.parametrize("tracks", [None, [], [["happy"] * 5]])
def test_hostile_name_is_shown_as_text(
    tracks: Tracks | None, look: Callable[..., Seen], tmp_path: Path
) -> None:
    uri = f"/talks/{HOSTILE}"
    timeline = open_timeline(write_run(tmp_path / "run", {uri: tracks}))
    (tmp_path / "page.html").write_text(render_report(timeline, uri))
    seen = look()
    page = seen.open((tmp_path / "page.html").as_uri())
    name = uri.rpartition("/")[2]
    assert page.locator("h1").text_content() == name
    assert page.title().startswith(name.strip())
    assert uri in page.locator(".facts").text_content()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_report_cannot_use_the_network(look: Callable[..., Seen], talk: str) -> None:
    seen = look(offline=True)
    page = seen.open(talk)
    assert [address for address in seen.requests if not address.startswith("data:")] == [talk]
    tried = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'read', (error) => error.name)")
    assert tried == "TypeError"
    assert seen.troubles
    assert all("connect-src 'none'" in text or "Fetch API" in text for text in seen.troubles)
    seen.troubles.clear()
