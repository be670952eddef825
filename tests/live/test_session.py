"""Live sessions: the faces of one frame after the other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fer_batch
from fer_batch.errors import InputError
from fer_batch.live.session import LiveSession
from fer_batch.vision.iou import compute_iou
from tests.conftest import write_video

BLACK = np.zeros((360, 320, 3), np.uint8)
NewSession = Callable[[], LiveSession]


def test_frames_without_faces(new_session: NewSession) -> None:
    session = new_session()
    assert [session.analyze(BLACK, number / 10) for number in range(3)] == [[], [], []]


def test_one_face(new_session: NewSession, one_face: list[np.ndarray], live: LiveSession) -> None:
    (face,) = new_session().analyze(one_face[0], 0.0)
    (detected,) = live.detector.detect(one_face[0])
    box = np.array([face.box]) * np.array([320, 360, 320, 360])
    assert compute_iou(box, np.array([detected.box]))[0, 0] > 0.95
    assert (face.track, face.score) == (0, pytest.approx(detected.score, abs=0.01))
    assert sum(face.prediction.probabilities.values()) == pytest.approx(1, abs=1e-3)
    (alone,) = live.recognizer.predict_faces(one_face[0], [detected])
    assert face.prediction.probabilities == pytest.approx(alone.probabilities, abs=0.05)
    assert json.loads(json.dumps(face.to_dict())) == face.to_dict()


def test_last_prediction_is_that_of_the_archive(
    new_session: NewSession, one_face: list[np.ndarray], tmp_path: Path
) -> None:
    """At the end of a video, neither a live stream nor an archive has frames after the current one."""
    frames = one_face[45:121:5]
    write_video(tmp_path / "talk.mp4", frames, fps=5)
    rows = fer_batch.analyze_video(tmp_path / "talk.mp4")
    session = new_session()
    for frame in fer_batch.read_frames(tmp_path / "talk.mp4", [number / 5 for number in range(len(frames))]):
        faces = session.analyze(frame, frame.time_s)
    last = rows.iloc[-1]
    (face,) = faces
    assert set(rows["track_id"]) == {face.track} == {0}
    box = last[["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy(np.float64)
    assert compute_iou(np.array([face.box]), box[None])[0, 0] > 0.75
    wanted = {name: last[f"p_{name}"] for name in face.prediction.probabilities}
    assert face.prediction.probabilities == pytest.approx(wanted, abs=0.04)
    alone = new_session().analyze(frames[-1], 0.0)[0].prediction.probabilities
    assert max(abs(alone[name] - wanted[name]) for name in wanted) > 0.06  # the window matters


def test_face_keeps_its_track_and_is_found_when_it_comes(
    new_session: NewSession, one_face: list[np.ndarray]
) -> None:
    session = new_session()
    stream = [BLACK] * 3 + one_face[:40:2] + [BLACK] * 3
    tracks = [[face.track for face in session.analyze(frame, n / 12)] for n, frame in enumerate(stream)]
    assert tracks == [[]] * 3 + [[0]] * 20 + [[]] * 3


def test_memory_of_a_session_is_bounded(new_session: NewSession, one_face: list[np.ndarray]) -> None:
    session = new_session()
    card = session.recognizer.card
    for number in range(60):
        session.analyze(one_face[0], number * card.half_window_s / 10)
    assert [len(rows) for rows in session._windows.values()] == [pytest.approx(12, abs=4)]
    session.analyze(BLACK, 1000.0)
    assert session._windows == {}


@pytest.mark.parametrize("time_s", [1.0, 0.5, float("nan"), float("inf")])
def test_time_must_increase(time_s: float, new_session: NewSession) -> None:
    session = new_session()
    session.analyze(BLACK, 1.0)
    with pytest.raises(InputError, match="time_s must be above"):
        session.analyze(BLACK, time_s)


@pytest.mark.parametrize(
    "image", [b"", b"no image", np.zeros((2, 2), np.float32), np.zeros((2, 100, 3), np.uint8)]
)
def test_unusable_images(image: bytes | np.ndarray, new_session: NewSession) -> None:
    session = new_session()
    with pytest.raises(InputError):
        session.analyze(image, 0.0)
    assert session.analyze(BLACK, 0.0) == []


def test_size_of_the_frames_may_change(new_session: NewSession, sample_frames: list[np.ndarray]) -> None:
    session = new_session()
    counts = [
        len(session.analyze(frame, float(number)))
        for number, frame in enumerate((sample_frames[0], sample_frames[0][:, :320], sample_frames[0]))
    ]
    assert counts == [2, 1, 2]
