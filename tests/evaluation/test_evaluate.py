"""Checkpoints tried on labelled data: answered as analysis answers, looked at in several ways, together."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fer_batch.errors import CheckpointError, ConfigError, InputError
from fer_batch.evaluation.evaluate import (
    averaged,
    checkpoint_names,
    evaluate,
    matched,
    mean_of,
    predict,
    restricted,
)
from fer_batch.model.recognize import Recognizer
from fer_batch.schema import EMOTIONS
from tests.evaluation.faces import clips, fer2013, folder, images, tiny


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, of random weights."""
    return tiny(tmp_path_factory.mktemp("tiny") / "one.safetensors", "happy", "sad", "fear")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return [folder(tmp_path_factory.mktemp("data"), *["happy", "sad", "fear", "happy"] * 10)]


def test_without_clips_there_are_no_answers(recognizer: Recognizer) -> None:
    assert predict(recognizer, clips()).shape == (0, 7)


def test_a_still_is_a_window_of_one(recognizer: Recognizer) -> None:
    stills = clips(1, 1, 1)
    each = np.arange(3)
    expected = recognizer.predict_tracks(stills.frames, each, np.zeros(3), np.ones(3, bool))
    assert np.array_equal(predict(recognizer, stills), expected)


def test_a_clip_is_answered_at_its_last_frame_in_the_light_of_those_before(recognizer: Recognizer) -> None:
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


def test_the_packaged_checkpoint_is_evaluated_by_default(tmp_path: Path, recognizer: Recognizer) -> None:
    data = [fer2013(tmp_path / "f.parquet", PrivateTest=9)]
    loaded = []
    examples, (answers,) = evaluate(data, on_loaded=loaded.append)
    figures = answers.figures
    assert loaded == [examples]
    assert figures["model_id"] == recognizer.card.model_id
    assert (figures["split"], figures["n"], figures["flip"]) == ("test", 9, True)
    assert figures["temperature"] == recognizer.card.temperature
    assert figures["data"] == [{"name": "fer2013", "path": data[0][1], "n": 9, "left_out": {}}]
    plain = evaluate(data, averaging=["none"])[1][0].figures
    assert plain["flip"] is False
    assert plain["nll"] != figures["nll"]


def test_the_packaged_model_on_public_test(shared: Path, tmp_path: Path) -> None:
    held_out = pq.read_table(shared / "data" / "fer2013.parquet", filters=[("usage", "==", "PublicTest")])
    pq.write_table(held_out, tmp_path / "public_test.parquet")
    figures = evaluate([("fer2013", str(tmp_path / "public_test.parquet"))])[1][0].figures
    assert figures["n"] == 3589
    assert figures["accuracy"] >= 0.67
    assert figures["macro_f1"] >= 0.64
    assert figures["ece_debiased"] < 0.03


def test_without_clips_there_is_nothing_to_average(recognizer: Recognizer) -> None:
    assert averaged(recognizer, clips(), "ten-crop").shape == (0, 7)


def test_ten_crops_of_a_blank_face_say_what_the_face_says(checkpoint: Path) -> None:
    plain, some = Recognizer(checkpoint, flip=False), clips(1, 2, 1)
    some.frames[:] = 77
    assert np.array_equal(averaged(plain, some, "ten-crop"), predict(plain, some))


def test_ten_crops_see_what_the_crop_alone_does_not(checkpoint: Path) -> None:
    plain, some = Recognizer(checkpoint, flip=False), clips(1, 3, 1)
    ten = averaged(plain, some, "ten-crop")
    assert ten.sum(axis=1) == pytest.approx(1)
    assert np.abs(ten - predict(plain, some)).max() > 0.01
    some.frames[:] = some.frames[:, :, ::-1].copy()
    assert averaged(plain, some, "ten-crop") == pytest.approx(ten, abs=0.005)


def test_answers_do_not_depend_on_how_many_are_read_at_once(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, some = Recognizer(checkpoint), clips(2, 1, 3, 1, 1)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("fer_batch.evaluation.evaluate.AT_ONCE", 2)
    parts = averaged(recognizer, some, "flip", lambda done, count: told.append((done, count)))
    assert np.array_equal(parts, predict(recognizer, some))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_probabilities_of_some_classes_are_made_to_sum_to_one() -> None:
    probs = np.array([[0.2, 0.5, 0.3], [0, 1, 0]], np.float32)
    assert restricted(probs, [0, 2]) == pytest.approx(np.array([[0.4, 0.6], [0.5, 0.5]]))
    assert restricted(probs, [0, 1, 2]) is probs
    assert restricted(probs[:0], [1, 2]).shape == (0, 2)


def test_classes_are_found_by_any_of_their_names() -> None:
    assert matched([], ["sad"]).tolist() == []
    assert matched(["Sadness", "happy"], ["happiness", "fear", "sad"]).tolist() == [2, 0]


def test_the_mean_of_equals_is_exact() -> None:
    probs = images(3)[:, 0].astype(np.float32) / np.float32(255)
    assert np.array_equal(mean_of([probs] * 10), probs)


def test_names_of_checkpoints_are_short_and_different(tmp_path: Path, checkpoint: Path) -> None:
    run = tiny(tmp_path / "first run" / "model.safetensors", "a", "b")
    taken = tiny(tmp_path / "ensemble.safetensors", "a", "b")
    assert checkpoint_names([]) == []
    assert checkpoint_names([None, run, run.parent, checkpoint, taken]) == [
        "default", "first run", "first run-2", "one", "ensemble-2",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="nowhere"):
        checkpoint_names([None, tmp_path / "nowhere"])


def test_an_ensemble_of_one_model_twice_is_the_model(checkpoint: Path, data: list[tuple[str, str]]) -> None:
    ways = ["none", "flip"]
    _, answers = evaluate(data, checkpoints=[checkpoint, checkpoint], averaging=ways, ensemble=True)
    rows = [(one.checkpoint, one.averaging) for one in answers]
    assert rows == [(name, way) for name in ("one", "one-2", "ensemble") for way in ways]
    for alone, together in zip(answers[:2], answers[4:], strict=True):
        assert np.array_equal(alone.probs, together.probs)
        assert alone.figures["nll"] == together.figures["nll"]
    assert not np.array_equal(answers[0].probs, answers[1].probs)
    assert answers[4].figures["members"] == [answers[0].figures["model_id"]] * 2


def test_members_of_an_ensemble_are_matched_by_the_names_of_their_classes(
    tmp_path: Path, checkpoint: Path, data: list[tuple[str, str]]
) -> None:
    other = tiny(tmp_path / "other.safetensors", "Fear", "Happiness", "Sadness", seed=1)
    _, (first, second, both) = evaluate(data, checkpoints=[checkpoint, other], ensemble=True)
    assert second.figures["classes"] == ["Fear", "Happiness", "Sadness"]
    assert both.figures["classes"] == ["happy", "sad", "fear"]
    assert both.probs == pytest.approx((first.probs + second.probs[:, [1, 2, 0]]) / 2)
    assert second.labels.tolist() == [[1, 2, 0][label] for label in first.labels]
    alone = evaluate(data, checkpoints=[other])[1][0]
    assert alone.figures == second.figures


@pytest.mark.parametrize(
    ("classes", "error", "said"),
    [
        (None, ConfigError, "--ensemble takes two or more checkpoints"),
        (
            ("happy", "sad"),
            ConfigError,
            "one has happy, sad, fear, other has happy, sad; give --common-classes",
        ),
        (("happy", "sad", "calm"), ConfigError, "other has happy, sad, calm"),
    ],
)
def test_what_makes_no_ensemble_is_named(
    tmp_path: Path,
    checkpoint: Path,
    data: list[tuple[str, str]],
    classes: tuple[str, ...] | None,
    error: type[Exception],
    said: str,
) -> None:
    others = [tiny(tmp_path / "other.safetensors", *classes)] if classes else []
    with pytest.raises(error, match=said):
        evaluate(data, checkpoints=[checkpoint, *others], ensemble=True)


def test_answers_are_restricted_to_the_classes_in_common(tmp_path: Path, checkpoint: Path) -> None:
    own = [folder(tmp_path / "own", "happy", "bored", "sad", "bored", "sad")]
    with pytest.raises(InputError, match="bored"):
        evaluate(own, checkpoints=[checkpoint])
    examples, (answers,) = evaluate(own, checkpoints=[checkpoint], common_classes=True)
    figures = answers.figures
    assert (figures["n"], figures["classes"]) == (3, ["happy", "sad"])
    assert (figures["left_out"], figures["without_answer"]) == ({"bored": 2}, ["fear"])
    whole = predict(Recognizer(checkpoint), examples.parts[0])
    assert answers.probs == pytest.approx(whole[:, :2] / whole[:, :2].sum(axis=1, keepdims=True))
    assert [figures["classes"][label] for label in answers.labels] == ["happy", "sad", "sad"]


def test_checkpoints_of_different_classes_are_restricted_to_what_all_have(
    tmp_path: Path, checkpoint: Path, data: list[tuple[str, str]]
) -> None:
    other = tiny(tmp_path / "other.safetensors", "sad", "calm", "happy")
    with pytest.raises(InputError, match="one of several, lacks: fear"):
        evaluate(data, checkpoints=[checkpoint, other])
    _, answers = evaluate(data, checkpoints=[checkpoint, other], ensemble=True, common_classes=True)
    assert [one.figures["classes"] for one in answers] == [
        ["happy", "sad"],
        ["sad", "happy"],
        ["happy", "sad"],
    ]
    assert [one.figures["n"] for one in answers] == [30] * 3
    assert [one.figures["without_answer"] for one in answers] == [["fear"], ["calm"], []]
    assert all(one.probs.sum(axis=1) == pytest.approx(1) for one in answers)


def test_a_model_may_have_more_classes_than_the_data(tmp_path: Path, checkpoint: Path) -> None:
    own = [folder(tmp_path / "own", "happy", "sad", "sad")]
    wide = tiny(tmp_path / "wide.safetensors", *EMOTIONS)
    _, (narrow, other) = evaluate(own, checkpoints=[checkpoint, wide])
    assert narrow.probs.shape == (3, 3)
    assert other.probs.shape == (3, 7)
    assert [EMOTIONS[label] for label in other.labels] == ["happy", "sad", "sad"]
