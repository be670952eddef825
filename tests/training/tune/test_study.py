"""The folder of a study: trials as files, and the tables and the recipe that result from them."""

import csv
import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fer_batch.errors import ConfigError, FerBatchError, OutputError
from fer_batch.train_config import TrainConfig
from fer_batch.training.state import selected_epoch
from fer_batch.training.tune.space import apply_point, locate_base
from fer_batch.training.tune.study import (
    COLUMNS,
    DONE,
    FAILED,
    MIN_TRIALS_FOR_IMPORTANCE,
    RUNNING,
    Study,
    TrialRecord,
)
from tests.training.examples import make_epoch, make_history

CONFIG = TrainConfig(data=(("fer2013", "x"),), epochs=3)
SETTINGS = {**CONFIG.to_dict(), "metric": "accuracy"}


def make_study(out: Path, *records: TrialRecord) -> Study:
    by_number = {record.number: record for record in records}
    return Study(config=CONFIG, out=out, metric="accuracy", records=by_number)


def read_records(out: Path) -> dict[int, TrialRecord]:
    study = make_study(out)
    study.read_records()
    return study.records


def make_record(number: int, *accuracies: float, status: str = DONE, **values: Any) -> TrialRecord:
    return TrialRecord(
        number=number,
        values=dataclasses.replace(locate_base(CONFIG), **values),
        status=status,
        reason="lost" if status == FAILED else "",
        history=make_history(*accuracies),
    )


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_study_has_no_trials(exists: bool, tmp_path: Path) -> None:
    out = tmp_path / "study"
    if exists:
        out.mkdir()
    assert read_records(out) == {}


def test_written_trials_are_read(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "study.json").write_text(json.dumps({"settings": SETTINGS}))
    records = [make_record(1, 0.1, 0.2), make_record(2, 0.3, status=FAILED), make_record(12, status=RUNNING)]
    for record in records:
        record.write(tmp_path)
    (tmp_path / "trials" / ".0003.json.here.1.tmp").write_text("{")  # of a killed writer
    assert read_records(tmp_path) == {record.number: record for record in records}


def test_a_study_of_an_older_version_is_read(tmp_path: Path) -> None:
    settings = SETTINGS | {"preset": "cnn4-fer2013"}
    (tmp_path / "study.json").write_text(json.dumps({"settings": settings}))
    assert read_records(tmp_path) == {}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"notes.txt": "mine"}, OutputError, "files other than a study"),
        ({"study.json": "{"}, OutputError, "study.json is not the record of a study"),
        ({"study.json": "[]"}, OutputError, "study.json is not the record of a study"),
        ({"study.json": "{}"}, OutputError, "study.json is not the record of a study"),
        (
            {"study.json": json.dumps({"settings": SETTINGS | {"lr": 0.2, "metric": "macro_f1"}})},
            ConfigError,
            r"\(lr was 0.2, is 0.1; metric was macro_f1, is accuracy\); give another --out",
        ),
        (
            {"study.json": json.dumps({"settings": SETTINGS}), "trials/0001.json": "{"},
            OutputError,
            r"0001.json is not the record of a trial .*; delete it",
        ),
        (
            {"study.json": json.dumps({"settings": SETTINGS}), "trials/0001.json": "[]"},
            OutputError,
            r"0001.json is not the record of a trial .*; delete it",
        ),
    ],
)
def test_another_folder_is_refused(
    files: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "trials").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        read_records(tmp_path)


def test_trials_are_summarized() -> None:
    study = make_study(
        Path("study"),
        make_record(1, 0.5, 0.4, 0.3),
        make_record(2, 0.5),
        make_record(3, 0.5, status=FAILED),
        make_record(4, status=FAILED),
    )
    trials = study.trials.set_index("trial")
    assert trials.epochs.tolist() == [3, 1, 1, 0]
    assert trials.stopped_early.tolist() == [False, True, False, False]
    assert trials.accuracy.tolist()[:2] == [0.3, 0.5]
    assert trials.accuracy[2:].isna().all()
    columns = ["macro_f1", "seconds", "status", "lr", "width", "reason"]
    assert trials.loc[1, columns].tolist() == [0.15, 6.0, DONE, 0.1, 1.0, ""]
    assert trials.reason[3] == "lost"


def test_the_selected_epoch_is_the_one_that_train_keeps() -> None:
    history = make_history(0.2, 0.6, 0.6, 0.1)
    assert selected_epoch(CONFIG, history) == history[-1]
    stopping = dataclasses.replace(CONFIG, early_stopping=2)
    assert selected_epoch(stopping, history) == history[1]
    history.append(make_epoch(5, 0.3, phase="sequences"))
    assert selected_epoch(stopping, history) == history[-1]


def test_the_best_trial_is_the_first_with_the_best_metric() -> None:
    records = [
        make_record(4, 0.6),
        make_record(1, 0.2),
        make_record(2, 0.9, status=FAILED),
        make_record(3, 0.6),
    ]
    assert make_study(Path("study"), *records).best == records[3]
    for without in (records[2:3], []):
        assert make_study(Path("study"), *without).best is None


def test_importance_is_highest_for_the_parameter_that_matters() -> None:
    records = [
        make_record(n, 0.2 + 3 * lr, lr=lr, dropout=(7 * n % 10) / 10)
        for n, lr in enumerate([0.02, 0.2] * 6, 1)
    ]
    shares = make_study(Path("study"), *records).importance
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    equal = records[::2]
    for too_few in ([], records[: MIN_TRIALS_FOR_IMPORTANCE - 1], equal):
        assert make_study(Path("study"), *too_few).importance == {}


def test_optuna_has_the_numbers_and_results_of_the_trials() -> None:
    records = [make_record(1, 0.3, 0.4), make_record(2, lr=0.3, status=FAILED), make_record(3, 0.5, lr=0.2)]
    trials = make_study(Path("study"), *records).to_optuna().trials
    assert [(t.number, t.values) for t in trials[1:]] == [(1, [0.4]), (2, None), (3, [0.5])]
    assert trials[1].intermediate_values == {1: 0.3, 2: 0.4}
    assert trials[3].params["lr"] == 0.2


def test_results_are_tables_and_the_recipe_of_the_best_trial(tmp_path: Path) -> None:
    records = [
        make_record(1, 0.1, 0.2, 0.3),
        make_record(2, 0.5, lr=0.05, width=0.5),
        make_record(3, status=FAILED),
    ]
    study = make_study(tmp_path, *records)
    study.write_results()
    assert repr(study) == "Study(3 trials, accuracy=0.5000 in trial 2)"
    base, best, failed = json.loads((tmp_path / "trials.json").read_text())
    assert base["settings"] == {}
    assert best["settings"] == {"lr": 0.05, "filters": [16, 32, 64, 128]}
    assert base["history"] == [row.to_dict() for row in records[0].history]
    assert (failed["accuracy"], failed["history"]) == (None, [])
    assert [*best][: len(COLUMNS)] == list(COLUMNS)
    assert json.loads((tmp_path / "study.json").read_text()) == {
        "settings": SETTINGS,
        "best": 2,
        "importance": {},
    }
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["accuracy"] for row in rows] == ["0.3", "0.5", ""]
    assert [row["status"] for row in rows] == [DONE, DONE, FAILED]
    recipe = tomllib.loads((tmp_path / "best.toml").read_text())
    followed = TrainConfig.from_dict(recipe | {"data": CONFIG.to_dict()["data"]})
    assert followed == apply_point(CONFIG, records[1].values)


def test_a_study_without_a_finished_trial_raises_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(FerBatchError, match=r"the first failed: lost\. Give other settings"):
        make_study(tmp_path, make_record(1, status=FAILED)).write_results()
    assert (tmp_path / "trials.csv").read_text().count("\n") == 2
    assert not (tmp_path / "best.toml").exists()
