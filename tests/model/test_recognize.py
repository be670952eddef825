"""Predictions for images and for tracked faces."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fer_batch.data.datasets import load_dataset
from fer_batch.model.recognize import BATCH_SIZE, Recognizer
from fer_batch.model.weights import DEFAULT_CHECKPOINT
from fer_batch.schema import EMOTIONS

FACES = 80
"""More than a batch."""


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(device="cpu", flip=False)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FACES, 48, 48), np.uint8)


@pytest.fixture(scope="module")
def tracks() -> np.ndarray:
    """Five tracks of 1 to 33 faces, in random order."""
    return np.random.default_rng(1).permutation(np.repeat([0, 3, 4, 7, 9], [1, 4, 15, 27, 33]))


@pytest.fixture(scope="module")
def times() -> np.ndarray:
    """Seconds; some have gaps, some are closer than the slots of a window."""
    return np.cumsum(np.random.default_rng(2).choice([0.04, 0.2, 0.4, 3.0], FACES, p=[0.4, 0.4, 0.1, 0.1]))


@pytest.fixture(scope="module")
def probs(recognizer: Recognizer, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray) -> np.ndarray:
    return recognizer.predict_tracks(crops, tracks, times, np.ones(FACES, bool))


@pytest.mark.parametrize("flip", [False, True])
def test_no_faces_give_no_predictions(flip: bool) -> None:
    none = np.zeros(0)
    recognizer = Recognizer(device="cpu", flip=flip)
    probs = recognizer.predict_tracks(
        np.zeros((0, 48, 48), np.uint8), none.astype(np.int64), none, none.astype(bool)
    )
    assert probs.shape == (0, len(EMOTIONS))
    assert probs.dtype == np.float32
    assert recognizer.encode(np.zeros((0, 48, 48), np.uint8)).shape == (0, recognizer.encoder.width)


def test_probabilities_sum_to_1(probs: np.ndarray) -> None:
    assert BATCH_SIZE["cpu"] < FACES
    assert probs.shape == (FACES, len(EMOTIONS))
    assert probs.dtype == np.float32
    assert (probs >= 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(probs, axis=0)) == FACES


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_faces_that_are_not_selected_have_rows_of_nan(
    recognizer: Recognizer,
    crops: np.ndarray,
    tracks: np.ndarray,
    times: np.ndarray,
    probs: np.ndarray,
    share: float,
) -> None:
    selected = np.random.default_rng(3).random(FACES) < share
    some = recognizer.predict_tracks(crops, tracks, times, selected)
    assert np.isnan(some[~selected]).all()
    assert np.array_equal(some[selected], probs[selected])


@pytest.mark.parametrize("seed", range(3))
def test_order_of_faces_does_not_matter(
    recognizer: Recognizer,
    crops: np.ndarray,
    tracks: np.ndarray,
    times: np.ndarray,
    probs: np.ndarray,
    seed: int,
) -> None:
    order = np.random.default_rng(seed).permutation(FACES)
    again = recognizer.predict_tracks(crops[order], tracks[order], times[order], np.ones(FACES, bool))
    assert np.array_equal(again, probs[order])


def test_track_does_not_depend_on_other_tracks_in_the_call(
    recognizer: Recognizer, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, probs: np.ndarray
) -> None:
    unequal = []
    for track in np.unique(tracks):
        mine = tracks == track
        alone = recognizer.predict_tracks(crops[mine], tracks[mine], times[mine], np.ones(mine.sum(), bool))
        if not np.array_equal(alone, probs[mine]):
            unequal.append((int(track), float(np.abs(alone - probs[mine]).max())))
    assert not unequal


def test_face_does_not_depend_on_the_selected_faces(
    recognizer: Recognizer, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, probs: np.ndarray
) -> None:
    unequal = []
    for face in range(0, FACES, 6):
        selected = np.arange(FACES) == face
        if not np.array_equal(recognizer.predict_tracks(crops, tracks, times, selected)[face], probs[face]):
            unequal.append(face)
    assert not unequal


def test_embedding_does_not_depend_on_its_batch(recognizer: Recognizer, crops: np.ndarray) -> None:
    together = recognizer.encode(crops)
    for first, last in ((0, 1), (5, 6), (40, 80), (17, 49)):
        assert torch.equal(recognizer.encode(crops[first:last]), together[first:last])


def test_content_of_other_tracks_does_not_matter(
    recognizer: Recognizer, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, probs: np.ndarray
) -> None:
    mine = tracks == 9
    changed = np.where(mine[:, None, None], crops, 255 - crops)
    again = recognizer.predict_tracks(changed, tracks, times, np.ones(FACES, bool))
    assert np.array_equal(again[mine], probs[mine])
    assert (again[~mine] != probs[~mine]).any(axis=1).all()


@pytest.fixture(scope="module")
def flipping() -> Recognizer:
    return Recognizer(device="cpu", flip=True)


def test_flip_averages_the_logits_of_a_crop_and_its_mirror_image(
    crops: np.ndarray, times: np.ndarray
) -> None:
    every, alone = np.ones(FACES, bool), np.arange(FACES)
    recognizer, flipping = Recognizer(device="cpu", flip=False), Recognizer(device="cpu", flip=True)
    for one in (recognizer, flipping):
        one.reader.network.context_head.weight.data.zero_()
        one.reader.network.context_head.bias.data.zero_()
    flipped = flipping.predict_tracks(crops, alone, times, every)
    views = [recognizer.predict_tracks(seen, alone, times, every) for seen in (crops, crops[:, :, ::-1])]
    # the softmax of mean logits is the normalized geometric mean of the probabilities
    mean = np.sqrt(views[0].astype(np.float64) * views[1])
    np.testing.assert_allclose(flipped, mean / mean.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.abs(flipped - views[0]).max() > 1e-3


def test_mirrored_crops_have_equal_predictions_with_flip(
    flipping: Recognizer, crops: np.ndarray, tracks: np.ndarray, times: np.ndarray
) -> None:
    every = np.ones(FACES, bool)
    probs = flipping.predict_tracks(crops, tracks, times, every)
    assert np.array_equal(flipping.predict_tracks(crops[:, :, ::-1], tracks, times, every), probs)


@pytest.mark.parametrize(("flip", "temperature"), [(True, 1.0), (False, 1.7), (True, 1.7)])
def test_flip_and_temperature_keep_tracks_independent(
    crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, flip: bool, temperature: float
) -> None:
    recognizer = Recognizer(device="cpu", flip=flip)
    recognizer.card = dataclasses.replace(recognizer.card, temperature=temperature)
    probs = recognizer.predict_tracks(crops, tracks, times, np.ones(FACES, bool))
    for track in np.unique(tracks):
        mine = tracks == track
        alone = recognizer.predict_tracks(crops[mine], tracks[mine], times[mine], np.ones(mine.sum(), bool))
        assert np.array_equal(alone, probs[mine])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_of_the_card_divides_the_logits(
    tmp_path: Path,
    crops: np.ndarray,
    times: np.ndarray,
    temperature: float,
) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(DEFAULT_CHECKPOINT, path)
    card = json.loads(DEFAULT_CHECKPOINT.with_suffix(".json").read_text())
    card["temperature"] = temperature * card.get("temperature", 1.0)
    path.with_suffix(".json").write_text(json.dumps(card))
    alone, selected = np.arange(FACES), np.ones(FACES, bool)  # windows of one frame
    plain = Recognizer(device="cpu").predict_tracks(crops, alone, times, selected)
    tempered = Recognizer(path, device="cpu").predict_tracks(crops, alone, times, selected)
    expected = plain.astype(np.float64) ** (1 / temperature)
    np.testing.assert_allclose(tempered, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    assert np.array_equal(tempered.argmax(axis=1), plain.argmax(axis=1))


def test_float32_inference_equals_the_trained_model(
    monkeypatch: pytest.MonkeyPatch, crops: np.ndarray
) -> None:
    monkeypatch.setattr("fer_batch.model.recognize.choose_dtype", lambda device: torch.float32)
    recognizer = Recognizer(device="cpu", flip=False)
    model, card = recognizer.reader.network, recognizer.card
    images = (torch.from_numpy(crops)[:, None] / 255 - card.mean) / card.std
    lengths = torch.tensor([1, 2, 9, 16, 17])
    with torch.inference_mode():
        embeddings = model.encode(images)
        torch.testing.assert_close(recognizer.encode(crops), embeddings, atol=1e-4, rtol=1e-4)
        windows = embeddings[: 5 * 16].view(5, 16, -1)[:, torch.arange(17) % 16]
        logits = recognizer.reader(windows, lengths)
        expected = model.smooth_log_probs(model.classify(windows, lengths) / card.temperature, lengths)
    for mine, its, length in zip(logits, expected, lengths, strict=True):
        torch.testing.assert_close(mine[:length], its[:length], atol=1e-4, rtol=1e-4)


def test_timer_has_the_time_of_both_stages(
    crops: np.ndarray, tracks: np.ndarray, times: np.ndarray, recognizer: Recognizer
) -> None:
    before = dict(recognizer.timer.cpu_s)
    recognizer.predict_tracks(crops, tracks, times, np.ones(FACES, bool))
    assert recognizer.timer.cpu_s.keys() == {"encode", "window"}
    assert all(seconds > before.get(stage, 0) for stage, seconds in recognizer.timer.cpu_s.items())


def test_read_only_crops_are_accepted(recognizer: Recognizer, crops: np.ndarray) -> None:
    frozen = np.frombuffer(crops[:2].tobytes(), np.uint8).reshape(-1, 48, 48)
    assert torch.equal(recognizer.encode(frozen), recognizer.encode(crops[:2]))


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
    probs = recognizer.predict_tracks(stills.frames, np.arange(count), np.zeros(count), np.ones(count, bool))
    assert np.mean(probs.argmax(axis=1) == stills.labels) >= 0.64
