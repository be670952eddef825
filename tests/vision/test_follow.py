"""Faces at every moment from a search of the whole picture now and then, wherever one starts."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_batch.timing import StageTimer
from fer_batch.video.planes import Picture
from fer_batch.video.reader import Frame
from fer_batch.vision.detect import Detections, FaceDetector
from fer_batch.vision.follow import (
    HELD,
    LONGEST_SPAN,
    THUMBNAIL,
    SampledFrame,
    _changed,
    detect_in_frames,
    searches_per_key_frame,
)
from fer_batch.vision.track import compute_iou


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(min_face=0.2, min_score=0.8)


@pytest.fixture(scope="module")
def portrait(sample_frames: list[np.ndarray]) -> Image.Image:
    """One face, 150×150, about 90 pixels high."""
    return Image.fromarray(sample_frames[0][100:300, 60:260]).resize((150, 150))


def frames_of(images: list[np.ndarray], fps: float = 5.0, first: int = 0) -> list[Frame]:
    return [
        Frame(time_s=number / fps, index=number, picture=Picture.from_rgb(image))
        for number, image in enumerate(images)
    ][first:]


def looks(
    frames: list[Frame], detector: FaceDetector, every: float = 1.0, fps: float = 5.0
) -> list[SampledFrame]:
    return list(detect_in_frames(frames, detector, every, 1 / fps, 1.0, StageTimer()))


def moving(portrait: Image.Image, places: list[tuple[int, int] | None]) -> list[np.ndarray]:
    """Pictures with the portrait at its places, on a ground with something to see."""
    rows, columns = np.indices((240, 480))
    ground = (110 + 40 * np.sin(rows / 17) + 30 * np.cos(columns / 23)).astype(np.uint8)
    images = []
    for place in places:
        image = Image.fromarray(ground).convert("RGB")
        if place is not None:
            image.paste(portrait, place)
        images.append(np.asarray(image))
    return images


def same(one: Detections, other: Detections) -> bool:
    return np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)


def test_no_frames_give_nothing(detector: FaceDetector) -> None:
    assert looks([], detector) == []


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 20), count=st.integers(1, 60), every=st.sampled_from([0.2, 0.5, 1.0, 2.5, 60.0]))
def test_key_moments_are_on_a_grid_that_does_not_move(
    detector: FaceDetector, first: int, count: int, every: float
) -> None:
    frames = frames_of([np.zeros((24, 32, 3), np.uint8)] * (first + count), first=first)
    keys = [look.frame.index for look in looks(frames, detector, every) if look.key]
    search_s = min(every, LONGEST_SPAN / 5.0)
    step = search_s * searches_per_key_frame(search_s, 1 / 5.0)
    cells = [int((index / 5 + 1e-4) // step) for index in range(first + count)]
    firsts = {cells.index(cell) for cell in cells}
    assert set(keys) == {first} | {index for index in firsts if index >= first}


def test_what_is_followed_is_what_is_found(detector: FaceDetector, sample_frames: list[np.ndarray]) -> None:
    seen = looks(frames_of(sample_frames[::5]), detector)
    every = detector.search([look.frame.picture for look in seen])
    assert sum(look.key for look in seen) == sum(look.motion_search for look in seen) == 5
    both = [compute_iou(look.found.boxes, found.boxes) for look, found in zip(seen, every, strict=True)]
    assert sum(len(found) for found in every) > 80
    assert sum(part.shape[0] for part in both) == pytest.approx(sum(part.shape[1] for part in both), abs=1)
    assert sum((part.max(axis=0, initial=0) > 0.7).sum() for part in both) >= sum(map(len, every)) - 1


@pytest.mark.parametrize("step", [10, 60, 100])
def test_a_face_that_moves_is_followed(detector: FaceDetector, portrait: Image.Image, step: int) -> None:
    """By up to its own width from a moment to the next."""
    places = [(min(step * number, 330), 40 + 5 * (number % 3)) for number in range(11)]
    seen = looks(frames_of(moving(portrait, places)), detector)
    assert [len(look.found) for look in seen] == [1] * 11
    left = [float(look.found.boxes[0, 0]) for look in seen]
    assert np.diff(left) == pytest.approx(np.diff([x for x, _ in places]), abs=18)


def test_a_face_that_comes_and_goes_between_two_searches_is_followed_back(
    detector: FaceDetector, portrait: Image.Image
) -> None:
    places = [None, None, *[(150, 40)] * 6, None, None, None]
    seen = looks(frames_of(moving(portrait, places)), detector)
    assert [len(look.found) for look in seen] == [place is not None for place in places]


def test_a_face_that_comes_and_goes_in_a_still_picture_is_seen_at_a_glance(
    detector: FaceDetector, portrait: Image.Image
) -> None:
    places = [None, None, *[(150, 40)] * 6, None, None, None]
    seen = looks(frames_of(moving(portrait, places)), detector)
    assert [look.frame.index for look in seen if look.key] == [0, 10]
    assert [look.frame.index for look in seen if look.motion_search] == [5]
    assert [len(look.found) for look in seen] == [place is not None for place in places]


CHANGES: list[tuple[str, list[tuple[int, int, int, int]], tuple[int, int, int, int] | None]] = [
    ("nothing", [], None),
    ("a cell in the middle", [(5, 6, 10, 11)], (8, 3, 13, 8)),
    ("a corner", [(0, 1, 0, 1)], (0, 0, 3, 3)),
    ("two that are far apart", [(0, 1, 0, 1), (17, 18, 31, 32)], (0, 0, 32, 18)),
    ("in the face that was there", [(6, 10, 4, 6)], None),
    ("in the face and elsewhere", [(6, 10, 4, 6), (12, 13, 20, 21)], (18, 10, 23, 15)),
]


@pytest.mark.parametrize(("cells", "expected"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_what_changed_is_one_box_of_cells(
    cells: list[tuple[int, int, int, int]], expected: tuple[int, int, int, int] | None
) -> None:
    """Cells are 10 pixels; the face has those in columns 4 to 6 and rows 7 to 9."""
    frame = Frame(time_s=0.0, index=0, picture=Picture.from_rgb(np.zeros((180, 320, 3), np.uint8)))
    was, now = np.zeros(THUMBNAIL, np.float32), np.zeros(THUMBNAIL, np.float32)
    for top, bottom, left, right in cells:
        now[top:bottom, left:right] = 5.0
    face = Detections(
        boxes=np.array([[40, 70, 60, 90]], np.float32),
        scores=np.ones(1, np.float32),
        landmarks=np.zeros((1, 5, 2), np.float32),
    )
    before = SampledFrame(frame=frame, cut=False, key=True, thumbnail=was, whole=face)
    box = _changed(before, SampledFrame(frame=frame, cut=False, key=False, thumbnail=now), 1.0)
    assert (None if box is None else (box / 10).tolist()) == (
        expected if expected is None else list(expected)
    )


def test_a_face_that_jumps_is_searched_in_the_whole_picture(
    detector: FaceDetector, portrait: Image.Image
) -> None:
    places = [(0, 40), (0, 40), (330, 60), (330, 60), (330, 60), (0, 40)]
    seen = looks(frames_of(moving(portrait, places)), detector)
    assert [len(look.found) for look in seen] == [1] * 6
    assert [bool(look.found.boxes[0, 0] > 200) for look in seen] == [x > 200 for x, _ in places]


def test_nothing_is_followed_over_a_cut(detector: FaceDetector, portrait: Image.Image) -> None:
    shot = moving(portrait, [(150, 40)] * 3)
    blank = [
        np.full((240, 480, 3), 200, np.uint8) - np.indices((240, 480))[1][..., None].astype(np.uint8) // 4
    ] * 3
    for images in (shot + blank, blank + shot):
        seen = looks(frames_of(images), detector)
        assert [look.cut for look in seen] == [False, False, False, True, False, False]
        assert [look.key for look in seen] == [True, False, False, True, False, False]
        assert [look.motion_search for look in seen] == [False, False, False, False, False, True]
        assert [len(look.found) for look in seen] == [number for number in (1, 0) for _ in range(3)][
            :: 1 if images[0] is shot[0] else -1
        ]


@pytest.mark.parametrize("first", [1, 4, 5, 13])
def test_what_is_found_does_not_depend_on_where_one_starts(
    detector: FaceDetector, sample_frames: list[np.ndarray], first: int
) -> None:
    frames = frames_of(sample_frames[60:235:5])
    whole, part = looks(frames, detector), looks(frames[first:], detector)
    settled = next(n for n, look in enumerate(part) if look.frame.index % 10 == 0) + 10
    for one, other in zip(whole[first + settled :], part[settled:], strict=True):
        assert same(one.found, other.found)


def test_what_is_found_does_not_depend_on_where_one_ends(
    detector: FaceDetector, sample_frames: list[np.ndarray]
) -> None:
    frames = frames_of(sample_frames[60:235:5])
    whole, part = looks(frames, detector), looks(frames[:28], detector)
    for one, other in zip(whole[:20], part[:20], strict=True):
        assert same(one.found, other.found)


@pytest.mark.parametrize(("every", "fps"), [(1.0, 5.0), (60.0, 5.0), (1.0, 25.0), (0.1, 25.0)])
def test_few_moments_are_held_at_once(detector: FaceDetector, every: float, fps: float) -> None:
    taken = 0

    def frames() -> Iterator[Frame]:
        nonlocal taken
        for frame in frames_of([np.zeros((24, 32, 3), np.uint8)] * 120, fps):
            taken += 1
            yield frame

    held = [
        taken - number
        for number, _ in enumerate(detect_in_frames(frames(), detector, every, 1 / fps, 1.0, StageTimer()))
    ]
    assert max(held) <= HELD + LONGEST_SPAN + 1


def test_moments_are_in_their_order_and_none_is_missing(
    detector: FaceDetector, sample_frames: list[np.ndarray]
) -> None:
    frames = frames_of(sample_frames[::7], 25 / 7)
    assert [look.frame for look in looks(frames, detector, fps=25 / 7)] == frames
    assert all(
        a.boxes[:, 0].tolist() == sorted(a.boxes[:, 0]) for a in (k.found for k in looks(frames, detector))
    )
