"""Faces of pictures and of single frames of videos, with their windows."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fer_batch.evaluation.explain.faces import (
    ANALYZE_CONFIG,
    find_picture_faces,
    find_video_faces,
    is_picture,
    list_files,
)
from fer_batch.model.card import Card
from fer_batch.vision.detect import FaceDetector
from tests.conftest import write_video

CARD = Card(classes=("a", "b"), architecture={}, window_length=5)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(ANALYZE_CONFIG.min_face, ANALYZE_CONFIG.min_score)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> Path:
    """Return a video of 1.6 s with two faces."""
    return write_video(tmp_path_factory.mktemp("find") / "two.mp4", sample_frames[:40])


def test_folder_lists_its_pictures_and_videos(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    for name in ("b/deep.JPG", "a.png", "talk.mp4", "notes.txt", ".hidden/c.png", ".d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    given = [folder, tmp_path / "empty", tmp_path / "none.png", folder / "notes.txt"]
    assert list(list_files(given)) == [
        (folder / "a.png", None),
        (folder / "b" / "deep.JPG", None),
        (folder / "talk.mp4", None),
        (tmp_path / "empty", "holds no pictures and no videos"),
        (tmp_path / "none.png", "does not exist"),
        (folder / "notes.txt", None),
    ]
    assert list(list_files([])) == []
    assert [is_picture(path) for path in (folder / "b" / "deep.JPG", folder / "talk.mp4")] == [True, False]


def test_pictures_and_videos_give_the_same_crops(tmp_path: Path, detector: FaceDetector, video: Path) -> None:
    path = tmp_path / "two.png"
    with av.open(str(video)) as container:
        next(container.decode(video=0)).to_image().save(path)
    result = find_picture_faces(path, detector, CARD.crop_scale)
    assert result.problems == []
    assert [face.crops.shape for face in result.faces] == [(1, 48, 48)] * 2
    assert result.faces[0].box is not None and result.faces[1].box is not None
    assert result.faces[0].box[0] < result.faces[1].box[0]  # from the left
    same = find_video_faces(video, [0.0], detector, CARD)
    for still, moving in zip(result.faces, same.faces, strict=True):
        assert still.moment_s is None and moving.moment_s == 0
        np.testing.assert_allclose(still.box, moving.box, atol=0.02)
    still, moving = result.faces[1], same.faces[1]  # the box of the other one is some lines higher in colour
    assert np.abs(still.crops[0].astype(int) - moving.crops[moving.centre]).mean() < 6


@pytest.mark.parametrize(
    ("size", "whole", "taken"),
    [((48, 48), False, 1), ((100, 80), False, 1), ((101, 90), False, 0), ((300, 300), True, 1)],
)
def test_small_picture_is_a_face(
    tmp_path: Path, detector: FaceDetector, size: tuple[int, int], whole: bool, taken: int
) -> None:
    path = tmp_path / "grey.png"
    Image.new("RGB", size, (90, 90, 90)).save(path)
    result = find_picture_faces(path, detector, CARD.crop_scale, whole)
    assert len(result.faces) == taken
    assert bool(result.problems) != bool(taken)
    for face in result.faces:
        assert face.box is None
        assert (face.crops == 90).all()
    assert all("--whole" in problem for problem in result.problems)


def test_unusable_pictures_are_refused(tmp_path: Path, detector: FaceDetector) -> None:
    Image.new("L", (4000, 3)).save(tmp_path / "line.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, problem in (("line.png", "has no detectable face"), ("text.png", "is not a readable picture")):
        result = find_picture_faces(tmp_path / name, detector, CARD.crop_scale)
        assert result.faces == []
        assert problem in result.problems[0]


def test_frame_stands_in_its_window(detector: FaceDetector, video: Path) -> None:
    result = find_video_faces(video, [0.83, 0.79, 0.0, 99], detector, CARD)
    assert result.problems == ["has no frame at 99 s: it ends at 1.60 s"]
    assert [face.moment_s for face in result.faces] == pytest.approx([0, 0, 0.8, 0.8])
    first, _, left, right = result.faces
    np.testing.assert_allclose(left.times_s, [0.4, 0.6, 0.8, 1.0, 1.2], atol=1e-6)
    assert (left.centre, first.centre) == (2, 0)
    np.testing.assert_allclose(first.times_s, [0, 0.2, 0.4], atol=1e-6)
    assert left.crops.shape == (5, 48, 48)
    # The frames of a window are more similar to each other than to those of the other face.
    frames, other = left.crops.astype(int), right.crops.astype(int)
    assert np.abs(frames - frames[2]).mean() < np.abs(frames - other[2]).mean() / 2


def test_frames_with_faces_are_chosen_without_times(detector: FaceDetector, video: Path) -> None:
    result = find_video_faces(video, [], detector, CARD)
    assert result.problems == []
    moments = sorted({face.moment_s for face in result.faces if face.moment_s is not None})
    assert len(moments) == 3
    assert len(result.faces) == 6


def test_inputs_without_faces_or_video_are_refused(tmp_path: Path, detector: FaceDetector) -> None:
    black = write_video(tmp_path / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 10)
    assert find_video_faces(black, [], detector, CARD).problems == [
        "has no face at 15 tried times; give a time with --at"
    ]
    assert find_video_faces(black, [0.2], detector, CARD).problems == ["has no face at 0.2 s"]
    text = tmp_path / "notes.txt"
    text.write_text("no video")
    result = find_video_faces(text, [], detector, CARD)
    assert result.faces == []
    assert "is not a picture (.bmp, " in result.problems[0] and "not a readable video" in result.problems[0]
