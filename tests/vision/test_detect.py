"""Face detection in frames, images and around boxes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.errors import ConfigError, InputError
from fer_batch.video.planes import Picture
from fer_batch.video.random_access import read_frames
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import NO_FACES, Detections, Face, join_detections
from fer_batch.vision.patches import BATCH_PATCHES

HOPPER, COLLINS = 0, 1
BATCH = BATCH_PATCHES["cpu"]


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(min_face=0.2, min_score=0.9)


@pytest.fixture(scope="module")
def frame(sample_frames: list[np.ndarray]) -> np.ndarray:
    return sample_frames[0]


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def search_image(detector: FaceDetector, image: np.ndarray, pixel_aspect: float = 1.0) -> Detections:
    (found,) = detector.search([Picture.from_rgb(image)], pixel_aspect)
    return found.sort_by_x()


def is_equal(one: Detections, other: Detections) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "landmarks")
    )


def test_detector_and_face_have_short_reprs(detector: FaceDetector) -> None:
    assert repr(detector) == "FaceDetector(min_face=0.2, min_score=0.9, device='cpu')"
    face = Face(box=(1.2, 2.0, 10.8, 12.0), score=0.987, landmarks=((0.0, 0.0),) * 5)
    assert repr(face) == "<Face 1,2 to 11,12, score 0.99>"


def assert_empty(found: Detections) -> None:
    assert (found.boxes.shape, found.scores.shape, found.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32


def test_no_faces_have_empty_arrays() -> None:
    assert_empty(NO_FACES)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_blank_frame_has_no_faces(detector: FaceDetector, grey: int) -> None:
    assert_empty(search_image(detector, np.full((360, 640, 3), grey, np.uint8)))


@pytest.mark.parametrize("kind", ["blank", "noise", "face"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 640), (11, 11), (12, 12), (13, 13), (20, 400), (400, 20), (30, 24)]
)
@pytest.mark.parametrize("pixel_aspect", [0.5, 1.0, 2.0])
def test_tiny_and_narrow_frames_are_accepted(
    detector: FaceDetector, frame: np.ndarray, height: int, width: int, kind: str, pixel_aspect: float
) -> None:
    images = {
        "blank": np.zeros((height, width, 3), np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
        "face": resize(frame[60:320, 100:300], width, height),
    }
    found = search_image(detector, images[kind], pixel_aspect)
    assert found.boxes.shape == (len(found.scores), 4)
    assert found.landmarks.shape == (len(found.scores), 5, 2)


@pytest.mark.parametrize("side", [47, 48, 94, 147, 307])
def test_min_face_can_be_the_whole_height(side: int) -> None:
    assert_empty(search_image(FaceDetector(min_face=1.0, min_score=0.9), np.zeros((side, side, 3), np.uint8)))


def test_sample_has_two_faces_with_landmarks_in_place(detector: FaceDetector, frame: np.ndarray) -> None:
    found = search_image(detector, frame)
    assert len(found.scores) == 2
    assert ((found.scores >= 0.9) & (found.scores <= 1)).all()
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert centres[HOPPER] == pytest.approx([165, 208], abs=15)
    assert centres[COLLINS] == pytest.approx([477, 157], abs=15)
    for box, points in zip(found.boxes, found.landmarks, strict=True):
        assert ((points > box[:2]) & (points < box[2:])).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_faces_do_not_depend_on_earlier_frames(
    detector: FaceDetector, sample_frames: list[np.ndarray]
) -> None:
    first = search_image(detector, sample_frames[0])
    search_image(detector, sample_frames[100])
    search_image(detector, np.zeros((90, 160, 3), np.uint8))
    again = search_image(detector, sample_frames[0])
    other = search_image(FaceDetector(min_face=0.2, min_score=0.9), sample_frames[0])
    assert is_equal(again, first)
    assert is_equal(other, first)


@pytest.mark.parametrize(("width", "height"), [(320, 180), (960, 540), (2560, 1440)])
def test_boxes_scale_with_the_frame(
    detector: FaceDetector, frame: np.ndarray, width: int, height: int
) -> None:
    expected = search_image(detector, frame).boxes / [640, 360, 640, 360]
    found = search_image(detector, resize(frame, width, height)).boxes / [width, height, width, height]
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("width", "height", "pixel_aspect"), [(320, 360, 2.0), (640, 180, 0.5), (480, 360, 4 / 3)]
)
def test_boxes_are_in_square_pixels(
    detector: FaceDetector, frame: np.ndarray, width: int, height: int, pixel_aspect: float
) -> None:
    wide = search_image(detector, frame)
    found = search_image(detector, resize(frame, width, height), pixel_aspect)
    size = np.full(2, height / 360)
    assert found.boxes / np.tile(size, 2) == pytest.approx(wide.boxes, abs=12)
    assert found.landmarks / size == pytest.approx(wide.landmarks, abs=8)


def test_min_score_selects_faces(frame: np.ndarray) -> None:
    detector = FaceDetector(min_face=0.2, min_score=0.0)
    every = search_image(detector, frame).scores
    detector.min_score = float(np.sort(every)[-1])
    assert len(every) >= 2
    assert search_image(detector, frame).scores.tolist() == [every.max()]


def test_min_face_excludes_smaller_faces(frame: np.ndarray) -> None:
    small = np.full((360, 640, 3), 90, np.uint8)
    small[130:220, 240:400] = resize(frame, 160, 90)
    assert len(search_image(FaceDetector(min_face=0.05, min_score=0.9), small).scores) == 2
    assert_empty(search_image(FaceDetector(min_face=0.5, min_score=0.9), small))


def test_box_of_a_cut_off_face_extends_beyond_the_frame(detector: FaceDetector, frame: np.ndarray) -> None:
    found = search_image(detector, np.ascontiguousarray(frame[:, 115:])).boxes
    assert len(found) == 2
    assert found[HOPPER, 0] < 0
    assert found[COLLINS, 2] < 525


def test_landscape_has_no_faces(detector: FaceDetector) -> None:
    rows, columns = np.indices((360, 640))
    hills = 120 + 60 * np.sin(columns / 70) + 40 * np.cos(rows / 40 + columns / 110)
    image = np.stack([hills * 0.7, hills, np.where(rows < 120, 220, hills * 0.5)], axis=2)
    assert_empty(search_image(detector, np.clip(image, 0, 255).astype(np.uint8)))


def test_no_pictures_give_no_results(detector: FaceDetector) -> None:
    assert detector.search([]) == detector.refine([], []) == detector.search_near([], []) == []


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_faces_do_not_depend_on_the_batch(
    detector: FaceDetector, sample_frames: list[np.ndarray], count: int
) -> None:
    pictures = [
        Picture.from_rgb(image)
        for image in (*sample_frames[: 20 * count : 20], resize(sample_frames[9], 320, 180))
    ]
    together = detector.search(pictures)
    assert len(together) == count + 1
    for picture, found in zip(pictures, together, strict=True):
        assert is_equal(found, detector.search([picture])[0])
    given = [found.boxes for found in together]
    for number, (refined, near) in enumerate(
        zip(detector.refine(pictures, given), detector.search_near(pictures, given), strict=True)
    ):
        assert is_equal(refined, detector.refine([pictures[number]], [given[number]])[0])
        assert is_equal(near, detector.search_near([pictures[number]], [given[number]])[0])


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1])
def test_refined_boxes_do_not_depend_on_the_batch(
    detector: FaceDetector, frame: np.ndarray, count: int
) -> None:
    picture = Picture.from_rgb(frame)
    boxes = np.array([[40.0, 40, 120, 120]]) + 3 * np.arange(count)[:, None]
    together = detector.refine([picture], [boxes])[0]
    for number in {0, count // 2, count - 1}:
        alone = detector.refine([picture], [boxes[number : number + 1]])[0]
        assert is_equal(alone, together.take(np.array([number])))


def test_refine_corrects_a_shifted_box(detector: FaceDetector, frame: np.ndarray) -> None:
    picture, found = Picture.from_rgb(frame), search_image(detector, frame)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    off = found.boxes + np.tile(0.1 * sides, 2).astype(np.float32)
    (refined,) = detector.refine([picture], [off])
    assert (refined.scores > 0.9).all()
    assert np.abs(refined.boxes - found.boxes).max() < 0.6 * np.abs(off - found.boxes).max()
    assert refined.landmarks == pytest.approx(found.landmarks, abs=5)


def test_refine_scores_a_box_without_a_face_low(detector: FaceDetector, frame: np.ndarray) -> None:
    face = search_image(detector, frame).boxes[:1]
    (refined,) = detector.refine(
        [Picture.from_rgb(frame)], [np.concatenate([np.float32([[0, 0, 60, 60]]), face])]
    )
    assert refined.scores[0] < 0.5
    assert refined.scores[1] > 0.9


@pytest.mark.parametrize("share", [(0.0, 0.0), (0.8, 0.0), (-0.6, 0.7), (0.0, -0.8)])
@pytest.mark.parametrize("size", [0.75, 1.0, 1.3])
def test_search_near_finds_a_moved_face(
    detector: FaceDetector, frame: np.ndarray, share: tuple[float, float], size: float
) -> None:
    whole = search_image(detector, frame).take(np.array([0]))
    side = float((whole.boxes[0, 2:] - whole.boxes[0, :2]).max())
    centre = (whole.boxes[0, :2] + whole.boxes[0, 2:]) / 2 + side * np.array(share)
    before = np.concatenate([centre - size * side / 2, centre + size * side / 2])[None].astype(np.float32)
    (found,) = detector.search_near([Picture.from_rgb(frame)], [before])
    assert np.abs(found.boxes - whole.boxes).max(axis=1).min() < 0.15 * side


def test_boxes_outside_the_frame_are_accepted(detector: FaceDetector, frame: np.ndarray) -> None:
    far = np.float32([[-500, -500, -400, -400], [0, 0, 2000, 2000], [700, 100, 800, 200], [5, 5, 5, 5]])
    (refined,) = detector.refine([Picture.from_rgb(frame)], [far])
    assert np.isfinite(refined.boxes).all()
    assert np.isfinite(detector.search_near([Picture.from_rgb(frame)], [far])[0].boxes).all()


def test_join_detections_keeps_the_order() -> None:
    assert_empty(join_detections([]))
    one = Detections(
        boxes=np.ones((1, 4), np.float32),
        scores=np.ones(1, np.float32),
        landmarks=np.ones((1, 5, 2), np.float32),
    )
    assert join_detections([NO_FACES, one, one]).scores.tolist() == [1, 1]
    assert_empty(one.take(np.zeros(1, bool)))


# Public API


def test_detect_returns_typed_faces_from_left_to_right(detector: FaceDetector, frame: np.ndarray) -> None:
    hopper, collins = detector.detect(frame)
    assert hopper.box[0] < collins.box[0]
    assert hopper.to_dict() == {
        "box": list(hopper.box),
        "score": hopper.score,
        "landmarks": {
            name: list(point)
            for name, point in zip(
                ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth"), hopper.landmarks, strict=True
            )
        },
    }
    expected = search_image(detector, frame)
    assert np.float32([face.box for face in (hopper, collins)]).tolist() == expected.boxes.tolist()


def test_detect_accepts_paths_bytes_images_arrays_and_lists(
    detector: FaceDetector, frame: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "frame.png"
    Image.fromarray(frame).save(path)
    faces = detector.detect(frame)
    grey = np.asarray(Image.fromarray(frame).convert("L"))
    assert detector.detect(path) == faces
    assert detector.detect([str(path), path.read_bytes(), Image.fromarray(frame)] * 4) == [faces] * 12
    assert [len(found) for found in detector.detect([grey, np.zeros((20, 900, 3), np.uint8)])] == [2, 0]
    assert detector.detect([]) == []


def test_detect_accepts_frames_of_videos(detector: FaceDetector, frame: np.ndarray, sample: Path) -> None:
    found = detector.detect(read_frames(sample, [0.0, 0.2]))
    assert [len(faces) for faces in found] == [2, 2]
    for face, expected in zip(found[0], detector.detect(frame), strict=True):
        assert face.box == pytest.approx(expected.box, abs=3)


def test_detect_applies_the_exif_orientation(
    detector: FaceDetector, frame: np.ndarray, tmp_path: Path
) -> None:
    turned, exif = Image.fromarray(frame).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # turn 90° clockwise to display
    turned.save(tmp_path / "turned.png", exif=exif)
    assert detector.detect(tmp_path / "turned.png") == detector.detect(frame)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("missing.jpg", "Cannot read missing.jpg: "),
        (b"text", "Cannot read the image: "),
        (np.zeros((2, 48, 48), np.uint8), r"got uint8 of shape \(2, 48, 48\); pass several images as a list"),
        (np.zeros((48, 48, 3)), "got float64 of shape"),
    ],
)
def test_unreadable_image_raises_input_error(detector: FaceDetector, image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detector.detect([image])  # type: ignore[list-item]


@pytest.mark.parametrize(("min_face", "min_score"), [(0.0, 0.8), (1.1, 0.8), (0.05, 1.0), (0.05, -0.1)])
def test_threshold_out_of_range_raises_config_error(min_face: float, min_score: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        FaceDetector(min_face, min_score)
