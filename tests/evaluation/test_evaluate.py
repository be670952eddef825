"""Evaluation of checkpoints on labelled data: predictions, averaging, ensembles, common classes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import CheckpointError, ConfigError, InputError
from fer_batch.evaluation.evaluate import (
    average_probs,
    evaluate,
    match_classes,
    name_checkpoints,
    predict,
    predict_averaged,
    restrict_classes,
)
from fer_batch.model.recognize import Recognizer
from fer_batch.schema import EMOTIONS
from tests.evaluation.faces import clips, fer2013, folder, images, tiny


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of three classes with random weights."""
    return tiny(tmp_path_factory.mktemp("tiny") / "one.safetensors", "happy", "sad", "fear")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return [folder(tmp_path_factory.mktemp("data"), *["happy", "sad", "fear", "happy"] * 10)]


def test_no_clips_have_no_predictions(recognizer: Recognizer) -> None:
    assert predict(recognizer, clips()).shape == (0, 7)
    assert predict_averaged(recognizer, clips(), "ten-crop").shape == (0, 7)


def test_clip_is_classified_at_its_last_frame_with_those_before(recognizer: Recognizer) -> None:
    some = clips(3, 1, 4)
    probs = predict(recognizer, some)
    assert probs.shape == (3, 7)
    for number, (first, end) in enumerate([(0, 3), (3, 4), (4, 8)]):
        frames = some.frames[first:end]
        track, times = np.zeros(len(frames), np.int64), np.arange(len(frames)) / 5.0
        alone = recognizer.predict_tracks(frames, track, times, np.ones(len(frames), bool))
        assert np.array_equal(probs[number], alone[-1])
    still = recognizer.predict_tracks(some.frames[2:3], np.zeros(1, np.int64), np.zeros(1), np.ones(1, bool))
    assert not np.array_equal(probs[0], still[0])


def test_packaged_checkpoint_is_evaluated_by_default(tmp_path: Path, recognizer: Recognizer) -> None:
    data = [fer2013(tmp_path / "f.parquet", PrivateTest=9)]
    loaded = []
    evaluation = evaluate(data, on_loaded=loaded.append)
    (result,) = evaluation.results
    assert loaded == [evaluation.examples]
    assert result.model_id == recognizer.card.model_id
    assert result.temperature == recognizer.card.temperature
    assert "9 examples, split test; default/flip: accuracy 0." in repr(evaluation)
    record = evaluation.to_dict()
    assert record["data"] == [{"name": "fer2013", "path": data[0][1], "n": 9, "left_out": {}}]
    (row,) = record["results"]
    assert (record["split"], row["n"], row["flip"]) == ("test", 9, True)
    (plain,) = evaluate(data, averaging=["none"]).results
    assert plain.to_dict()["flip"] is False
    assert plain.metrics.nll != result.metrics.nll


@pytest.mark.slow
def test_packaged_model_keeps_its_accuracy_on_public_test(shared: Path, tmp_path: Path) -> None:
    held_out = pq.read_table(shared / "data" / "fer2013.parquet", filters=[("usage", "==", "PublicTest")])
    pq.write_table(held_out, tmp_path / "public_test.parquet")
    metrics = evaluate([("fer2013", str(tmp_path / "public_test.parquet"))]).results[0].metrics
    assert metrics.n == 3589
    assert metrics.accuracy >= 0.67
    assert metrics.macro_f1 >= 0.64
    assert metrics.ece_debiased < 0.03


def test_ten_crops_of_a_blank_face_predict_what_the_face_predicts(checkpoint: Path) -> None:
    plain, some = Recognizer(checkpoint, flip=False), clips(1, 2, 1)
    some.frames[:] = 77
    assert np.array_equal(predict_averaged(plain, some, "ten-crop"), predict(plain, some))


def test_ten_crops_change_predictions_but_not_for_the_mirror_image(checkpoint: Path) -> None:
    plain, some = Recognizer(checkpoint, flip=False), clips(1, 3, 1)
    ten = predict_averaged(plain, some, "ten-crop")
    assert ten.sum(axis=1) == pytest.approx(1)
    assert np.abs(ten - predict(plain, some)).max() > 0.01
    some.frames[:] = some.frames[:, :, ::-1].copy()
    assert predict_averaged(plain, some, "ten-crop") == pytest.approx(ten, abs=0.005)


def test_predictions_do_not_depend_on_the_block_size(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, some = Recognizer(checkpoint), clips(2, 1, 3, 1, 1)
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr("fer_batch.evaluation.evaluate.CLIPS_PER_STEP", 2)
    parts = predict_averaged(recognizer, some, "flip", lambda done, count: calls.append((done, count)))
    assert np.array_equal(parts, predict(recognizer, some))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_probabilities_of_some_classes_are_scaled_to_sum_one() -> None:
    probs = np.array([[0.2, 0.5, 0.3], [0, 1, 0]], np.float32)
    assert restrict_classes(probs, [0, 2]) == pytest.approx(np.array([[0.4, 0.6], [0.5, 0.5]]))
    assert restrict_classes(probs, [0, 1, 2]) is probs
    assert restrict_classes(probs[:0], [1, 2]).shape == (0, 2)


def test_classes_are_matched_by_synonyms() -> None:
    assert match_classes([], ["sad"]).tolist() == []
    assert match_classes(["Sadness", "happy"], ["happiness", "fear", "sad"]).tolist() == [2, 0]


def test_mean_of_equal_arrays_is_exact() -> None:
    probs = images(3)[:, 0].astype(np.float32) / np.float32(255)
    assert np.array_equal(average_probs([probs] * 10), probs)


def test_checkpoint_names_are_short_and_unique(tmp_path: Path, checkpoint: Path) -> None:
    run = tiny(tmp_path / "first run" / "model.safetensors", "a", "b")
    taken = tiny(tmp_path / "ensemble.safetensors", "a", "b")
    assert name_checkpoints([]) == []
    assert name_checkpoints([None, run, run.parent, checkpoint, taken]) == [
        "default", "first run", "first run-2", "one", "ensemble-2",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="nowhere"):
        name_checkpoints([None, tmp_path / "nowhere"])


def test_ensemble_of_one_model_twice_equals_the_model(checkpoint: Path, data: list[tuple[str, str]]) -> None:
    ways = ["none", "flip"]
    evaluation = evaluate(data, checkpoints=[checkpoint, checkpoint], averaging=ways, ensemble=True)
    results = evaluation.results
    rows = [(result.checkpoint, result.averaging) for result in results]
    assert rows == [(name, way) for name in ("one", "one-2", "ensemble") for way in ways]
    for member, together in zip(results[:2], results[4:], strict=True):
        assert np.array_equal(member.probs, together.probs)
        assert member.metrics.nll == together.metrics.nll
    assert not np.array_equal(results[0].probs, results[1].probs)
    assert results[4].to_dict()["members"] == [results[0].model_id] * 2
    assert evaluation.first_results == results[::2]


def test_ensemble_matches_classes_by_name(
    tmp_path: Path, checkpoint: Path, data: list[tuple[str, str]]
) -> None:
    other = tiny(tmp_path / "other.safetensors", "Fear", "Happiness", "Sadness", seed=1)
    first, second, both = evaluate(data, checkpoints=[checkpoint, other], ensemble=True).results
    assert second.metrics.classes == ("Fear", "Happiness", "Sadness")
    assert both.metrics.classes == ("happy", "sad", "fear")
    assert both.probs == pytest.approx((first.probs + second.probs[:, [1, 2, 0]]) / 2)
    assert second.labels.tolist() == [[1, 2, 0][label] for label in first.labels]
    (alone,) = evaluate(data, checkpoints=[other]).results
    assert alone.to_dict() == second.to_dict()


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (None, ConfigError, "--ensemble needs two or more checkpoints"),
        (
            ("happy", "sad"),
            ConfigError,
            "one has happy, sad, fear, other has happy, sad; give --common-classes",
        ),
        (("happy", "sad", "calm"), ConfigError, "other has happy, sad, calm"),
    ],
)
def test_unsuitable_ensembles_are_refused(
    tmp_path: Path,
    checkpoint: Path,
    data: list[tuple[str, str]],
    classes: tuple[str, ...] | None,
    error: type[Exception],
    message: str,
) -> None:
    others = [tiny(tmp_path / "other.safetensors", *classes)] if classes else []
    with pytest.raises(error, match=message):
        evaluate(data, checkpoints=[checkpoint, *others], ensemble=True)


def test_predictions_are_restricted_to_common_classes(tmp_path: Path, checkpoint: Path) -> None:
    own = [folder(tmp_path / "own", "happy", "bored", "sad", "bored", "sad")]
    with pytest.raises(InputError, match="bored"):
        evaluate(own, checkpoints=[checkpoint])
    evaluation = evaluate(own, checkpoints=[checkpoint], common_classes=True)
    (result,) = evaluation.results
    assert (result.metrics.n, result.metrics.classes) == (3, ("happy", "sad"))
    assert (evaluation.examples.left_out, result.unused_classes) == ({"bored": 2}, ("fear",))
    whole = predict(Recognizer(checkpoint), evaluation.examples.parts[0])
    assert result.probs == pytest.approx(whole[:, :2] / whole[:, :2].sum(axis=1, keepdims=True))
    assert [result.metrics.classes[label] for label in result.labels] == ["happy", "sad", "sad"]


def test_checkpoints_of_different_classes_are_restricted_to_common_ones(
    tmp_path: Path, checkpoint: Path, data: list[tuple[str, str]]
) -> None:
    other = tiny(tmp_path / "other.safetensors", "sad", "calm", "happy")
    with pytest.raises(InputError, match="not all checkpoints have: fear"):
        evaluate(data, checkpoints=[checkpoint, other])
    results = evaluate(data, checkpoints=[checkpoint, other], ensemble=True, common_classes=True).results
    classes = [result.metrics.classes for result in results]
    assert classes == [("happy", "sad"), ("sad", "happy"), ("happy", "sad")]
    assert [result.metrics.n for result in results] == [30] * 3
    assert [result.unused_classes for result in results] == [("fear",), ("calm",), ()]
    assert all(result.probs.sum(axis=1) == pytest.approx(1) for result in results)


def test_model_may_have_more_classes_than_the_data(tmp_path: Path, checkpoint: Path) -> None:
    own = [folder(tmp_path / "own", "happy", "sad", "sad")]
    wide = tiny(tmp_path / "wide.safetensors", *EMOTIONS)
    narrow, other = evaluate(own, checkpoints=[checkpoint, wide]).results
    assert narrow.probs.shape == (3, 3)
    assert other.probs.shape == (3, 7)
    assert [EMOTIONS[label] for label in other.labels] == ["happy", "sad", "sad"]
