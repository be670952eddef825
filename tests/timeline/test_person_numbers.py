"""Numbers of persons in the views: names win, and a number is that of one video unless it is of all."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fer_batch.errors import InputError, QueryError
from fer_batch.run.forget import forget_videos
from fer_batch.run.people import read_person_groups, write_person_groups
from fer_batch.run.verify import verify_run
from fer_batch.schema import PERSON_GROUPS_SCHEMA
from fer_batch.timeline.assign import assign_by_number, assign_by_position, assign_from_csv
from fer_batch.timeline.store import open_timeline
from fer_batch.timeline.viewer.catalogue import Catalogue
from tests.runs import add_videos, video_id, write_run

TWO, ONE = "/a/two.mp4", "/a/one.mp4"


def group(
    out: Path, numbers: dict[tuple[str, int], int | str], across_videos: bool = False, version: str = "1"
) -> None:
    """Write the number of each track, or the reason why it has none."""
    rows: list[dict[str, Any]] = [
        {"video_id": video_id(uri), "version": version, "attempt": 0, "track_id": track}
        | {"number" if isinstance(value, int) else "reason": value, "across_videos": across_videos}
        for (uri, track), value in numbers.items()
    ]
    write_person_groups(out, pa.Table.from_pylist(rows, schema=PERSON_GROUPS_SCHEMA))


def persons(out: Path, view: str = "tracks") -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for uri, person in open_timeline(out).sql(f"SELECT uri, person FROM {view}").fetchall():
        found.setdefault(uri, set()).add(person)
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    videos = {TWO: [["happy"] * 5, ["sad"] * 5, ["fear"] * 2], ONE: [["angry"] * 4]}
    out = write_run(tmp_path / "out", videos)
    group(out, {(TWO, 0): 1, (TWO, 1): 2, (TWO, 2): "turned away", (ONE, 0): 1})
    return out


def test_run_without_groups_has_no_numbers(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", {ONE: [["angry"]]})
    assert len(read_person_groups(out)) == 0
    timeline = open_timeline(out)
    assert not timeline.numbers_are_local
    assert timeline.sql("SELECT * FROM people").fetchall() == []
    assert timeline.sql("SELECT persons FROM summary").fetchall() == [(0,)]


def test_views_have_persons_and_reasons(out: Path) -> None:
    assert persons(out) == {TWO: {"person 1", "person 2", None}, ONE: {"person 1"}}
    assert persons(out, "videos") == {TWO: {"person 1, person 2"}, ONE: {"person 1"}}
    timeline = open_timeline(out)
    assert timeline.sql("SELECT uri, persons FROM summary ORDER BY 1").fetchall() == [(ONE, 1), (TWO, 2)]
    unassigned = timeline.sql("SELECT track_id, reason FROM people WHERE number IS NULL").fetchall()
    assert unassigned == [(2, "turned away")]
    assert verify_run(out) == []


def test_number_is_someone_else_in_each_video(out: Path) -> None:
    timeline = open_timeline(out)
    rows = timeline.shares(by="person").df().query("moments > 0")
    assert set(zip(rows.uri, rows.person.fillna(""), rows.emotion, strict=True)) == {
        (TWO, "person 1", "happy"),
        (TWO, "person 2", "sad"),
        (TWO, "", "fear"),
        (ONE, "person 1", "angry"),
    }
    with pytest.raises(QueryError, match="someone else in each video"):
        timeline.episodes(person="person 1")
    assert (
        len(timeline.shares(by="person", person="person 1", video="one.mp4").df().query("moments > 0")) == 1
    )
    changes = timeline.baseline(person="person 1", video="one.mp4").df()
    assert changes.d_angry.abs().max() < 1e-6
    assert timeline.baseline().df().d_angry.abs().max() < 1e-6
    assert Catalogue(out).persons == []
    labels = [text.get_text() for text in timeline.plot_shares(by_person=True).axes[0].get_yticklabels()]
    assert [label.partition("  ")[0] for label in labels] == [
        "person 1 of /a/one.mp4",
        "person 1 of /a/two.mp4",
        "person 2 of /a/two.mp4",
    ]


def test_number_across_videos_is_one_person(out: Path) -> None:
    group(out, {(TWO, 0): 2, (ONE, 0): 2, (TWO, 1): 1}, across_videos=True)
    timeline = open_timeline(out)
    rows = timeline.shares(by="person").df().query("person == 'person 2' and moments > 0")
    assert set(rows.emotion) == {"happy", "angry"}
    assert Catalogue(out).persons == ["person 1", "person 2"]
    assign_by_number(out, {2: "Ann"})
    assert persons(out) == {TWO: {"Ann", "person 1", None}, ONE: {"Ann"}}


def test_person_is_named_once_for_all_tracks(out: Path) -> None:
    group(out, {(TWO, 0): 1, (TWO, 1): 2, (TWO, 2): 1, (ONE, 0): 1})
    assign_by_number(out, {1: "Ann"}, ["two.mp4"])
    assert persons(out) == {TWO: {"Ann", "person 2"}, ONE: {"person 1"}}
    assign_by_number(out, {2: "Bo"}, ["two.mp4"])
    assert persons(out) == {TWO: {"Ann", "Bo"}, ONE: {"person 1"}}
    assign_by_number(out, {1: "Anna"}, ["two.mp4"])
    assert persons(out)[TWO] == {"Anna", "Bo"}


def test_names_win_over_numbers_and_survive_other_numbers(out: Path) -> None:
    assign_by_position(out, ["Ann"], ["one.mp4"])
    assert persons(out)[ONE] == {"Ann"}
    group(out, {(ONE, 0): 7, (TWO, 0): 3})
    assert persons(out) == {TWO: {"person 3", None}, ONE: {"Ann"}}


def test_unclear_numbers_are_errors(out: Path) -> None:
    with pytest.raises(InputError, match="someone else in each video"):
        assign_by_number(out, {1: "Ann"})
    with pytest.raises(InputError, match="no person 9"):
        assign_by_number(out, {9: "Ann"}, ["two.mp4"])
    with pytest.raises(InputError, match="a name for each"):
        assign_by_number(out, {1: ""}, ["two.mp4"])


def test_new_analysis_has_no_numbers(out: Path) -> None:
    add_videos(out, {ONE: [["sad"] * 3]}, version="2")
    assert persons(out)[ONE] == {None}
    assert persons(out)[TWO] == {"person 1", "person 2", None}


def test_forgotten_video_loses_its_numbers(out: Path) -> None:
    forget_videos(out, ["two.mp4"])
    assert read_person_groups(out).column("video_id").to_pylist() == [video_id(ONE)]
    assert persons(out) == {ONE: {"person 1"}}


def test_named_person_is_no_candidate_for_another_video(out: Path) -> None:
    assign_by_number(out, {1: "Ann", 2: "Bo"}, ["two.mp4"])
    with pytest.raises(InputError, match="someone else in each video"):
        assign_by_number(out, {1: "Cid"})
    assert persons(out) == {TWO: {"Ann", "Bo", None}, ONE: {"person 1"}}


def test_numbers_in_a_list_stay_numbers(out: Path, tmp_path: Path) -> None:
    """A list of all tracks may be written by a query, edited, and read again."""
    rows = open_timeline(out).sql("SELECT uri AS video, track_id, person FROM tracks GROUP BY ALL").df()
    rows.loc[(rows.video == TWO) & (rows.track_id == 1), "person"] = "Ann"
    rows.to_csv(tmp_path / "people.csv", index=False)
    assert assign_from_csv(out, tmp_path / "people.csv").column("person").to_pylist() == ["Ann"]
    assert persons(out) == {TWO: {"person 1", "Ann", None}, ONE: {"person 1"}}
    shares = open_timeline(out).shares(by="person").df().query("moments > 0")
    assert len(shares.query("person == 'person 1'")) == 2


def test_name_that_looks_like_a_number_stays(out: Path) -> None:
    assign_by_number(out, {1: "person 2"}, ["two.mp4"])
    assign_by_number(out, {2: "Bo"}, ["two.mp4"])
    assert persons(out)[TWO] == {"person 2", "Bo", None}
    assert open_timeline(out).numbers_are_local


def test_reasons_alone_are_no_persons(out: Path) -> None:
    group(out, {(TWO, 0): "too small", (ONE, 0): "blurred"})
    with pytest.raises(QueryError, match=r"no face in .* has one"):
        open_timeline(out).shares(by="person")
