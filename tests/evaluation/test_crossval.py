"""Cross-validation: folds by subject, answers of last frames and of sequences, and the pairs of them."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_batch.config import TrainConfig
from fer_batch.errors import ConfigError, FerBatchError, InputError, OutputError
from fer_batch.evaluation.compare import paired_difference
from fer_batch.evaluation.crossval import CLASSES, RECIPE, crossval
from fer_batch.evaluation.fold_runs import last_frame_probs, sequence_probs
from fer_batch.evaluation.folds import fold_of, read_folds
from fer_batch.evaluation.metrics import measure
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.training.datasets import Clips, load_dataset
from fer_batch.training.loop import learn

CPU = torch.device("cpu")
FOLDS = [["S001", "S002"], ["S003"], ["S004", "S005"], ["S006"]]
"""Of the tiny data below; nobody of the last is in it."""
SEQUENCES = {
    "S001_001": "happy", "S001_002": "sad", "S002_001": "happy", "S003_001": "sad", "S003_002": "contempt",
    "S004_001": "happy", "S005_001": "sad", "S005_002": "happy",
}  # fmt: skip


def write_ck48(path: Path, sequences: dict[str, str]) -> Path:
    """Folders as CK+48's: three frames of each sequence, bright on the left for happy, else on the right."""
    random = np.random.default_rng(0)
    for name, label in sequences.items():
        (path / label).mkdir(parents=True, exist_ok=True)
        for frame in range(3):
            image = random.integers(0, 128, (48, 48), np.uint8)
            image[:, slice(0, 24) if label == "happy" else slice(24, 48)] += 100
            Image.fromarray(image).save(path / label / f"{name}_{frame + 7:08d}.png")
    return path


def config_of(data: Path, **fields: object) -> TrainConfig:
    values = {"epochs": 1, "sequence_epochs": 1, "filters": [4, 8], "depths": [1, 1], "fold": 2, **fields}
    return TrainConfig.from_dict(
        {**RECIPE, "data": [("ck48", str(data))], "classes": list(CLASSES), **values}
    )


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


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folds") / "folds.json"
    path.write_text(json.dumps(FOLDS))
    return path


@pytest.fixture(scope="module")
def ck48(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ck48(tmp_path_factory.mktemp("data") / "ck48", SEQUENCES)


def test_the_frozen_folds_hold_each_of_118_subjects_once() -> None:
    folds = read_folds()
    subjects = [subject for fold in folds for subject in fold]
    assert len(folds) == 10
    assert len(subjects) == len(set(subjects)) == 118
    assert all(subject[0] == "S" and subject[1:].isdigit() and len(subject) == 4 for subject in subjects)
    assert all(10 <= len(fold) <= 13 for fold in folds)


def test_the_frozen_folds_share_out_the_classes(shared: Path) -> None:
    clips, counts = load_dataset(
        "ck48", shared / "data" / "ck48.parquet", classes=CLASSES, for_training=False
    )
    folds = read_folds()
    fold = fold_of(clips.subjects, folds)
    assert not counts
    assert set(clips.subjects.tolist()) == {subject for each in folds for subject in each}
    assert np.bincount(fold).min() >= 30
    table = np.zeros((10, len(CLASSES)), int)
    np.add.at(table, (fold, clips.labels), 1)
    fair = table.sum(axis=0) / 10
    assert (np.abs(table - fair) < 2.2).all()  # in sequences
    assert (table > 0).all()


@pytest.mark.parametrize(
    ("subjects", "expected"), [([], []), (["S003"], [1]), (["S005", "S001", "S005", "S006"], [2, 0, 2, 3])]
)
def test_a_subject_has_one_fold(subjects: list[str], expected: list[int]) -> None:
    numbers = fold_of(np.array(subjects, str), FOLDS)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == expected


def test_a_subject_without_a_fold_is_named() -> None:
    with pytest.raises(
        InputError, match=r"2 of the data's subjects are in no fold \('', 'S777'…\).*6 subjects"
    ):
        fold_of(np.array(["S777", "S001", "", "S777"]), FOLDS)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '[["S001"]]', '["S001", "S002"]', '[["S001"], ["S001"]]', "[[1], [2]]", "3"]
)
def test_a_file_that_holds_no_folds_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "folds.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"folds\.json"):
        read_folds(file)


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
    ("first", "second", "expected"),
    [
        ("", "", (0.0, 0, 0, 1.0)),
        ("1010", "1010", (0.0, 0, 0, 1.0)),
        ("1100", "1111", (0.5, 0, 2, 0.5)),
        ("1111", "0111", (-0.25, 1, 0, 1.0)),
        ("0000001", "1111110", (5 / 7, 1, 6, 0.125)),
    ],
)
def test_pairs_of_answers(first: str, second: str, expected: tuple[float, int, int, float]) -> None:
    one, two = (np.array([c == "1" for c in text], bool) for text in (first, second))
    gap = paired_difference(one, two, np.array([f"S{i}" for i in range(len(first))], str))
    found = (gap["accuracy"], gap["only_first"], gap["only_second"], gap["p"])
    assert found == pytest.approx(expected)
    assert gap["interval"][0] <= gap["accuracy"] <= gap["interval"][1]


def test_the_interval_of_a_difference_takes_a_subject_as_one() -> None:
    one, two = np.zeros(100, bool), np.arange(100) < 50
    apart, alike = (
        paired_difference(one, two, subjects)["interval"]
        for subjects in (np.arange(100).astype(str), (np.arange(100) // 25).astype(str))
    )
    assert alike[1] - alike[0] > 2 * (apart[1] - apart[0])


def test_every_sequence_is_answered_once_by_a_model_that_has_not_seen_its_subject(
    ck48: Path, folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], int]] = []

    def watched(
        config: TrainConfig, training: Clips, selection: Clips, *rest: object, **named: object
    ) -> object:
        seen.append((set(training.subjects.tolist()), len(selection)))
        return learn(config, training, selection, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("fer_batch.evaluation.fold_runs.learn", watched)
    lines: list[str] = []
    out = tmp_path / "out"
    result = crossval(config_of(ck48), out, frozen=folds, on_line=lines.append)
    everyone = {name.split("_")[0] for name in SEQUENCES}
    assert seen == [(everyone - set(fold), 0) for fold in FOLDS[:3]]
    assert lines[0] == "data: 1 of the folds' subjects are not there"
    assert [line.split(" sequences")[0] for line in lines[1:]] == [
        "fold 1 of 4: 3", "fold 2 of 4: 2", "fold 3 of 4: 3",
    ]  # fmt: skip
    assert json.loads((out / "crossval.json").read_text()) == result
    assert (result["n"], result["subjects"]) == (8, 5)
    assert [(row["fold"], row["n"]) for row in result["folds"]] == [(1, 3), (2, 2), (3, 3)]
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["sequence"], row["true"]) for row in rows] == [
        (name[:4], str(int(name[5:])), label) for name, label in SEQUENCES.items()
    ]
    assert Counter(row["fold"] for row in rows) == {"1": 3, "2": 2, "3": 3}
    for name in ("cnn", "cnn_bilstm"):
        figures = result[name]
        right = np.mean([row[name] == row["true"] for row in rows])
        assert figures["accuracy"] == pytest.approx(right)
        assert figures["n"] == np.sum(figures["confusion"]) == 8
        assert figures["per_class"]["contempt"]["support"] == 1
        assert figures.keys() >= {"macro_f1", "intervals"}
    of_fold = json.loads((out / "fold_02.json").read_text())
    assert np.shape(of_fold["cnn"]) == (2, 7)
    assert (
        measure(np.array(of_fold["cnn"]), np.array([5, 1]), CLASSES)["accuracy"] == result["folds"][1]["cnn"]
    )


def test_what_is_done_is_not_done_again_and_the_rest_is(ck48: Path, folds: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "out", config_of(ck48)
    whole = crossval(config, out, frozen=folds)
    kept = {name: (out / name).stat().st_mtime_ns for name in ("fold_01.json", "fold_03.json")}
    for name in ("fold_02.json", "crossval.json", "predictions.csv"):
        (out / name).unlink()
    again = crossval(config, out, frozen=folds)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert {k: again[k] for k in ("cnn", "cnn_bilstm", "difference", "settings")} == {
        k: whole[k] for k in ("cnn", "cnn_bilstm", "difference", "settings")
    }
    before = sorted((file.name, file.read_bytes()) for file in out.iterdir())
    (tmp_path / "others").mkdir()
    other = write_ck48(tmp_path / "others" / "ck48", SEQUENCES | {"S006_001": "fear"})
    (tmp_path / "folds.json").write_text(json.dumps(FOLDS[::-1]))
    for changed, what in (
        ((config_of(ck48, seed=1), folds), "seed was 0, is 1"),
        ((config_of(ck48, epochs=2), folds), "epochs was 1, is 2"),
        ((config_of(other), folds), "data_sha256 was "),
        ((config, tmp_path / "folds.json"), "folds_sha256 was "),
    ):
        with pytest.raises(ConfigError, match=what):
            crossval(changed[0], out, frozen=changed[1])
    assert sorted((file.name, file.read_bytes()) for file in out.iterdir()) == before
    for content in ("{", "[]", '{"cnn": [[1]], "cnn_bilstm": [[1]], "seconds": 1}'):
        (out / "fold_02.json").write_text(content)
        with pytest.raises(OutputError, match=r"fold_02\.json .*delete it"):
            crossval(config, out, frozen=folds)


@pytest.mark.parametrize(
    ("sequences", "fields", "error", "said"),
    [
        ({}, {}, InputError, "ck48"),
        ({"S001_001": "happy", "S999_001": "sad"}, {}, InputError, "'S999'"),
        ({"S001_001": "happy", "S002_001": "sad"}, {}, InputError, "without the 2 examples of fold 1"),
        ({"S001_001": "happy", "S003_001": "happy"}, {}, InputError, "no two classes left"),
        ({"S001_001": "happy", "S003_001": "neutral"}, {}, InputError, "neutral"),
        (SEQUENCES, {"epochs": 0}, ConfigError, "--epochs is 0"),
        (SEQUENCES, {"classes": ["happy", "sad"]}, ConfigError, "seven classes"),
        (SEQUENCES, {"init": "nowhere.safetensors"}, FerBatchError, "nowhere.safetensors"),
    ],
)
def test_what_cannot_be_cross_validated_is_said_before_anything_is_written(
    folds: Path,
    tmp_path: Path,
    sequences: dict[str, str],
    fields: dict[str, object],
    error: type[Exception],
    said: str,
) -> None:
    data = tmp_path / "ck48"
    data.mkdir()
    write_ck48(data, sequences)
    with pytest.raises(error, match=said):
        crossval(config_of(data, **fields), tmp_path / "out", frozen=folds)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(ck48: Path, folds: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "file"):
        with pytest.raises(OutputError, match="something else than a cross-validation"):
            crossval(config_of(ck48), out, frozen=folds)
