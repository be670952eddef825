"""IoU of boxes, and the assignment of faces to tracks."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_batch.vision.continuity import FrameView
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


def track(tracker: Tracker, frames: Sequence[np.ndarray], step_s: float = STEP_S) -> list[list[int]]:
    return [tracker.update(number * step_s, boxes).tolist() for number, boxes in enumerate(frames)]


@pytest.mark.parametrize(
    ("frames", "step_s", "expected"),
    [
        ([NO_BOXES, NO_BOXES, box(100)], 0.2, [[], [], [0]]),
        ([NO_BOXES.astype(np.float32), box(100).astype(np.float32), np.zeros(0)], 0.2, [[], [0], []]),
        ([box(100)] * 5, 0.2, [[0]] * 5),
        ([box(100)] * 10, 0.4, [[0]] * 10),
        ([both(box(100), box(400)), both(box(405), box(95))], 0.2, [[0, 1], [1, 0]]),
        ([both(box(100), box(400)), both(box(900), box(400), box(100))], 0.2, [[0, 1], [2, 1, 0]]),
        ([both(box(100), box(400)), both(box(100), box(400))], 9.0, [[0, 1], [2, 3]]),
        ([both(box(100 + 20 * n), box(190 + 20 * n)) for n in range(20)], 0.2, [[0, 1]] * 20),
        ([box(100 + 80 * n) for n in range(6)], 0.2, [[0]] * 6),
        ([box(100, width=80, height=100), box(100, width=280, height=350)], 0.2, [[0], [1]]),
        ([box(300, width=80 * 1.2**n, height=100 * 1.2**n) for n in range(8)], 0.2, [[0]] * 8),
        ([box(300, width=80 * 0.8**n, height=100 * 0.8**n) for n in range(8)], 0.2, [[0]] * 8),
    ],
    ids=[
        "no faces", "float32", "still", "gap counts from the last frame", "order", "new face", "long gap",
        "neighbours move", "moves by its width", "other size in the same place", "approaches", "recedes",
    ],
)  # fmt: skip
def test_faces_are_assigned_to_tracks(
    frames: list[np.ndarray], step_s: float, expected: list[list[int]]
) -> None:
    assert track(Tracker(0.5), frames, step_s) == expected
    assert Tracker(0.5).update(0.0, frames[0]).dtype == np.int64


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


def view(*colours: int) -> FrameView:
    """Describe faces of plain colours."""
    looks = np.zeros((len(colours), 4), np.float32)
    looks[np.arange(len(colours)), colours] = 1
    return FrameView(looks=looks, regions=np.zeros((len(colours), 4)), changes=None)


@pytest.mark.parametrize(
    ("colours", "expected"),
    [([0, 0, 0], [0, 0, 0]), ([0, 0, 1, 1], [0, 0, 1, 1]), ([0, 0, 1, 0, 0], [0, 0, 1, 0, 0])],
    ids=["same", "other from then on", "other for one frame"],
)
def test_other_face_in_the_same_place_has_another_track(colours: list[int], expected: list[int]) -> None:
    tracker = Tracker(0.5)
    tracks = [tracker.update(n * STEP_S, box(100), view(c)).item() for n, c in enumerate(colours)]
    assert tracks == expected
    assert tracker.correct_track(1, 0.4) == (0 if colours == [0, 0, 1, 0, 0] else 1)


def test_two_faces_that_change_places_at_a_cut_are_followed_by_their_looks_or_end() -> None:
    tracker = Tracker(0.5)
    assert tracker.update(0.0, both(box(100), box(140)), view(0, 1)).tolist() == [0, 1]
    assert tracker.update(0.2, both(box(100), box(140)), view(1, 0)).tolist() == [1, 0]
    assert tracker.update(0.4, both(box(100), box(140)), view(2, 3)).tolist() == [2, 3]
    assert tracker.correct_track(1, 0.4) == 1


def test_time_without_frames_ends_no_track_and_frames_without_the_face_do() -> None:
    tracker = Tracker(0.5, 0.2)
    for number in range(5):
        assert tracker.update(2.0 * number, box(100 + 10 * number), view(0)).tolist() == [0]
    assert tracker.update(70.0, box(140), view(0)).tolist() == [0]
    assert tracker.update(80.0, NO_BOXES, view()).tolist() == []
    assert tracker.update(81.0, box(140), view(0)).tolist() == [0]
    for time_s in (82.0, 82.1, 83.0):
        tracker.update(time_s, NO_BOXES, view())
    assert tracker.update(84.0, box(140), view(0)).tolist() == [1]


def test_other_face_after_time_without_frames_has_another_track() -> None:
    tracker = Tracker(0.5, 0.2)
    assert tracker.update(0.0, box(100), view(0)).tolist() == [0]
    assert tracker.update(60.0, box(100), view(1)).tolist() == [1]


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
    for number, boxes in enumerate(faces):
        time_s = 6 + number * STEP_S
        assert (long.update(time_s, boxes) - 2 == short.update(time_s, boxes)).all()
