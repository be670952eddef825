"""Detection in all sampled frames, with searches of the whole picture on key frames only."""

import dataclasses
from collections.abc import Iterator

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_batch.timing import StageTimer
from fer_batch.video.changes import ChangeMeter, sample_points
from fer_batch.video.planes import Frame, Picture
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import Detections
from fer_batch.vision.follow import SampledFrame
from fer_batch.vision.schedule import (
    MAX_SPAN_FRAMES,
    MIN_GROUP_FRAMES,
    count_searches_per_span,
    detect_in_frames,
)
from fer_batch.vision.track import compute_iou


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(min_face=0.2, min_score=0.8)


@pytest.fixture(scope="module")
def portrait(sample_frames: list[np.ndarray]) -> Image.Image:
    """One face, 150×150, about 90 pixels high."""
    return Image.fromarray(sample_frames[0][100:300, 60:260]).resize((150, 150))


def make_frames(images: list[np.ndarray], fps: float = 5.0, first: int = 0) -> list[Frame]:
    return [
        Frame(time_s=index / fps, index=index, picture=Picture.from_rgb(image))
        for index, image in enumerate(images)
    ][first:]


def add_changes(frames: list[Frame]) -> list[Frame]:
    """Add the changes that a video of these frames has."""
    meter = ChangeMeter()
    changed = []
    for frame in frames:
        meter.record_points(sample_points(av.VideoFrame.from_ndarray(frame.to_rgb())))
        changed.append(dataclasses.replace(frame, changes=meter.take_changes(0, False)))
    return changed


def detect(
    frames: list[Frame], detector: FaceDetector, every: float = 1.0, fps: float = 5.0
) -> list[SampledFrame]:
    return list(detect_in_frames(frames, detector, every, 1 / fps, 1.0, StageTimer()))


def place_portrait(portrait: Image.Image, places: list[tuple[int, int] | None]) -> list[np.ndarray]:
    """Return one image per place, with the portrait on a patterned background."""
    rows, columns = np.indices((240, 480))
    background = (110 + 40 * np.sin(rows / 17) + 30 * np.cos(columns / 23)).astype(np.uint8)
    images = []
    for place in places:
        image = Image.fromarray(background).convert("RGB")
        if place is not None:
            image.paste(portrait, place)
        images.append(np.asarray(image))
    return images


def is_equal(one: Detections, other: Detections) -> bool:
    return np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)


def test_no_frames_yield_nothing(detector: FaceDetector) -> None:
    assert detect([], detector) == []


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 20), count=st.integers(1, 60), every=st.sampled_from([0.2, 0.5, 1.0, 2.5, 60.0]))
def test_key_frames_are_on_an_absolute_grid(
    detector: FaceDetector, first: int, count: int, every: float
) -> None:
    frames = make_frames([np.zeros((24, 32, 3), np.uint8)] * (first + count), first=first)
    keys = [sampled.frame.index for sampled in detect(frames, detector, every) if sampled.key]
    search_s = min(every, MAX_SPAN_FRAMES / 5.0)
    step = search_s * count_searches_per_span(search_s, 1 / 5.0)
    cells = [int((index / 5 + 1e-4) // step) for index in range(first + count)]
    firsts = {cells.index(cell) for cell in cells}
    assert set(keys) == {first} | {index for index in firsts if index >= first}


def test_followed_faces_equal_detected_faces(detector: FaceDetector, sample_frames: list[np.ndarray]) -> None:
    sampled = detect(make_frames(sample_frames[::5]), detector)
    searched = detector.search([one.frame.picture for one in sampled])
    assert sum(one.key for one in sampled) == sum(one.motion_search for one in sampled) == 5
    ious = [compute_iou(one.faces.boxes, all_.boxes) for one, all_ in zip(sampled, searched, strict=True)]
    assert sum(len(faces) for faces in searched) > 80
    assert sum(iou.shape[0] for iou in ious) == pytest.approx(sum(iou.shape[1] for iou in ious), abs=1)
    assert sum((iou.max(axis=0, initial=0) > 0.7).sum() for iou in ious) >= sum(map(len, searched)) - 1


@pytest.mark.parametrize("step", [10, 60, 100])
def test_face_that_moves_by_up_to_its_width_is_followed(
    detector: FaceDetector, portrait: Image.Image, step: int
) -> None:
    places = [(min(step * index, 330), 40 + 5 * (index % 3)) for index in range(11)]
    sampled = detect(make_frames(place_portrait(portrait, places)), detector)
    assert [len(one.faces) for one in sampled] == [1] * 11
    left = [float(one.faces.boxes[0, 0]) for one in sampled]
    assert np.diff(left) == pytest.approx(np.diff([x for x, _ in places]), abs=18)


def test_face_between_two_key_frames_is_found_by_motion_search_and_followed_back(
    detector: FaceDetector, portrait: Image.Image
) -> None:
    places = [None, None, *[(150, 40)] * 6, None, None, None]
    sampled = detect(make_frames(place_portrait(portrait, places)), detector)
    assert [one.frame.index for one in sampled if one.key] == [0, 10]
    assert [one.frame.index for one in sampled if one.motion_search] == [5]
    assert [len(one.faces) for one in sampled] == [place is not None for place in places]


def test_face_that_jumps_is_found_by_a_search_of_the_whole_picture(
    detector: FaceDetector, portrait: Image.Image
) -> None:
    places = [(0, 40), (0, 40), (330, 60), (330, 60), (330, 60), (0, 40)]
    sampled = detect(make_frames(place_portrait(portrait, places)), detector)
    assert [len(one.faces) for one in sampled] == [1] * 6
    assert [bool(one.faces.boxes[0, 0] > 200) for one in sampled] == [x > 200 for x, _ in places]


def test_no_face_is_followed_across_a_cut(detector: FaceDetector, portrait: Image.Image) -> None:
    shot = place_portrait(portrait, [(150, 40)] * 3)
    columns = np.indices((240, 480))[1][..., None].astype(np.uint8)
    blank = [np.full((240, 480, 3), 200, np.uint8) - columns // 4] * 3
    for images, faces in ((shot + blank, [1, 1, 1, 0, 0, 0]), (blank + shot, [0, 0, 0, 1, 1, 1])):
        sampled = detect(add_changes(make_frames(images)), detector)
        assert [one.cut for one in sampled] == [False, False, False, True, False, False]
        assert [one.key for one in sampled] == [True, False, False, True, False, False]
        assert [one.motion_search for one in sampled] == [False] * 5 + [True]
        assert [len(one.faces) for one in sampled] == faces


@pytest.mark.parametrize("first", [1, 4, 5, 13])
def test_faces_do_not_depend_on_the_first_frame(
    detector: FaceDetector, sample_frames: list[np.ndarray], first: int
) -> None:
    frames = make_frames(sample_frames[60:235:5])
    whole, part = detect(frames, detector), detect(frames[first:], detector)
    start = next(n for n, one in enumerate(part) if one.frame.index % 10 == 0) + 10
    for one, other in zip(whole[first + start :], part[start:], strict=True):
        assert is_equal(one.faces, other.faces)


def test_faces_do_not_depend_on_the_last_frame(
    detector: FaceDetector, sample_frames: list[np.ndarray]
) -> None:
    frames = make_frames(sample_frames[60:235:5])
    whole, part = detect(frames, detector), detect(frames[:28], detector)
    for one, other in zip(whole[:20], part[:20], strict=True):
        assert is_equal(one.faces, other.faces)


@pytest.mark.parametrize(("every", "fps"), [(1.0, 5.0), (60.0, 5.0), (1.0, 25.0), (0.1, 25.0)])
@pytest.mark.parametrize("group_frames", [0, 50])
def test_few_frames_are_held_in_memory(
    detector: FaceDetector, every: float, fps: float, group_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, taken = [np.zeros((24, 32, 3), np.uint8)] * 120, 0
    nbytes = Picture.from_rgb(images[0]).nbytes
    monkeypatch.setattr(detector, "group_bytes", group_frames * nbytes)

    def frames() -> Iterator[Frame]:
        nonlocal taken
        for frame in make_frames(images, fps):
            taken += 1
            yield frame

    sampled = detect_in_frames(frames(), detector, every, 1 / fps, 1.0, StageTimer())
    limit = max(MIN_GROUP_FRAMES, group_frames) + MAX_SPAN_FRAMES + 1
    assert max(taken - index for index, _ in enumerate(sampled)) <= limit


def test_faces_do_not_depend_on_the_size_of_groups(
    detector: FaceDetector, sample_frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = make_frames(sample_frames[60:235:5])
    together = detect(frames, detector)
    monkeypatch.setattr(detector, "group_bytes", 0)
    for one, other in zip(detect(frames, detector), together, strict=True):
        assert is_equal(one.faces, other.faces)


def test_every_frame_is_yielded_in_order_with_faces_from_left_to_right(
    detector: FaceDetector, sample_frames: list[np.ndarray]
) -> None:
    frames = make_frames(sample_frames[::7], 25 / 7)
    sampled = detect(frames, detector, fps=25 / 7)
    assert [one.frame for one in sampled] == frames
    assert all((np.diff(one.faces.boxes[:, 0]) >= 0).all() for one in sampled)
