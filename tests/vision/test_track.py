"""IoU of boxes, and the assignment of faces to tracks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.vision.track import Tracker, compute_iou, match_tracks

NO_BOXES = np.zeros((0, 4))
STEP_S = 0.2

coordinates = st.floats(-1000, 1000, width=32)
sides = st.floats(1, 500, width=32)


@st.composite
def box_lists(draw: st.DrawFn) -> np.ndarray:
    corners = draw(st.lists(st.tuples(coordinates, coordinates, sides, sides), max_size=6))
    return np.array([(x, y, x + w, y + h) for x, y, w, h in corners], np.float64).reshape(-1, 4)


def box(x: float, y: float = 200.0, width: float = 80.0, height: float = 100.0) -> np.ndarray:
    return np.array([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])


def both(*boxes: np.ndarray) -> np.ndarray:
    return np.concatenate(boxes)


# IoU


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (NO_BOXES, NO_BOXES, np.zeros((0, 0))),
        (NO_BOXES, [[0, 0, 1, 1]], np.zeros((0, 1))),
        ([[0, 0, 1, 1]], NO_BOXES, np.zeros((1, 0))),
        ([[0, 0, 2, 2]], [[0, 0, 2, 2]], [[1]]),
        ([[0, 0, 2, 2]], [[1, 0, 3, 2]], [[1 / 3]]),
        ([[0, 0, 2, 2]], [[1, 1, 3, 3]], [[1 / 7]]),
        ([[0, 0, 4, 4]], [[1, 1, 3, 3]], [[1 / 4]]),
        ([[0, 0, 1, 1]], [[1, 0, 2, 1]], [[0]]),
        ([[0, 0, 1, 1]], [[5, 5, 6, 6]], [[0]]),
        ([[3, 3, 3, 3]], [[3, 3, 3, 3]], [[0]]),
        ([[2, 2, 1, 1]], [[0, 0, 3, 3]], [[0]]),
        ([[0, 0, 1, 1], [5, 5, 7, 7]], [[5, 5, 7, 7], [0, 0, 1, 1], [9, 9, 10, 10]], [[0, 1, 0], [1, 0, 0]]),
    ],
)
def test_iou_is_intersection_over_union(a: np.ndarray, b: np.ndarray, expected: np.ndarray) -> None:
    result = compute_iou(np.asarray(a, float), np.asarray(b, float))
    assert result.shape == np.shape(expected)
    assert result == pytest.approx(np.asarray(expected, float))


@settings(deadline=None)
@given(a=box_lists(), b=box_lists())
def test_iou_is_symmetric_and_between_0_and_1(a: np.ndarray, b: np.ndarray) -> None:
    result = compute_iou(a, b)
    assert result.shape == (len(a), len(b))
    assert result == pytest.approx(compute_iou(b, a).T)
    assert ((result >= 0) & (result <= 1 + 1e-9)).all()


@settings(deadline=None)
@given(boxes=box_lists())
def test_iou_of_a_box_with_itself_is_1(boxes: np.ndarray) -> None:
    assert np.diag(compute_iou(boxes, boxes)) == pytest.approx(np.ones(len(boxes)))


@settings(deadline=None)
@given(a=box_lists(), b=box_lists(), x=coordinates, y=coordinates, scale=st.floats(0.1, 10))
def test_iou_does_not_depend_on_place_and_scale(
    a: np.ndarray, b: np.ndarray, x: float, y: float, scale: float
) -> None:
    move = np.array([x, y, x, y])
    assert compute_iou(a * scale + move, b * scale + move) == pytest.approx(compute_iou(a, b), abs=1e-6)


# Tracks


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (np.zeros((0, 0)), []),
        (np.zeros((0, 2)), []),
        (np.zeros((2, 0)), []),
        ([[0.5]], [(0, 0)]),
        ([[0.2, 0.9, 0.9]], [(0, 1)]),
        ([[0.2], [0.1], [0.2]], [(0, 0)]),
        ([[0.9, 0.8], [0.8, 0.1]], [(0, 1), (1, 0)]),
        ([[0.1, 0.2, 0.9], [0.3, 0.1, 0.9]], [(0, 2), (1, 0)]),
    ],
)
def test_matches_have_the_largest_sum(
    score: np.ndarray | list[list[float]], expected: list[tuple[int, int]]
) -> None:
    assert match_tracks(np.asarray(score, float)) == expected


def test_frames_without_faces_use_no_ids() -> None:
    tracker = Tracker(0.5)
    for frame in range(3):
        tracks = tracker.update(frame * STEP_S, NO_BOXES)
        assert tracks.shape == (0,)
        assert tracks.dtype == np.int64
    assert tracker.update(1.0, box(100)).tolist() == [0]


def test_float32_and_empty_boxes_are_accepted() -> None:
    tracker = Tracker(0.5)
    assert tracker.update(0.0, np.zeros((0, 4), np.float32)).tolist() == []
    assert tracker.update(0.2, box(100).astype(np.float32)).tolist() == [0]
    assert tracker.update(0.4, np.zeros(0)).tolist() == []


def test_still_face_is_one_track() -> None:
    tracker = Tracker(0.5)
    assert [tracker.update(n * STEP_S, box(100)).tolist() for n in range(5)] == [[0]] * 5


def test_ids_rise_from_zero_and_are_unique() -> None:
    tracker = Tracker(0.5)
    assert tracker.update(0.0, both(box(100), box(400), box(700))).tolist() == [0, 1, 2]
    assert tracker.update(0.2, both(box(1000), box(700), box(100))).tolist() == [3, 2, 0]
    assert tracker.update(9.0, both(box(100), box(400))).tolist() == [4, 5]


def test_order_of_boxes_does_not_matter() -> None:
    tracker = Tracker(0.5)
    tracker.update(0.0, both(box(100), box(400)))
    assert tracker.update(0.2, both(box(405), box(95))).tolist() == [1, 0]


@settings(deadline=None)
@given(data=st.data(), gap_s=st.floats(0.2, 5.0))
def test_separate_faces_never_swap_ids(data: st.DataObject, gap_s: float) -> None:
    tracker = Tracker(gap_s)
    left, right = np.array([150.0, 200.0]), np.array([600.0, 200.0])
    steps = st.tuples(st.floats(-40, 40), st.floats(-40, 40)).map(np.array)
    for frame in range(data.draw(st.integers(2, 25), label="frames")):
        left = np.clip(left + data.draw(steps), [50, 50], [250, 400])
        right = np.clip(right + data.draw(steps), [500, 50], [700, 400])
        order = [0, 1] if frame == 0 else data.draw(st.permutations([0, 1]))
        faces = both(box(*left), box(*right))[order]
        assert tracker.update(frame * STEP_S, faces).tolist() == order


@settings(deadline=None)
@given(data=st.data())
def test_face_that_hides_and_returns_keeps_its_id(data: st.DataObject) -> None:
    tracker = Tracker(10.0)
    tracker.update(0.0, both(box(150), box(600)))
    for frame in range(1, data.draw(st.integers(2, 15))):
        seen = [n for n in (0, 1) if data.draw(st.booleans())]
        faces = both(NO_BOXES, *[box((150, 600)[n]) for n in seen])
        assert tracker.update(frame * STEP_S, faces).tolist() == seen


def test_adjacent_faces_keep_their_ids_while_both_move() -> None:
    tracker = Tracker(0.5)
    for frame in range(20):
        faces = both(box(100 + 20 * frame), box(190 + 20 * frame))
        assert tracker.update(frame * STEP_S, faces).tolist() == [0, 1]


def test_face_that_moves_by_its_width_is_one_track() -> None:
    tracker = Tracker(0.5)
    assert [tracker.update(n * STEP_S, box(100 + 80 * n)).tolist() for n in range(6)] == [[0]] * 6


@settings(deadline=None)
@given(max_gap_s=st.floats(0, 10), share=st.floats(0, 0.99))
def test_face_that_returns_within_the_gap_keeps_its_track(max_gap_s: float, share: float) -> None:
    tracker = Tracker(max_gap_s)
    tracker.update(1.0, box(100))
    assert tracker.update(1.0 + max_gap_s * share, box(100)).tolist() == [0]


@settings(deadline=None)
@given(max_gap_s=st.floats(0, 10), more_s=st.floats(0.001, 100))
def test_face_that_returns_after_the_gap_starts_a_track(max_gap_s: float, more_s: float) -> None:
    tracker = Tracker(max_gap_s)
    tracker.update(1.0, box(100))
    tracker.update(1.0 + max_gap_s / 2, NO_BOXES)
    assert tracker.update(1.0 + max_gap_s + more_s, box(100)).tolist() == [1]


def test_gap_counts_from_the_last_frame_of_a_face() -> None:
    tracker = Tracker(0.5)
    assert [tracker.update(n * 0.4, box(100)).tolist() for n in range(10)] == [[0]] * 10


def test_cut_ends_every_track_and_reuses_no_id() -> None:
    tracker = Tracker(0.5)
    faces = both(box(100), box(400))
    assert tracker.update(0.0, faces).tolist() == [0, 1]
    tracker.end_tracks()
    assert tracker.update(0.2, faces).tolist() == [2, 3]
    tracker.end_tracks()
    tracker.end_tracks()
    assert tracker.update(0.4, NO_BOXES).tolist() == []
    assert tracker.update(0.6, faces).tolist() == [4, 5]


def test_face_of_another_size_in_the_same_place_starts_a_track() -> None:
    tracker = Tracker(0.5)
    tracker.update(0.0, box(100, width=80, height=100))
    assert tracker.update(0.2, box(100, width=280, height=350)).tolist() == [1]


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_face_that_approaches_or_recedes_is_one_track(factor: float) -> None:
    tracker = Tracker(0.5)
    sizes = [100 * factor**n for n in range(8)]
    faces = [box(300, width=size * 0.8, height=size) for size in sizes]
    assert [tracker.update(n * STEP_S, face).tolist() for n, face in enumerate(faces)] == [[0]] * 8


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_faces_of_a_frame_have_different_tracks_and_new_ids_are_consecutive(seed: int) -> None:
    random = np.random.default_rng(seed)
    tracker = Tracker(0.5)
    highest = -1
    for frame in range(12):
        corners = random.uniform(0, 300, (random.integers(0, 7), 2))
        faces = np.concatenate([corners, corners + random.uniform(20, 120, corners.shape)], axis=1)
        tracks = tracker.update(frame * random.uniform(0.1, 0.4), faces).tolist()
        assert len(tracks) == len(set(tracks)) == len(faces)
        fresh = [t for t in tracks if t > highest]
        assert fresh == list(range(highest + 1, highest + 1 + len(fresh)))
        highest = max([highest, *tracks])


def test_track_depends_on_nothing_older_than_the_gap() -> None:
    long, short = Tracker(0.5), Tracker(0.5)
    for frame in range(20):
        long.update(frame * STEP_S, both(box(100 + 3 * frame), box(500)))
    long.update(4.6, NO_BOXES)
    long.update(5.2, NO_BOXES)
    faces = [both(box(130), box(480)), both(box(480), box(130)), box(130)]
    first = [long.update(6 + n * STEP_S, f) for n, f in enumerate(faces)]
    second = [short.update(6 + n * STEP_S, f) for n, f in enumerate(faces)]
    assert all((a - 2 == b).all() for a, b in zip(first, second, strict=True))
