"""Naming one face of a video: all its tracks get the name, and the change can be undone."""

from pathlib import Path

import pytest

from fer_batch.errors import InputError, OutputError
from fer_batch.run.people import PEOPLE_FILE, read_people
from fer_batch.run.record import add_manifest_columns
from fer_batch.run.verify import verify_run
from fer_batch.storage.folder import open_folder
from fer_batch.storage.lease import hold_lease
from fer_batch.timeline.assign import assign_by_position
from fer_batch.timeline.naming import MAX_NAME_CHARS, check_name, name_face, undo_naming
from tests.runs import add_videos, video_id, write_run
from tests.timeline.test_assign import people
from tests.timeline.test_person_numbers import group

TWO, ONE = "/a/two.mp4", "/a/one.mp4"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "out", {TWO: [["happy"] * 5, ["sad"] * 5, ["fear"] * 2], ONE: [["angry"] * 4]}
    )


def test_track_without_a_person_is_named_alone(out: Path) -> None:
    naming = name_face(out, video_id(TWO), 1, "  Zoë <b> ", None)
    assert people(out) == {(TWO, 0): None, (TWO, 1): "Zoë <b>", (TWO, 2): None, (ONE, 0): None}
    assert str(naming) == "track 1 → Zoë <b>"
    assert verify_run(out) == []
    undo_naming(out, naming)
    assert set(people(out).values()) == {None}


def test_manifest_columns_may_have_any_name(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", {})
    add_manifest_columns(out, dict.fromkeys(["number", "name", "shown"], "string"))
    add_videos(out, {ONE: [["angry"] * 4]})
    naming = name_face(out, video_id(ONE), 0, "Ann", None)
    assert people(out) == {(ONE, 0): "Ann"}
    undo_naming(out, naming)
    assert people(out) == {(ONE, 0): None}


def test_all_tracks_of_a_person_are_renamed_in_this_video(out: Path) -> None:
    for video, track in [(TWO, 0), (TWO, 2), (ONE, 0)]:
        name_face(out, video_id(video), track, "Ann", None)
    naming = name_face(out, video_id(TWO), 2, "Bo", "Ann")
    renamed = {(TWO, 0): "Bo", (TWO, 1): None, (TWO, 2): "Bo", (ONE, 0): "Ann"}
    assert people(out) == renamed
    assert str(naming) == "Ann → Bo"
    undo_naming(out, naming)
    assert people(out) == renamed | {(TWO, 0): "Ann", (TWO, 2): "Ann"}


def test_empty_name_removes_the_name(out: Path) -> None:
    name_face(out, video_id(TWO), 0, "Ann", None)
    naming = name_face(out, video_id(TWO), 0, " ", "Ann")
    assert len(read_people(out)) == 0
    assert str(naming) == "Ann → track 0"
    undo_naming(out, naming)
    assert people(out)[TWO, 0] == "Ann"


@pytest.mark.parametrize("across", [False, True])
def test_numbered_person_is_named_where_its_number_counts(out: Path, across: bool) -> None:
    group(out, {(TWO, 0): 1, (TWO, 1): 2, (TWO, 2): 1, (ONE, 0): 1}, across_videos=across)
    name_face(out, video_id(TWO), 0, "Ann", "person 1")
    one = "Ann" if across else "person 1"
    named = {(TWO, 0): "Ann", (TWO, 1): "person 2", (TWO, 2): "Ann", (ONE, 0): one}
    assert people(out) == named
    naming = name_face(out, video_id(TWO), 2, "", "Ann")
    assert set(people(out).values()) == {"person 1", "person 2"}
    assert len(read_people(out)) == 0
    undo_naming(out, naming)
    assert people(out) == named


def test_person_of_another_name_keeps_it(out: Path) -> None:
    """Someone has corrected one track of a group. The rest of the group is another face then."""
    group(out, {(TWO, 0): 1, (TWO, 1): 1, (ONE, 0): 1}, across_videos=True)
    name_face(out, video_id(TWO), 0, "Ann", "person 1")
    assign_by_position(out, ["Cy"], ["one.mp4"])
    name_face(out, video_id(TWO), 0, "Bo", "Ann")
    assert people(out) == {(TWO, 0): "Bo", (TWO, 1): "Bo", (TWO, 2): None, (ONE, 0): "Cy"}


@pytest.mark.parametrize("shown", [None, "Bo", "track 0"])
def test_change_of_someone_else_is_not_overwritten(out: Path, shown: str | None) -> None:
    name_face(out, video_id(TWO), 0, "Ann", None)
    with pytest.raises(InputError, match=r"have changed: track 0 was .*, and is now Ann"):
        name_face(out, video_id(TWO), 0, "Cy", shown)
    assert people(out)[TWO, 0] == "Ann"


def test_undo_does_not_overwrite_a_later_change(out: Path) -> None:
    naming = name_face(out, video_id(TWO), 0, "Ann", None)
    name_face(out, video_id(TWO), 0, "Bo", "Ann")
    with pytest.raises(InputError, match="track 0 → Ann cannot be undone"):
        undo_naming(out, naming)
    assert people(out)[TWO, 0] == "Bo"


def test_undo_is_refused_after_another_analysis(out: Path) -> None:
    """Track 0 may show someone else then."""
    name_face(out, video_id(TWO), 0, "Ann", None)
    naming = name_face(out, video_id(TWO), 0, "", "Ann")
    add_videos(out, {TWO: [["sad"] * 5]}, version="2")
    with pytest.raises(InputError, match="cannot be undone"):
        undo_naming(out, naming)
    assert people(out)[TWO, 0] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * (MAX_NAME_CHARS + 1), "at most 100 characters, got 101"),
        ("Ann\nBo", "printable"),
        ("Ann\x1b[31m", "printable"),
        ("Ann\u202e", "printable"),
        ("Track 7", "Track 7 is the name of a track"),
    ],
)
def test_invalid_name_is_refused(out: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        name_face(out, video_id(TWO), 0, name, None)
    assert not (out / PEOPLE_FILE).exists()


@pytest.mark.parametrize("name", ["", "x" * MAX_NAME_CHARS, "Zoë O'Neil", "李小龍", "<script>", "tracker 1"])
def test_valid_name_is_kept(name: str) -> None:
    assert check_name(f" {name} ") == name


def test_unknown_track_is_refused(out: Path) -> None:
    with pytest.raises(InputError, match="no track 7"):
        name_face(out, video_id(TWO), 7, "Ann", None)


@pytest.mark.usefixtures("store")
def test_face_of_a_run_in_a_store_is_named() -> None:
    out = write_run(open_folder("s3://archive/run"), {ONE: [["angry"] * 4]})
    naming = name_face(out, video_id(ONE), 0, "Ann", None)
    assert read_people(out).column("person").to_pylist() == ["Ann"]
    undo_naming(out, naming)
    assert len(read_people(out)) == 0


def test_nothing_is_written_while_another_process_writes(out: Path) -> None:
    naming = name_face(out, video_id(TWO), 0, "Ann", None)
    with hold_lease(out, "analyze"):
        with pytest.raises(OutputError, match="is in use: `fer-batch analyze`"):
            name_face(out, video_id(TWO), 0, "Bo", "Ann")
        with pytest.raises(OutputError, match="is in use: `fer-batch analyze`"):
            undo_naming(out, naming)
    assert people(out)[TWO, 0] == "Ann"
