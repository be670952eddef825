"""Persons that need no comparison, and those that are in view too briefly."""

import pyarrow as pa

from fer_batch.people.number import FACES_COLUMNS, TOO_BRIEF, number_without_pictures
from fer_batch.people.select import TOO_SMALL


def make_rows(*tracks: tuple[float, int], face_px: float = 100.0) -> pa.Table:
    """Return frontal faces in tracks with a start in seconds and a number of frames 0.2 s apart."""
    row = dict.fromkeys(FACES_COLUMNS, 0.0) | {"face_px": face_px, "blur": 200.0, "step_s": 0.2}
    rows = [
        row | {"track_id": number, "time_s": start_s + frame / 5}
        for number, (start_s, count) in enumerate(tracks)
        for frame in range(count)
    ]
    schema = pa.schema([(name, pa.int32() if name == "track_id" else pa.float64()) for name in FACES_COLUMNS])
    return pa.Table.from_pylist(rows, schema=schema)


def test_no_faces_are_no_persons() -> None:
    numbered = number_without_pictures(make_rows())
    assert numbered is not None
    assert len(numbered) == 0


def test_faces_that_are_in_view_together_need_no_comparison() -> None:
    numbered = number_without_pictures(make_rows((0, 20), (1, 30)))
    assert numbered is not None
    assert numbered.column("number").to_pylist() == [2, 1]
    assert numbered.column("mean").null_count == 2
    assert number_without_pictures(make_rows((0, 20), (9, 20))) is None


def test_face_of_a_moment_is_no_person_unless_the_video_is_one() -> None:
    numbered = number_without_pictures(make_rows((0, 30), (1, 1)))
    assert numbered is not None
    assert numbered.select(["number", "reason"]).to_pylist() == [
        {"number": 1, "reason": None},
        {"number": None, "reason": TOO_BRIEF},
    ]
    photo = number_without_pictures(make_rows((0, 1), (0, 1)))
    assert photo is not None
    assert photo.column("number").to_pylist() == [1, 2]


def test_small_faces_that_are_in_view_together_are_persons() -> None:
    rows = make_rows((0, 20), (1, 15), (3, 1), (9, 1), face_px=9.0)
    numbered = number_without_pictures(rows)
    assert numbered is not None
    assert numbered.column("number").to_pylist() == [1, 2, None, None]
    later = number_without_pictures(make_rows((0, 20), (9, 20), face_px=9.0))
    assert later is not None
    assert later.column("reason").to_pylist() == [TOO_SMALL] * 2
