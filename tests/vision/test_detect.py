"""Faces in frames: none where there are none, and the same ones whatever the size and shape of the frame."""

import numpy as np
import pytest
from PIL import Image

from fer_batch.vision.detect import NO_FACES, Detections, FaceDetector

HOPPER, COLLINS = 0, 1


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(min_face=0.2, min_score=0.9)


@pytest.fixture(scope="module")
def frame(sample_frames: list[np.ndarray]) -> np.ndarray:
    return sample_frames[0]


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def by_place(found: Detections) -> np.ndarray:
    return found.boxes[np.argsort(found.boxes[:, 0])]


def assert_empty(found: Detections) -> None:
    assert (found.boxes.shape, found.scores.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32


def test_no_faces_are_empty_arrays() -> None:
    assert_empty(NO_FACES)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_frame_has_no_faces(detector: FaceDetector, grey: int) -> None:
    assert_empty(detector.detect(np.full((360, 640, 3), grey, np.uint8)))


@pytest.mark.parametrize("kind", ["blank", "noise", "face"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 640), (11, 11), (12, 12), (13, 13), (20, 400), (400, 20), (30, 24)]
)
@pytest.mark.parametrize("pixel_aspect", [0.5, 1.0, 2.0])
def test_tiny_and_narrow_frames_do_no_harm(
    detector: FaceDetector, frame: np.ndarray, height: int, width: int, kind: str, pixel_aspect: float
) -> None:
    images = {
        "blank": np.zeros((height, width, 3), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
        "face": resized(frame[60:320, 100:300], width, height),
    }
    found = detector.detect(images[kind], pixel_aspect)
    assert found.boxes.shape == (len(found.scores), 4)
    assert found.landmarks.shape == (len(found.scores), 5, 2)


@pytest.mark.parametrize("side", [47, 48, 94, 147, 307])
def test_faces_as_high_as_the_frame_can_be_asked_for(side: int) -> None:
    assert_empty(FaceDetector(min_face=1.0, min_score=0.9).detect(np.zeros((side, side, 3), np.uint8)))


def test_the_sample_has_two_faces_with_their_features_in_place(
    detector: FaceDetector, frame: np.ndarray
) -> None:
    found = detector.detect(frame)
    assert len(found.scores) == 2
    assert ((found.scores >= 0.9) & (found.scores <= 1)).all()
    centres = (by_place(found)[:, :2] + by_place(found)[:, 2:]) / 2
    assert centres[HOPPER] == pytest.approx([165, 208], abs=15)
    assert centres[COLLINS] == pytest.approx([477, 157], abs=15)
    for box, points in zip(found.boxes, found.landmarks, strict=True):
        assert ((points > box[:2]) & (points < box[2:])).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_detection_leaves_the_frame_as_it_was(detector: FaceDetector, frame: np.ndarray) -> None:
    before = frame.copy()
    detector.detect(frame, 1.5)
    assert np.array_equal(frame, before)


def test_a_frame_has_the_same_faces_whatever_came_before_it(
    detector: FaceDetector, sample_frames: list[np.ndarray]
) -> None:
    first = detector.detect(sample_frames[0])
    detector.detect(sample_frames[100])
    detector.detect(np.zeros((90, 160, 3), np.uint8))
    again = detector.detect(sample_frames[0])
    other = FaceDetector(min_face=0.2, min_score=0.9).detect(sample_frames[0])
    for found in (again, other):
        assert np.array_equal(found.boxes, first.boxes)
        assert np.array_equal(found.scores, first.scores)
        assert np.array_equal(found.landmarks, first.landmarks)


@pytest.mark.parametrize(("width", "height"), [(320, 180), (960, 540), (2560, 1440)])
def test_faces_are_in_pixels_of_the_frame_whatever_its_size(
    detector: FaceDetector, frame: np.ndarray, width: int, height: int
) -> None:
    expected = by_place(detector.detect(frame)) / [640, 360, 640, 360]
    found = by_place(detector.detect(resized(frame, width, height))) / [width, height, width, height]
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("width", "height", "pixel_aspect"), [(320, 360, 2.0), (640, 180, 0.5), (480, 360, 4 / 3)]
)
def test_faces_are_in_pixels_of_the_frame_whatever_their_shape(
    detector: FaceDetector, frame: np.ndarray, width: int, height: int, pixel_aspect: float
) -> None:
    wide = detector.detect(frame)
    found = detector.detect(resized(frame, width, height), pixel_aspect)
    size = np.array([width / 640, height / 360])
    assert by_place(found) / np.tile(size, 2) == pytest.approx(by_place(wide), abs=12)
    order, wide_order = np.argsort(found.boxes[:, 0]), np.argsort(wide.boxes[:, 0])
    assert found.landmarks[order] / size == pytest.approx(wide.landmarks[wide_order], abs=8)


def test_a_higher_score_may_be_asked_for(frame: np.ndarray) -> None:
    detector = FaceDetector(min_face=0.2, min_score=0.0)
    every = detector.detect(frame).scores
    detector.min_score = float(np.sort(every)[-1])
    assert len(every) >= 2
    assert detector.detect(frame).scores.tolist() == [every.max()]


def test_faces_much_smaller_than_asked_for_are_not_found(frame: np.ndarray) -> None:
    small = np.full((360, 640, 3), 90, np.uint8)
    small[130:220, 240:400] = resized(frame, 160, 90)
    assert len(FaceDetector(min_face=0.05, min_score=0.9).detect(small).scores) == 2
    assert_empty(FaceDetector(min_face=0.5, min_score=0.9).detect(small))


def test_a_face_that_leaves_the_frame_may_have_a_box_beyond_it(
    detector: FaceDetector, frame: np.ndarray
) -> None:
    found = by_place(detector.detect(np.ascontiguousarray(frame[:, 115:])))
    assert len(found) == 2
    assert found[HOPPER, 0] < 0
    assert found[COLLINS, 2] < 525


def test_a_landscape_without_people_has_no_faces(detector: FaceDetector) -> None:
    rows, columns = np.indices((360, 640))
    hills = 120 + 60 * np.sin(columns / 70) + 40 * np.cos(rows / 40 + columns / 110)
    image = np.stack([hills * 0.7, hills, np.where(rows < 120, 220, hills * 0.5)], axis=2)
    assert_empty(detector.detect(np.clip(image, 0, 255).astype(np.uint8)))
