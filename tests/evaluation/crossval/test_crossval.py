"""Cross-validation: recipes on folds by subject and at random, and the files of the results."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.data.clips import Clips
from fer_batch.errors import ConfigError, FerBatchError, InputError, OutputError
from fer_batch.evaluation.crossval.crossval import CK48_CLASSES, CK48_RECIPE, crossval
from fer_batch.evaluation.crossval.folds import Protocol
from fer_batch.evaluation.metrics import measure
from fer_batch.model.card import Card
from fer_batch.model.registry import build_network
from fer_batch.model.weights import save_checkpoint
from fer_batch.train_config import TrainConfig
from fer_batch.training.loop import train_network

FOLDS = [["S001", "S002"], ["S003"], ["S004", "S005"], ["S006"]]
"""Folds of the small data below, which has no one of the last fold."""
SEQUENCES = {
    "S001_001": "happy", "S001_002": "sad", "S002_001": "happy", "S003_001": "sad", "S003_002": "contempt",
    "S004_001": "happy", "S005_001": "sad", "S005_002": "happy",
}  # fmt: skip


def write_ck48(path: Path, sequences: dict[str, str]) -> Path:
    """Write folders like those of CK+48, with three frames per sequence: bright on the left if happy."""
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
        {**CK48_RECIPE, "data": [("ck48", str(data))], "init": "", "classes": list(CK48_CLASSES), **values}
    )


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folds") / "folds.json"
    path.write_text(json.dumps(FOLDS))
    return path


@pytest.fixture(scope="module")
def ck48(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ck48(tmp_path_factory.mktemp("data") / "ck48", SEQUENCES)


def test_every_sequence_is_predicted_once_by_a_model_that_has_not_seen_its_subject(
    ck48: Path, folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], int]] = []

    def record_training(
        config: TrainConfig, training: Clips, selection: Clips, *rest: object, **named: object
    ) -> object:
        seen.append((set(training.subjects.tolist()), len(selection)))
        return train_network(config, training, selection, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("fer_batch.evaluation.crossval.train_fold.train_network", record_training)
    lines: list[str] = []
    out = tmp_path / "out"
    result = crossval(config_of(ck48), out, frozen=folds, on_line=lines.append).to_dict()
    everyone = {name.split("_")[0] for name in SEQUENCES}
    assert seen == [(everyone - set(fold), 0) for fold in FOLDS[:3]]
    assert lines[0] == "data: 1 subjects of the folds are missing"
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
        scores = result[name]
        right = np.mean([row[name] == row["true"] for row in rows])
        assert scores["accuracy"] == pytest.approx(right)
        assert scores["n"] == np.sum(scores["confusion"]) == 8
        assert scores["per_class"]["contempt"]["support"] == 1
        assert scores.keys() >= {"macro_f1", "intervals"}
    of_fold = json.loads((out / "fold_02.json").read_text())
    assert np.shape(of_fold["cnn"]) == (2, 7)
    assert (
        measure(np.array(of_fold["cnn"]), np.array([5, 1]), CK48_CLASSES).accuracy
        == result["folds"][1]["cnn"]
    )


def test_finished_folds_are_not_repeated_and_missing_ones_are(
    ck48: Path, folds: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "out", config_of(ck48)
    whole = crossval(config, out, frozen=folds).to_dict()
    kept = {name: (out / name).stat().st_mtime_ns for name in ("fold_01.json", "fold_03.json")}
    for name in ("fold_02.json", "crossval.json", "predictions.csv"):
        (out / name).unlink()
    again = crossval(config, out, frozen=folds).to_dict()
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert {k: again[k] for k in ("cnn", "cnn_bilstm", "difference", "settings")} == {
        k: whole[k] for k in ("cnn", "cnn_bilstm", "difference", "settings")
    }
    before = sorted((file.name, file.read_bytes()) for file in out.iterdir())
    (tmp_path / "others").mkdir()
    other = write_ck48(tmp_path / "others" / "ck48", SEQUENCES | {"S006_001": "fear"})
    (tmp_path / "folds.json").write_text(json.dumps(FOLDS[::-1]))
    for changed, message in (
        ((config_of(ck48, seed=1), folds), "seed was 0, is 1"),
        ((config_of(ck48, epochs=2), folds), "epochs was 1, is 2"),
        ((config_of(other), folds), "data_sha256 was "),
        ((config, tmp_path / "folds.json"), "folds_sha256 was "),
    ):
        with pytest.raises(ConfigError, match=message):
            crossval(changed[0], out, frozen=changed[1])
    assert sorted((file.name, file.read_bytes()) for file in out.iterdir()) == before
    for content in ("{", "[]", '{"cnn": [[1]], "cnn_bilstm": [[1]], "seconds": 1}'):
        (out / "fold_02.json").write_text(content)
        with pytest.raises(OutputError, match=r"fold_02\.json .*delete it"):
            crossval(config, out, frozen=folds)


def alone(data: Path, **fields: object) -> TrainConfig:
    """Return the configuration of a small network of whole clips with two of the classes."""
    values = {"network": "dcnn-bilstm", "filters": [4], "depths": [1], "dropouts": [0.0] * 4} | fields
    classes = {"classes": ["happy", "sad"], "leave_out": ["contempt"]}
    whole = {
        "data": [("ck48", str(data))],
        "epochs": 1,
        "sequence_epochs": 0,
        "window_length": 3,
        "votes": 0.0,
    }
    return TrainConfig.from_dict({**whole, **classes, **values})


def test_two_divisions_have_separate_results_and_a_leak(ck48: Path, tmp_path: Path) -> None:
    protocol = Protocol(by=("random", "subject"), folds=2, repeats=2)
    out, lines = tmp_path / "out", list[str]()
    result = crossval(alone(ck48), out, protocol=protocol, on_line=lines.append).to_dict()
    assert (result["n"], result["unit"], result["subjects"]) == (7, "sequences", 5)
    names = [
        f"{by}_seed_{seed}_fold_{n:02d}.json"
        for by in ("random", "subject")
        for seed in (0, 1)
        for n in (1, 2)
    ]
    tables = [
        "confusion_random.png",
        "confusion_subject.png",
        "crossval.json",
        "folds.csv",
        "predictions.csv",
    ]
    assert sorted(file.name for file in out.iterdir()) == sorted([*names, *tables, "settings.json"])
    assert lines[0] == "data: 1 contempt left out"
    assert lines[1].startswith("at random, seed 0, fold 1 of 2: ")
    assert lines[-1].startswith("by subject, seed 1, fold 2 of 2: ")
    with (out / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "by", "seed", "fold", "n", "accuracy", "macro_f1", "known", "train_accuracy", "trained_on",
        "held_out", "seconds",
    ]  # fmt: skip
    assert all(int(row["n"]) + int(row["trained_on"]) == 7 for row in rows)
    assert {row["known"] for row in rows if row["by"] == "subject"} == {"0"}
    assert {row["known"] for row in rows if row["by"] == "random"} != {"0"}
    with (out / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 4 * 7
    for by in ("random", "subject"):
        scores = result[by]
        assert (scores["model"]["n"], np.sum(scores["model"]["confusion"])) == (14, 14)
        assert scores["spread"]["over"] == "repeats"
        for number, repeat in enumerate(scores["repeats"]):
            mine = [row for row in predictions if (row["by"], row["seed"]) == (by, str(number))]
            assert len(mine) == repeat["n"] == 7
            right = [row["model"] == row["true"] for row in mine]
            assert repeat["accuracy"] == pytest.approx(np.mean(right))
        for name in ("accuracy", "macro_f1"):
            values = [repeat[name] for repeat in scores["repeats"]]
            assert scores["model"][name] == pytest.approx(np.mean(values))
            assert scores["spread"][name] == {
                "mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1))
            }  # fmt: skip
    gap = result["leak"]["model"]
    for name in ("accuracy", "macro_f1"):
        assert gap[name] == pytest.approx(result["random"]["model"][name] - result["subject"]["model"][name])
        assert len(gap[f"{name}_interval"]) == 2
    assert crossval(alone(ck48), out, protocol=protocol).to_dict() == result
    with pytest.raises(ConfigError, match=r"by was \['random', 'subject'\], is \['subject'\]"):
        crossval(alone(ck48), out, protocol=dataclasses.replace(protocol, by=("subject",)))


def test_images_without_subjects_are_grouped_by_content(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("calm", "loud"):
        (tmp_path / "faces" / "train" / label).mkdir(parents=True)
        (tmp_path / "faces" / "test" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(random.integers(0, 256, (48, 48), np.uint8))
            for name in (f"{number}.png", f"{number}_again.png"):
                image.save(tmp_path / "faces" / "train" / label / name)
        image.save(tmp_path / "faces" / "test" / label / "kept.png")
    config = TrainConfig.from_dict(
        {**alone(tmp_path).to_dict(), "data": [("folder", str(tmp_path / "faces"))], "network": "cnn4"}
        | {"classes": [], "leave_out": [], "dropouts": [0.0] * 3, "window_length": 1}
    )
    lines: list[str] = []
    protocol = Protocol(test_share=0.5)
    result = crossval(config, tmp_path / "out", protocol=protocol, on_line=lines.append).to_dict()
    assert lines[0] == "data: 2 of the split test left out"
    assert lines[1].startswith("test part: 8 images, accuracy 0.")
    assert (result["n"], result["unit"], result["subjects"]) == (16, "images", 0)
    assert (result["model"]["n"], result["folds"][0]["known"], result["spread"]["count"]) == (8, 0, 1)


def test_checkpoint_of_another_network_is_one_model(ck48: Path, tmp_path: Path) -> None:
    architecture = {"classes": 2, "filters": [4], "depths": [1], "lstm": [4, 4], "dense": 4}
    card = Card(classes=("happy", "sad"), network="dcnn-bilstm", architecture=architecture, window_length=3)
    init = str(tmp_path / "other.safetensors")
    save_checkpoint(tmp_path / "other.safetensors", build_network(card.network, architecture), card)
    lines: list[str] = []
    result = crossval(
        config_of(ck48, init=init),
        tmp_path / "out",
        protocol=Protocol(folds=2),
        on_line=lines.append,
    ).to_dict()
    assert result["model"]["n"] == 8
    assert "difference" not in result
    assert result["settings"]["init"].startswith("dcnn-bilstm-")


@pytest.mark.parametrize(
    ("sequences", "fields", "error", "message"),
    [
        ({}, {}, InputError, "ck48"),
        ({"S001_001": "happy", "S999_001": "sad"}, {}, InputError, "'S999'"),
        ({"S001_001": "happy", "S002_001": "sad"}, {}, InputError, "without the 2 examples of fold 1"),
        ({"S001_001": "happy", "S003_001": "happy"}, {}, InputError, "fewer than two classes are left"),
        ({"S001_001": "happy", "S003_001": "neutral"}, {}, InputError, "neutral"),
        (SEQUENCES, {"epochs": 0}, ConfigError, "--epochs must be a whole number from 1, got 0"),
        (SEQUENCES, {"early_stopping": 2}, InputError, "5 examples outside fold 1 are too few"),
        (SEQUENCES, {"init": "nowhere.safetensors"}, FerBatchError, "nowhere.safetensors"),
    ],
)
def test_unusable_data_is_refused_before_anything_is_written(
    folds: Path,
    tmp_path: Path,
    sequences: dict[str, str],
    fields: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    data = tmp_path / "ck48"
    data.mkdir()
    write_ck48(data, sequences)
    with pytest.raises(error, match=message):
        crossval(config_of(data, **fields), tmp_path / "out", frozen=folds)
    assert not (tmp_path / "out").exists()


def test_unsuitable_recipe_is_refused_before_anything_is_written(ck48: Path, tmp_path: Path) -> None:
    init = tmp_path / "cnn4.safetensors"
    architecture = {"classes": 2, "filters": [4], "depths": [1], "dense": [4], "dropouts": [0.0, 0.0]}
    save_checkpoint(
        init,
        build_network("cnn4", architecture),
        Card(classes=("a", "b"), network="cnn4", architecture=architecture),
    )
    for fields, error, message in (
        ({"classes": ["happy", "sad", "fear"]}, InputError, "no examples of the class fear"),
        ({"init": str(init)}, ConfigError, "is a cnn4, but the settings are for a dcnn-bilstm"),
    ):
        with pytest.raises(error, match=message):
            crossval(alone(ck48, **fields), tmp_path / "out", protocol=Protocol(folds=2))
    with pytest.raises(ConfigError, match="--parallel 1 uses one GPU, got --gpus 4: give --parallel 4"):
        crossval(alone(ck48), tmp_path / "out", parallel=1, gpus=4)
    with pytest.raises(ConfigError, match="--parallel must be a whole number from 1, got 0"):
        crossval(alone(ck48), tmp_path / "out", parallel=0)
    assert not (tmp_path / "out").exists()


def test_folder_with_other_files_is_refused(ck48: Path, folds: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out, message in (("out", "files other than a cross-validation"), ("file", "is a file")):
        with pytest.raises(OutputError, match=message):
            crossval(config_of(ck48), tmp_path / out, frozen=folds)
