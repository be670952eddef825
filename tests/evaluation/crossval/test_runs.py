"""A fold's training: what it learns from and looks at, what answers, and folds side by side on Ray."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_batch.config import TrainConfig
from fer_batch.data.clips import Clips
from fer_batch.errors import FerBatchError, InputError, OutputError
from fer_batch.evaluation.crossval.crossval import CLASSES
from fer_batch.evaluation.crossval.folds import Fold
from fer_batch.evaluation.crossval.runs import (
    ALONE,
    RETRIES,
    last_frame_probs,
    read_fold,
    run_folds,
    sequence_probs,
    training_parts,
    whole_probs,
)
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.model.registry import build_network

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"filters": [4, 8], "depths": [1, 1]}


def clips_of(lengths: list[int]) -> Clips:
    random = np.random.default_rng(1)
    count = len(lengths)
    return Clips(
        frames=random.integers(0, 256, (sum(lengths), 48, 48), np.uint8),
        starts=np.cumsum([0, *lengths]).astype(np.int64),
        labels=np.zeros(count, np.int64),
        splits=np.full(count, "train"),
        classes=CLASSES,
        votes=np.zeros((count, len(CLASSES)), np.float32),
        subjects=np.full(count, "S001"),
    )


def network() -> CnnBiLstm:
    """A small one whose context says something."""
    torch.manual_seed(0)
    model = CnnBiLstm(len(CLASSES), (4, 8), (1, 1), 2, dropout=0.5).eval()
    torch.nn.init.normal_(model.context_head.weight)
    return model


@pytest.mark.parametrize("answer", [last_frame_probs, sequence_probs])
def test_no_clips_have_no_answers(answer: object) -> None:
    assert callable(answer)
    assert answer(network(), clips_of([]), CPU).shape == (0, len(CLASSES))


def test_the_last_frame_is_answered_alone() -> None:
    model, clips = network(), clips_of([3, 1, 2])
    probs = last_frame_probs(model, clips, CPU)
    assert probs.shape == (3, len(CLASSES))
    assert probs.sum(axis=1) == pytest.approx(1)
    stills = clips_of([1, 1, 1])
    stills.frames[:] = clips.frames[[2, 3, 5]]
    assert last_frame_probs(model, stills, CPU) == pytest.approx(probs, abs=1e-6)


def test_a_sequence_is_answered_by_all_of_its_frames_whatever_stands_beside_it() -> None:
    model, clips = network(), clips_of([3, 1, 2])
    probs = sequence_probs(model, clips, CPU)
    assert probs.sum(axis=1) == pytest.approx(1)
    for index in range(3):
        alone = sequence_probs(model, clips.take(np.array([index])), CPU)
        assert alone[0] == pytest.approx(probs[index], abs=1e-6)
    assert np.abs(probs - last_frame_probs(model, clips, CPU)).max() > 0.01
    clips.frames[0] = 255 - clips.frames[0]  # the first frame of the first sequence
    moved = np.abs(sequence_probs(model, clips, CPU) - probs).max(axis=1)
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
def test_a_network_is_asked_what_it_is_made_for(name: str, architecture: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model: Network = build_network(name, {"classes": len(CLASSES), **architecture}).eval()
    clips = clips_of([3, 2])
    probs = whole_probs(model, clips, 3, CPU)
    assert probs.shape == (2, len(CLASSES))
    assert probs.sum(axis=1) == pytest.approx(1, abs=1e-5)
    if not model.lstms:
        assert probs == pytest.approx(last_frame_probs(model, clips, CPU), abs=0.01)  # here in half precision
    assert whole_probs(model, clips_of([]), 3, CPU).shape == (0, len(CLASSES))


def people_of(count: int, of_each: int = 2) -> Clips:
    """Stills of `count` people, two classes in turn: bright above, or below."""
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
def test_what_is_looked_at_in_training_is_neither_learned_from_nor_of_the_fold(
    fields: dict[str, Any], held_out: int
) -> None:
    data = people_of(24)
    fold = fold_of_first(data, 8)
    learned_from, held = training_parts(configured(**fields), data, fold)
    assert held.sum() == held_out
    assert (learned_from.astype(int) + held + fold.tested == 1).all()
    assert not set(data.subjects[held]) & set(data.subjects[~held])


def test_too_few_to_hold_some_out_is_said() -> None:
    with pytest.raises(InputError, match="the 6 examples outside fold 1 are too few to hold a tenth"):
        training_parts(configured(early_stopping=1), people_of(4), fold_of_first(people_of(4), 2))


def test_where_an_error_ends_the_run_in_this_process_the_folds_before_it_are_done(tmp_path: Path) -> None:
    data = people_of(6)
    todo = {tmp_path / "a.json": fold_of_first(data, 2), tmp_path / "none" / "b.json": fold_of_first(data, 4)}
    with pytest.raises(OutputError, match=r"b\.json can't be written"):
        list(run_folds(configured(), data, todo, ALONE, parallel=1))
    done = read_fold(tmp_path / "a.json", ALONE, (2, len(CLASSES)))
    assert (done["trained_on"], done["held_out"], done["epochs"]) == (10, 0, 2)


def tasks() -> list[int]:
    """Ids of the processes below this one in which a fold is being done."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::run_fold" in (entry / "cmdline").read_bytes() and os.getpid() in ancestors(entry):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def ancestors(entry: Path) -> list[int]:
    """Ids of the processes above that of a folder of /proc."""
    parents: list[int] = []
    while (parent := int((entry / "stat").read_text().rpartition(")")[2].split()[1])) > 0:
        parents.append(parent)
        entry = entry.with_name(str(parent))
    return parents


def kill_one() -> None:
    deadline = time.monotonic() + 600
    while not (found := tasks()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(found[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # on a busy machine Ray alone takes minutes to start
def test_a_fold_whose_process_dies_is_done_again_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    data = people_of(12)
    todo = {tmp_path / f"{seed}.json": fold_of_first(data, 4, seed) for seed in range(3)}
    todo[tmp_path / "none" / "b.json"] = fold_of_first(data, 6)
    lines: list[str] = []
    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(
        FerBatchError, match=r"^1 of 4 folds could not be done \(b: .*b\.json can't be wri.*\)"
    ):
        list(run_folds(configured(epochs=30), data, todo, ALONE, parallel=2, on_line=lines.append))
    killer.join()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.json", "1.json", "2.json"]
    assert any(line.endswith(f"its process died; begun anew, 1 of {RETRIES} times") for line in lines)
    alone = tmp_path / "alone.json"
    list(run_folds(configured(epochs=30), data, {alone: fold_of_first(data, 4, 1)}, ALONE, parallel=1))
    here, there = (read_fold(file, ALONE, (4, len(CLASSES))) for file in (alone, tmp_path / "1.json"))
    assert there["model"] == here["model"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_fold_that_always_takes_its_process_down_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "file.temporary")  # at its first write
    data = people_of(6)
    todo = {tmp_path / "0.json": fold_of_first(data, 2)}
    with pytest.raises(FerBatchError, match=f"1 of 1 folds.*its process died {RETRIES + 1} times"):
        list(run_folds(configured(), data, todo, ALONE, parallel=2))
