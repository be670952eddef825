"""Persons of tracks: from a list, by position, in every view, until the next analysis."""

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fer_batch.errors import FerBatchError, InputError, OutputError, QueryError
from fer_batch.run.forget import forget_videos
from fer_batch.run.people import PEOPLE_FILE
from fer_batch.run.verify import verify_run
from fer_batch.timeline.assign import assign_by_position, assign_from_csv
from fer_batch.timeline.store import open_timeline
from tests.runs import VideoContent, add_videos, video_id, write_run, write_tables
from tests.timeline.videos import GRID_S, make_track

TWO, ONE, NONE = "/a/two.mp4", "/a/one.mp4", "/a/none.mp4"


def people(out: Path) -> dict[tuple[str, int], str | None]:
    rows = open_timeline(out).sql("SELECT DISTINCT uri, track_id, person FROM tracks").fetchall()
    return {(uri, track): person for uri, track, person in rows}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    videos = {TWO: [["happy"] * 5, ["sad"] * 5], ONE: [["angry"] * 3], NONE: []}
    return write_run(tmp_path / "out", videos)


def test_new_run_has_no_persons(out: Path) -> None:
    timeline = open_timeline(out)
    for view in ("tracks", "videos", "moments", "episodes", "summary"):
        assert timeline.sql(f"SELECT DISTINCT person FROM {view}").fetchall() == [(None,)]
    assert not (out / PEOPLE_FILE).exists()


def test_every_view_has_persons(out: Path) -> None:
    assign_by_position(out, ["Ann", "Bo"])
    timeline = open_timeline(out)
    found = {
        view: set(timeline.sql(f"SELECT DISTINCT person FROM {view}").fetchall())
        for view in ("tracks", "episodes", "videos", "moments", "summary")
    }
    faces, pictures = {("Ann",), ("Bo",)}, {("Ann, Bo",), ("Ann",), (None,)}
    wanted = {
        "tracks": faces,
        "episodes": faces,
        "videos": pictures,
        "moments": pictures,
        "summary": pictures,
    }
    assert found == wanted
    assert timeline.sql("SELECT count(*) FROM tracks").fetchall() == [(13,)]
    assert timeline.sql("SELECT count(*) FROM moments").fetchall() == [(15,)]
    assert verify_run(out) == []
    assert set(pq.read_schema(out / PEOPLE_FILE).names) == {
        "video_id",
        "version",
        "attempt",
        "track_id",
        "person",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("video,track_id,person\n", {}),
        ("video,track_id,person\ntwo.mp4,1,Zoë\n", {(TWO, 1): "Zoë"}),
        ("track,person,uri,height\n0,Ann,/a/two.mp4,12\n1,,/a/two.mp4,9\n", {(TWO, 0): "Ann"}),
        (f"video_id,track_id,person\n{video_id(ONE)},0,'; DROP\n", {(ONE, 0): "'; DROP"}),
        ('video,track_id,person\none.mp4,0,"a,""b"""\ntwo.mp4,0,c\n', {(ONE, 0): 'a,"b"', (TWO, 0): "c"}),
    ],
    ids=["empty", "one", "other columns", "by id", "quoted"],
)
def test_list_assigns_persons(
    out: Path, tmp_path: Path, text: str, named: dict[tuple[str, int], str]
) -> None:
    (tmp_path / "people.csv").write_text(text)
    assert len(assign_from_csv(out, tmp_path / "people.csv")) == len(named)
    assert {track: person for track, person in people(out).items() if person} == named


def test_assignment_replaces_earlier_ones_of_the_same_videos(out: Path, tmp_path: Path) -> None:
    assign_by_position(out, ["Ann", "Bo"])
    (tmp_path / "people.csv").write_text("video,track_id,person\ntwo.mp4,0,Cy\n")
    assign_from_csv(out, tmp_path / "people.csv")
    assert people(out) == {(TWO, 0): "Cy", (TWO, 1): None, (ONE, 0): "Ann"}
    assign_by_position(out, ["Di"], ["one.mp4"])
    assert people(out) == {(TWO, 0): "Cy", (TWO, 1): None, (ONE, 0): "Di"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("video,person\ntwo.mp4,Ann\n", InputError, "track_id and person, got video, person"),
        ("video,track_id,person\ntwo.mp4,first,Ann\n", InputError, "a track_id must be a whole number"),
        ("video,track_id,person\ntwo.mp4,7,Ann\n", InputError, r"tracks that the run does not have \(7 of"),
        ("video,track_id,person\ntwo.mp4,0,Ann\ntwo.mp4,0,Bo\n", InputError, "has a track twice"),
        ("video,track_id,person\ngone.mp4,0,Ann\n", QueryError, "has no video gone.mp4"),
        ("video,track_id,person\none.mp4\n", InputError, "Cannot read .* as CSV"),
        ("video,track_id,person,person\none.mp4,0,Ann,Bo\n", InputError, "it has two columns person"),
        ("video" + "," * 1000, InputError, "1,001 columns, and at most 1,000"),
    ],
    ids=["no column", "no number", "no track", "twice", "no video", "torn", "two columns", "columns"],
)
def test_invalid_list_changes_nothing(
    out: Path, tmp_path: Path, text: str, error: type[FerBatchError], message: str
) -> None:
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(error, match=message):
        assign_from_csv(out, tmp_path / "people.csv")
    assert not (out / PEOPLE_FILE).exists()


@pytest.mark.timeout(10)
def test_pipe_is_no_list(out: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "people.csv")
    with pytest.raises(InputError, match=r"Cannot read .* as CSV: it is not a regular file"):
        assign_from_csv(out, tmp_path / "people.csv")


def test_missing_list_or_run_raises_error(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        assign_from_csv(out, tmp_path / "gone.csv")
    with pytest.raises(OutputError, match="does not exist"):
        assign_by_position(tmp_path / "gone", ["Ann"])
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    ("persons", "max_faces", "message"),
    [
        ([], None, "none"),
        (["Ann", "Ann"], None, "named once each"),
        ([""], None, "named once each"),
        (["Ann", "two.mp4"], None, "two.mp4 is a video of the run"),
        (["Ann"], 0, "at least 1"),
    ],
    ids=["none", "twice", "no name", "a video", "no faces"],
)
def test_invalid_persons_raise_input_error(
    out: Path, persons: list[str], max_faces: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        assign_by_position(out, persons, max_faces=max_faces)


SEATED: dict[str, tuple[list[Any], dict[int, float], list[str | None]]] = {
    "side by side": ([make_track(0, "hhh", 0.1), make_track(1, "hhh", 0.3)], {}, ["Ann", "Bo"]),
    "alone on a side": ([make_track(0, "hhh", 0.1), make_track(1, "hhh", 0.7, first=5)], {}, ["Ann", "Bo"]),
    "changed over": (
        [make_track(0, "hhhhh", 0.1), make_track(1, "hh", 0.0), make_track(2, "hhh", 0.5, first=2)],
        {},
        ["Ann", "Ann", "Bo"],
    ),
    "a small third": (
        [make_track(0, "hhh", 0.1), make_track(1, "hhh", 0.0), make_track(2, "hhh", 0.5)],
        {1: 0.1},
        ["Ann", None, "Bo"],
    ),
}


@pytest.mark.parametrize(("tracks", "height", "named"), SEATED.values(), ids=SEATED)
def test_persons_are_assigned_from_left_to_right(
    tmp_path: Path,
    tracks: list[list[tuple[int, float, str, float, float]]],
    height: dict[int, float],
    named: list[str],
) -> None:
    faces = [face for track in tracks for face in track]
    seen = VideoContent(duration_s=4.0, moments_s=GRID_S, faces=faces, height=height)
    out = write_tables(tmp_path / "out", {"/v.mp4": seen})
    assign_by_position(out, ["Ann", "Bo"])
    found = people(out)
    assert [found["/v.mp4", track] for track in range(len(named))] == named


def test_one_person_is_the_largest_face(tmp_path: Path) -> None:
    faces = [*make_track(0, "hhhh", 0.1), *make_track(1, "hhhh", 0.5), *make_track(2, "h", 0.8, first=3)]
    seen = VideoContent(duration_s=4.0, moments_s=GRID_S, faces=faces, height={0: 0.2, 1: 0.5, 2: 0.6})
    out = write_tables(tmp_path / "out", {"/v.mp4": seen})
    assign_by_position(out, ["Ann"])
    assert people(out) == {("/v.mp4", 0): None, ("/v.mp4", 1): "Ann", ("/v.mp4", 2): "Ann"}


def test_more_faces_than_persons_may_count(tmp_path: Path) -> None:
    faces = [face for track, left in enumerate((0.0, 0.2, 0.7)) for face in make_track(track, "hhh", left)]
    seen = VideoContent(duration_s=4.0, moments_s=GRID_S, faces=faces, height={1: 0.1})
    out = write_tables(tmp_path / "out", {"/v.mp4": seen})
    assign_by_position(out, ["Ann", "Bo"], max_faces=3)
    assert people(out) == {("/v.mp4", 0): "Ann", ("/v.mp4", 1): "Ann", ("/v.mp4", 2): "Bo"}


def test_new_analysis_has_no_persons(out: Path) -> None:
    assign_by_position(out, ["Ann", "Bo"])
    add_videos(out, {TWO: [["fear"] * 5]}, version="2")
    add_videos(out, {ONE: [["fear"] * 5]}, attempt=1)
    assert people(out) == {(TWO, 0): None, (ONE, 0): None}
    assert open_timeline(out).sql("SELECT DISTINCT person FROM videos").fetchall() == [(None,)]


def test_forgotten_video_loses_its_persons(out: Path) -> None:
    assign_by_position(out, ["Ann", "Bo"])
    forget_videos(out, ["two.mp4"])
    assert set(pq.read_table(out / PEOPLE_FILE).column("video_id").to_pylist()) == {video_id(ONE)}
    assert people(out) == {(ONE, 0): "Ann"}
