"""Predictions for tracked faces, for images and for crops."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fer_batch.errors import InputError
from fer_batch.model.card import DEFAULT_CHECKPOINT
from fer_batch.model.recognize import Prediction, Recognizer
from fer_batch.schema import EMOTIONS
from fer_batch.video.planes import Picture
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import Face
from tests.datasets import load_dataset
from tests.tracked_faces import COUNT, TrackedFaces, assert_independent, make_faces

FACES = make_faces()
SINGLE_FRAMES = TrackedFaces(FACES.crops, np.arange(COUNT), FACES.times)
"""Every face is a track, so its window has one frame."""


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(device="cpu", flip=False)


@pytest.fixture(scope="module")
def probs(recognizer: Recognizer) -> np.ndarray:
    return FACES.predict(recognizer)


@pytest.mark.parametrize("flip", [False, True])
def test_no_faces_give_no_predictions(flip: bool) -> None:
    none = FACES.take(np.zeros(COUNT, bool))
    recognizer = Recognizer(device="cpu", flip=flip)
    probs = none.predict(recognizer)
    assert probs.shape == (0, len(EMOTIONS))
    assert probs.dtype == np.float32
    assert recognizer.encode(none.crops).shape == (0, recognizer.encoder.width)


def test_probabilities_sum_to_1(probs: np.ndarray) -> None:
    assert probs.shape == (COUNT, len(EMOTIONS))
    assert probs.dtype == np.float32
    assert (probs >= 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(probs, axis=0)) > 0.9 * COUNT  # int8 may not tell nearly equal faces apart


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_faces_that_are_not_selected_have_rows_of_nan(
    recognizer: Recognizer, probs: np.ndarray, share: float
) -> None:
    selected = np.random.default_rng(3).random(COUNT) < share
    some = FACES.predict(recognizer, selected)
    assert np.isnan(some[~selected]).all()
    assert np.array_equal(some[selected], probs[selected])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("temperature", [1.144, pytest.param(1.7, marks=pytest.mark.slow)])
def test_face_does_not_depend_on_other_tracks_selection_and_order(flip: bool, temperature: float) -> None:
    recognizer = Recognizer(device="cpu", flip=flip)
    recognizer.reader.temperature = temperature
    assert_independent(FACES, recognizer)


def test_content_of_other_tracks_does_not_matter(recognizer: Recognizer, probs: np.ndarray) -> None:
    kept = FACES.tracks == 9
    crops = np.where(kept[:, None, None], FACES.crops, 255 - FACES.crops)
    changed = TrackedFaces(crops, FACES.tracks, FACES.times).predict(recognizer)
    assert np.array_equal(changed[kept], probs[kept])
    assert (changed[~kept] != probs[~kept]).any(axis=1).all()


def test_embedding_does_not_depend_on_its_batch(recognizer: Recognizer) -> None:
    together = recognizer.encode(FACES.crops)
    for first, last in ((0, 1), (5, 6), (40, 80), (17, 49)):
        assert torch.equal(recognizer.encode(FACES.crops[first:last]), together[first:last])


def test_flip_averages_the_logits_of_a_crop_and_its_mirror_image() -> None:
    plain, flipping = Recognizer(device="cpu", flip=False), Recognizer(device="cpu", flip=True)
    for recognizer in (plain, flipping):
        recognizer.reader.network.context_head.weight.data.zero_()
        recognizer.reader.network.context_head.bias.data.zero_()
    flipped = SINGLE_FRAMES.predict(flipping)
    mirrored = TrackedFaces(FACES.crops[:, :, ::-1], SINGLE_FRAMES.tracks, FACES.times)
    views = [faces.predict(plain) for faces in (SINGLE_FRAMES, mirrored)]
    # The softmax of mean logits is the normalized geometric mean of the probabilities.
    mean = np.sqrt(views[0].astype(np.float64) * views[1])
    np.testing.assert_allclose(flipped, mean / mean.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.abs(flipped - views[0]).max() > 1e-3


def test_mirrored_crops_have_equal_predictions_with_flip() -> None:
    flipping = Recognizer(device="cpu", flip=True)
    mirrored = TrackedFaces(FACES.crops[:, :, ::-1], FACES.tracks, FACES.times)
    assert np.array_equal(mirrored.predict(flipping), FACES.predict(flipping))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_of_the_card_divides_the_logits(tmp_path: Path, temperature: float) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(DEFAULT_CHECKPOINT, path)
    card = json.loads(DEFAULT_CHECKPOINT.with_suffix(".json").read_text())
    card["temperature"] = temperature * card.get("temperature", 1.0)
    path.with_suffix(".json").write_text(json.dumps(card))
    plain = SINGLE_FRAMES.predict(Recognizer(device="cpu"))
    tempered = SINGLE_FRAMES.predict(Recognizer(path, device="cpu"))
    expected = plain.astype(np.float64) ** (1 / temperature)
    np.testing.assert_allclose(tempered, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.array_equal(tempered.argmax(axis=1), plain.argmax(axis=1))


def test_float32_inference_equals_the_trained_model() -> None:
    recognizer = Recognizer(device="cpu", flip=False, precision="fp32")
    model, card = recognizer.reader.network, recognizer.card
    images = (torch.from_numpy(FACES.crops)[:, None] / 255 - card.mean) / card.std
    lengths = torch.tensor([1, 2, 9, 16, 17])
    with torch.inference_mode():
        embeddings = model.encode(images)
        torch.testing.assert_close(recognizer.encode(FACES.crops), embeddings, atol=1e-4, rtol=1e-4)
        windows = embeddings[: 5 * 16].view(5, 16, -1)[:, torch.arange(17) % 16]
        log_probs = recognizer.reader(windows, lengths)
        logits = model.classify(windows, lengths) / card.temperature
        expected = model.smooth_log_probs(logits, windows, lengths)
    for row, expected_row, length in zip(log_probs, expected, lengths, strict=True):
        torch.testing.assert_close(row[:length], expected_row[:length], atol=1e-4, rtol=1e-4)


def test_timer_has_the_time_of_both_stages(recognizer: Recognizer) -> None:
    before = dict(recognizer.timer.cpu_s)
    FACES.predict(recognizer)
    assert recognizer.timer.cpu_s.keys() == {"encode", "window"}
    assert all(seconds > before.get(stage, 0) for stage, seconds in recognizer.timer.cpu_s.items())


def test_read_only_crops_are_accepted(recognizer: Recognizer) -> None:
    frozen = np.frombuffer(FACES.crops[:2].tobytes(), np.uint8).reshape(-1, 48, 48)
    assert torch.equal(recognizer.encode(frozen), recognizer.encode(FACES.crops[:2]))


@pytest.fixture(scope="module")
def faces(sample_frames: list[np.ndarray]) -> list[Face]:
    return FaceDetector(min_face=0.2).detect(sample_frames[0])


@pytest.fixture(scope="module")
def crops(sample_frames: list[np.ndarray], faces: list[Face], recognizer: Recognizer) -> np.ndarray:
    boxes = np.array([face.box for face in faces])
    return crop_faces(Picture.from_rgb(sample_frames[0]), boxes, recognizer.card.crop_scale)


def test_predict_accepts_one_crop_and_lists(recognizer: Recognizer, crops: np.ndarray) -> None:
    assert repr(recognizer).endswith(": angry, disgust, fear, happy, neutral, sad, surprise>")
    probs = TrackedFaces(crops, np.arange(2), np.zeros(2)).predict(recognizer)
    expected = [Prediction(dict(zip(EMOTIONS, row, strict=True))) for row in probs.tolist()]
    assert recognizer.predict(list(crops)) == expected
    assert [recognizer.predict(crop) for crop in crops] == expected
    assert recognizer.predict([Image.fromarray(crop) for crop in crops]) == expected
    assert recognizer.predict([]) == []


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
    several = recognizer.predict_faces([path, sample_frames[0], path], [faces[:1], [], faces])
    assert several == [expected[:1], [], expected]


def test_large_colour_crop_is_scaled_to_grey(recognizer: Recognizer, crops: np.ndarray) -> None:
    large = Image.fromarray(crops[0]).resize((96, 96), Image.Resampling.NEAREST).convert("RGB")
    expected, scaled = recognizer.predict(crops[0]), recognizer.predict(large)
    assert scaled.emotion == expected.emotion
    assert scaled.confidence == pytest.approx(expected.confidence, abs=0.2)


def test_prediction_has_emotion_confidence_dict_and_repr() -> None:
    prediction = Prediction({"sad": 0.15, "happy": 0.55, "calm": 0.25, "angry": 0.05})
    assert (prediction.emotion, prediction.confidence) == ("happy", 0.55)
    assert repr(prediction) == "Prediction(happy 0.55, calm 0.25, sad 0.15)"
    probabilities = {"sad": 0.15, "happy": 0.55, "calm": 0.25, "angry": 0.05}
    assert prediction.to_dict() == {
        "emotion": "happy", "confidence": 0.55, "probabilities": probabilities
    }  # fmt: skip


def test_unusable_images_raise_input_error(recognizer: Recognizer, crops: np.ndarray) -> None:
    with pytest.raises(InputError, match="pass several images as a list"):
        recognizer.predict(crops)
    with pytest.raises(InputError, match=r"Cannot read missing\.png"):
        recognizer.predict_faces("missing.png", [])


def test_packaged_model_has_its_accuracy_on_public_test(
    shared: Path, tmp_path: Path, recognizer: Recognizer
) -> None:
    held_out = pq.read_table(
        shared / "data" / "fer2013.parquet",
        columns=["image_png", "label_name", "usage"],
        filters=[("usage", "==", "PublicTest")],
    )
    pq.write_table(held_out, tmp_path / "public_test.parquet")
    stills, _ = load_dataset("fer2013", tmp_path / "public_test.parquet", for_training=False)
    count = len(stills)
    assert count == 3589
    probs = TrackedFaces(stills.frames, np.arange(count), np.zeros(count)).predict(recognizer)
    assert np.mean(probs.argmax(axis=1) == stills.labels) >= 0.64
