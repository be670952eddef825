"""Selection of faces: the best of each part of a track, and a reason where none can be described."""

import numpy as np

from fer_batch.people.overlaps import find_continuations, find_tracks_apart
from fer_batch.people.select import (
    BLURRED,
    TOO_SMALL,
    TURNED,
    TrackFaces,
    mark_best,
    rate_faces,
    select_faces,
)

BOX = (0.4, 0.3, 0.6, 0.7)


def make_faces(*tracks: dict[str, float]) -> TrackFaces:
    """Return tracks of frontal, sharp faces 0.2 s apart; a track may change any column for all its faces."""
    columns: dict[str, list[float]] = {}
    for number, track in enumerate(tracks):
        start_s, count, x = track.get("start_s", 0.0), int(track.get("count", 5)), track.get("x", 0.0)
        for face in range(count):
            row = {"track": number, "time_s": start_s + face / 5, "x": x, "step_s": 0.2}
            row |= {
                name: track.get(name, value)
                for name, value in (("face_px", 90.0), ("blur", 200.0), ("yaw", 0.0))
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    arrays = {
        name: np.array(columns.get(name, [])) for name in ("time_s", "step_s", "face_px", "blur", "yaw")
    }
    x = np.array(columns.get("x", []))
    return TrackFaces(
        track=np.array(columns.get("track", []), np.int64),
        boxes=np.array(BOX) + x[:, None] * np.array([1, 0, 1, 0]),
        **arrays,
    )


def test_no_faces_are_selected_from_none() -> None:
    rows, reasons = select_faces(make_faces())
    assert (rows.tolist(), reasons) == ([], {})
    assert find_tracks_apart(make_faces()) == []
    assert find_continuations(make_faces()) == []


def test_long_tracks_have_more_faces_at_different_times() -> None:
    faces = make_faces({"count": 2}, {"count": 15}, {"count": 60})
    rows, reasons = select_faces(faces)
    assert np.bincount(faces.track[rows]).tolist() == [1, 2, 3]
    assert np.diff(faces.time_s[rows][faces.track[rows] == 2]).min() > 3
    assert not reasons


def test_sharp_frontal_face_is_preferred_and_a_near_one_among_equals() -> None:
    faces = make_faces({"count": 3})
    faces.blur[:] = 20, 200, 200
    faces.yaw[:] = 0, 0, 0.8
    assert select_faces(faces)[0].tolist() == [1]
    equal = make_faces({"count": 3})
    assert select_faces(equal, np.array([8.0, 9.0, 0.0]))[0].tolist() == [2]


def test_track_without_a_usable_face_has_a_reason() -> None:
    faces = make_faces({"face_px": 20}, {"yaw": -1.5}, {"blur": 3}, {"yaw": np.nan}, {})
    rows, reasons = select_faces(faces)
    assert reasons == {0: TOO_SMALL, 1: TURNED, 2: BLURRED, 3: TURNED}
    assert set(faces.track[rows].tolist()) == {4}


def test_tracks_at_one_moment_are_apart() -> None:
    faces = make_faces({"count": 5}, {"start_s": 0.8, "x": 0.3}, {"start_s": 1.0, "x": -0.3})
    assert find_tracks_apart(faces) == [(0, 1), (1, 2)]


def test_near_face_is_rated_higher_and_each_track_has_one_best() -> None:
    assert rate_faces(make_faces({"count": 2}), np.array([0.0, 1.0])).argmax() == 0
    assert mark_best(np.array([0.5, 0.9, 0.9, 0.1]), np.array([0, 0, 0, 3])).tolist() == [0, 1, 0, 1]
    assert mark_best(np.zeros(0), np.zeros(0, np.int64)).tolist() == []


def test_track_without_a_pause_continues_no_other() -> None:
    assert find_continuations(make_faces({}, {"start_s": 1.0})) == []


def test_track_in_the_place_of_an_earlier_one_may_continue_it() -> None:
    faces = make_faces({}, {"start_s": 1.4}, {"start_s": 9.0}, {"start_s": 1.4, "x": 0.3})
    assert [pair for pair, _ in find_continuations(faces)] == [(0, 1)]
    ((_, (last, first)),) = find_continuations(faces)
    assert (faces.track[last], faces.track[first]) == (0, 1)
