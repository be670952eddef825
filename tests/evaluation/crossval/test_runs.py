"""Training and prediction of folds, in this process and in parallel on Ray."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.data.clips import Clips
from fer_batch.errors import FerBatchError, InputError, OutputError
from fer_batch.evaluation.crossval.crossval import CK48_CLASSES as CLASSES
from fer_batch.evaluation.crossval.folds import Fold
from fer_batch.evaluation.crossval.runs import MAX_RETRIES, read_fold, run_folds
from fer_batch.evaluation.crossval.train_fold import (
    ONE_MODEL,
    predict_clips,
    predict_last_frames,
    predict_sequences,
    split_training,
)
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.model.registry import build_network
from fer_batch.train_config import TrainConfig
from tests.clips import make_clips
from tests.training.processes import find_children, wait_for

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"filters": [4, 8], "depths": [1, 1]}


def clips_of(lengths: list[int]) -> Clips:
    frames = np.random.default_rng(1).integers(0, 256, (sum(lengths), 48, 48), np.uint8)
    return make_clips(frames, lengths, classes=CLASSES, subjects=["S001"] * len(lengths))


def network() -> CnnBiLstm:
    """Return a small network whose context changes its predictions."""
    torch.manual_seed(0)
    model = CnnBiLstm(len(CLASSES), (4, 8), (1, 1), 2, dropout=0.5).eval()
    torch.nn.init.normal_(model.context_head.weight)
    return model


@pytest.mark.parametrize("predict", [predict_last_frames, predict_sequences])
def test_no_clips_have_no_predictions(predict: object) -> None:
    assert callable(predict)
    assert predict(network(), clips_of([]), CPU).shape == (0, len(CLASSES))


def test_last_frame_is_predicted_alone() -> None:
    model, clips = network(), clips_of([3, 1, 2])
    probs = predict_last_frames(model, clips, CPU)
    assert probs.shape == (3, len(CLASSES))
    assert probs.sum(axis=1) == pytest.approx(1)
    stills = clips_of([1, 1, 1])
    stills.frames[:] = clips.frames[[2, 3, 5]]
    assert predict_last_frames(model, stills, CPU) == pytest.approx(probs, abs=1e-6)


def test_sequence_is_predicted_from_all_of_its_frames_and_no_others() -> None:
    model, clips = network(), clips_of([3, 1, 2])
    probs = predict_sequences(model, clips, CPU)
    assert probs.sum(axis=1) == pytest.approx(1)
    for index in range(3):
        alone = predict_sequences(model, clips.take(np.array([index])), CPU)
        assert alone[0] == pytest.approx(probs[index], abs=1e-6)
    assert np.abs(probs - predict_last_frames(model, clips, CPU)).max() > 0.01
    clips.frames[0] = 255 - clips.frames[0]  # the first frame of the first sequence
    moved = np.abs(predict_sequences(model, clips, CPU) - probs).max(axis=1)
    assert moved[0] > 1e-5
    assert moved[1:] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("cnn4", {"filters": [4, 8], "depths": [1, 1], "dense": [8], "dropouts": [0.5] * 3}),
        ("cnn-bilstm", TINY | {"fold": 2}),
        ("dcnn-bilstm", TINY | {"lstm": [4, 4], "dense": 4}),
    ],
)
def test_each_network_gets_the_input_it_is_made_for(name: str, architecture: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model: Network = build_network(name, {"classes": len(CLASSES), **architecture}).eval()
    clips = clips_of([3, 2])
    probs = predict_clips(model, clips, 3, CPU)
    assert probs.shape == (2, len(CLASSES))
    assert probs.sum(axis=1) == pytest.approx(1, abs=1e-5)
    if not model.lstms:
        assert probs == pytest.approx(
            predict_last_frames(model, clips, CPU), abs=0.01
        )  # here in half precision
    assert predict_clips(model, clips_of([]), 3, CPU).shape == (0, len(CLASSES))


def people_of(count: int, of_each: int = 2) -> Clips:
    """Return stills of `count` people with two classes in turn: bright above, or bright below."""
    clips = clips_of([1] * (count * of_each))
    labels = np.arange(count * of_each) % 2
    for image, label in zip(clips.frames, labels, strict=True):
        image[slice(24, 48) if label else slice(0, 24)] //= 4
    subjects = np.repeat([f"S{i:02d}" for i in range(count)], of_each)
    return Clips(**{**vars(clips), "labels": labels, "subjects": subjects})


def fold_of_first(data: Clips, count: int, seed: int = 0) -> Fold:
    return Fold(by="subject", seed=seed, number=1, folds=2, tested=np.arange(len(data)) < count)


def configured(**fields: Any) -> TrainConfig:
    values = {"network": "cnn4", **TINY, "dropouts": [0.0] * 4, "sequence_epochs": 0, "votes": 0.0}
    return TrainConfig.from_dict(
        {"data": [("folder", "faces")], "epochs": 2, "batch_size": 8, **values, **fields}
    )


@pytest.mark.parametrize(
    ("fields", "held_out"),
    [
        ({}, 0),
        ({"schedule": "plateau", "plateau_patience": 2}, 0),  # it never lowers anything
        ({"schedule": "plateau", "plateau_patience": 1}, 4),
        ({"early_stopping": 5}, 4),
    ],
)
def test_held_out_clips_are_neither_trained_on_nor_in_the_fold(fields: dict[str, Any], held_out: int) -> None:
    data = people_of(24)
    fold = fold_of_first(data, 8)
    training, held = split_training(configured(**fields), data, fold)
    assert held.sum() == held_out
    assert (training.astype(int) + held + fold.tested == 1).all()
    assert not set(data.subjects[held]) & set(data.subjects[~held])


def test_too_few_clips_to_hold_out_are_refused() -> None:
    with pytest.raises(InputError, match="the 6 examples outside fold 1 are too few to hold out a tenth"):
        split_training(configured(early_stopping=1), people_of(4), fold_of_first(people_of(4), 2))


def test_error_in_this_process_keeps_the_folds_before_it(tmp_path: Path) -> None:
    data = people_of(6)
    todo = {tmp_path / "a.json": fold_of_first(data, 2), tmp_path / "none" / "b.json": fold_of_first(data, 4)}
    with pytest.raises(OutputError, match=r"cannot write .*b\.json"):
        list(run_folds(configured(), data, todo, ONE_MODEL, parallel=1))
    result = read_fold(tmp_path / "a.json", todo[tmp_path / "a.json"], ONE_MODEL, len(CLASSES))
    assert (result.trained_on, result.held_out, result.epochs) == (10, 0, 2)


def kill_one() -> None:
    wait_for(lambda: find_children("ray::run_fold"))
    os.kill(find_children("ray::run_fold")[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # on a busy machine Ray alone takes minutes to start
def test_killed_fold_is_retried_and_failed_fold_stops_no_other(tmp_path: Path) -> None:
    data = people_of(12)
    todo = {tmp_path / f"{seed}.json": fold_of_first(data, 4, seed) for seed in range(3)}
    todo[tmp_path / "none" / "b.json"] = fold_of_first(data, 6)
    lines: list[str] = []
    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(FerBatchError, match=r"^1 of 4 folds failed \(b: cannot write .*b\.json.*\)"):
        list(run_folds(configured(epochs=30), data, todo, ONE_MODEL, parallel=2, on_line=lines.append))
    killer.join()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.json", "1.json", "2.json"]
    assert any(line.endswith(f"its process died; retry 1 of {MAX_RETRIES}") for line in lines)
    alone = tmp_path / "alone.json"
    list(run_folds(configured(epochs=30), data, {alone: fold_of_first(data, 4, 1)}, ONE_MODEL, parallel=1))
    fold = fold_of_first(data, 4, 1)
    here, there = (read_fold(file, fold, ONE_MODEL, len(CLASSES)) for file in (alone, tmp_path / "1.json"))
    assert np.array_equal(there.probs["model"], here.probs["model"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fold_that_always_kills_its_process_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "fold.trained")
    data = people_of(6)
    todo = {tmp_path / "0.json": fold_of_first(data, 2)}
    with pytest.raises(FerBatchError, match=f"1 of 1 folds.*its process died {MAX_RETRIES + 1} times"):
        list(run_folds(configured(), data, todo, ONE_MODEL, parallel=2))
