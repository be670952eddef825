"""Predictions for images and face crops, with the faces of the sample video."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.errors import InputError
from fer_batch.model.recognize import Prediction, Recognizer
from fer_batch.schema import EMOTIONS
from fer_batch.video.planes import Picture
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import Face


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(device="cpu")


@pytest.fixture(scope="module")
def faces(sample_frames: list[np.ndarray]) -> list[Face]:
    return FaceDetector(min_face=0.2).detect(sample_frames[0])


@pytest.fixture(scope="module")
def crops(sample_frames: list[np.ndarray], faces: list[Face], recognizer: Recognizer) -> np.ndarray:
    boxes = np.array([face.box for face in faces])
    return crop_faces(Picture.from_rgb(sample_frames[0]), boxes, recognizer.card.crop_scale)


def test_predict_accepts_one_crop_and_lists(recognizer: Recognizer, crops: np.ndarray) -> None:
    assert repr(recognizer).endswith(": angry, disgust, fear, happy, neutral, sad, surprise>")
    both = recognizer.predict(list(crops))
    assert [recognizer.predict(crop) for crop in crops] == both
    assert recognizer.predict([Image.fromarray(crop) for crop in crops]) == both
    assert recognizer.predict([]) == []


def test_predict_equals_predict_tracks(recognizer: Recognizer, crops: np.ndarray) -> None:
    count = len(crops)
    probs = recognizer.predict_tracks(crops, np.arange(count), np.zeros(count), np.ones(count, bool))
    expected = [Prediction(dict(zip(EMOTIONS, row, strict=True))) for row in probs.tolist()]
    assert recognizer.predict(list(crops)) == expected


def test_predict_faces_crops_the_faces_of_images(
    recognizer: Recognizer,
    sample_frames: list[np.ndarray],
    faces: list[Face],
    crops: np.ndarray,
    tmp_path: Path,
) -> None:
    path = tmp_path / "frame.png"
    Image.fromarray(sample_frames[0]).save(path)
    expected = recognizer.predict(list(crops))
    assert len(expected) == 2
    assert recognizer.predict_faces(path, faces) == expected
    assert recognizer.predict_faces([path, sample_frames[0], path], [faces[:1], [], faces]) == [
        expected[:1],
        [],
        expected,
    ]


def test_large_colour_crop_is_scaled_to_grey(recognizer: Recognizer, crops: np.ndarray) -> None:
    large = Image.fromarray(crops[0]).resize((96, 96), Image.Resampling.NEAREST).convert("RGB")
    expected, scaled = recognizer.predict(crops[0]), recognizer.predict(large)
    assert scaled.emotion == expected.emotion
    assert scaled.confidence == pytest.approx(expected.confidence, abs=0.2)


def test_prediction_has_emotion_confidence_dict_and_repr() -> None:
    prediction = Prediction({"sad": 0.15, "happy": 0.55, "calm": 0.25, "angry": 0.05})
    assert (prediction.emotion, prediction.confidence) == ("happy", 0.55)
    assert repr(prediction) == "Prediction(happy 0.55, calm 0.25, sad 0.15)"
    assert prediction.to_dict() == {
        "emotion": "happy",
        "confidence": 0.55,
        "probabilities": {"sad": 0.15, "happy": 0.55, "calm": 0.25, "angry": 0.05},
    }


def test_unusable_images_raise_input_error(recognizer: Recognizer, crops: np.ndarray) -> None:
    with pytest.raises(InputError, match="pass several images as a list"):
        recognizer.predict(crops)
    with pytest.raises(InputError, match=r"Cannot read missing\.png"):
        recognizer.predict_faces("missing.png", [])
