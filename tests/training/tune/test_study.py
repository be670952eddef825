"""A study's folder: its trials as files, and what is made of them."""

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fer_batch.config import TrainConfig
from fer_batch.errors import ConfigError, FerBatchError, OutputError
from fer_batch.training.tune.space import base_point, derived
from fer_batch.training.tune.study import (
    COLUMNS,
    DONE,
    FAILED,
    IMPORTANCE_LEAST,
    RUNNING,
    best_of,
    importance,
    new_record,
    read_records,
    row_of,
    standing,
    write_record,
    write_results,
)

CONFIG = TrainConfig(data=(("fer2013", "x"),), epochs=3, preset="cnn4-fer2013", init=None)
SETTINGS = {**CONFIG.to_dict(), "metric": "accuracy"}


def epochs(*accuracies: float) -> list[dict[str, Any]]:
    """A history with these, each with half as much macro-F1, of two seconds."""
    return [
        {"epoch": number, "accuracy": value, "macro_f1": value / 2, "seconds": 2.0}
        for number, value in enumerate(accuracies, 1)
    ]


def trial(number: int, *accuracies: float, status: str = DONE, **values: Any) -> dict[str, Any]:
    record = new_record(number, base_point(CONFIG) | values, status)
    reason = "lost" if status == FAILED else ""
    return record | {"history": epochs(*accuracies), "reason": reason}


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "an empty one"])
def test_a_new_study_has_no_trials(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "study"
    if there:
        out.mkdir()
    assert read_records(out, SETTINGS) == {}


def test_trials_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "study.json").write_text(json.dumps({"settings": SETTINGS}))
    trials = [trial(1, 0.1, 0.2), trial(2, 0.3, status=FAILED), trial(12, status=RUNNING, lr=0.123456789)]
    for record in trials:
        write_record(tmp_path, record)
    (tmp_path / "trials" / ".0003.json.here.1.tmp").write_text("{")  # of a writer that was killed
    assert read_records(tmp_path, SETTINGS) == {record["number"]: record for record in trials}


@pytest.mark.parametrize(
    ("files", "error", "said"),
    [
        ({"notes.txt": "mine"}, OutputError, "something else than a study"),
        ({"study.json": "{"}, OutputError, "study.json is not the record of a study"),
        ({"study.json": "[]"}, OutputError, "study.json is not the record of a study"),
        ({"study.json": "{}"}, OutputError, "study.json is not the record of a study"),
        (
            {"study.json": json.dumps({"settings": SETTINGS | {"lr": 0.2, "metric": "macro_f1"}})},
            ConfigError,
            r"\(lr was 0.2, is 0.1; metric was macro_f1, is accuracy\): name another --out",
        ),
        (
            {"study.json": json.dumps({"settings": SETTINGS}), "trials/0001.json": "{"},
            OutputError,
            r"0001.json is not a trial .*: delete it",
        ),
    ],
)
def test_another_folder_is_refused(
    files: dict[str, str], error: type[Exception], said: str, tmp_path: Path
) -> None:
    (tmp_path / "trials").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=said):
        read_records(tmp_path, SETTINGS)


def test_a_row_says_what_came_of_a_trial() -> None:
    row = row_of(trial(1, 0.5, 0.4, 0.3), CONFIG)
    assert tuple(row) == COLUMNS
    assert (row["accuracy"], row["macro_f1"], row["epochs"], row["seconds"]) == (0.3, 0.15, 3, 6.0)
    assert (row["status"], row["stopped_early"], row["lr"], row["width"]) == (DONE, False, 0.1, 1.0)
    behind = row_of(trial(2, 0.5), CONFIG)
    assert (behind["stopped_early"], behind["accuracy"]) == (True, 0.5)
    failed = row_of(trial(3, 0.5, status=FAILED), CONFIG)
    assert (failed["stopped_early"], failed["accuracy"], failed["reason"]) == (False, None, "lost")
    assert row_of(trial(4, status=FAILED), CONFIG)["epochs"] == 0


def test_what_counts_of_a_trial_is_what_train_would_keep() -> None:
    history = epochs(0.2, 0.6, 0.6, 0.1)
    assert standing(CONFIG, history) == history[-1]
    stopping = TrainConfig(data=CONFIG.data, early_stopping=2)
    assert standing(stopping, history) == history[1]


def test_the_best_is_the_first_of_those_that_are_done() -> None:
    assert best_of([], "accuracy") is None
    trials = [trial(1, 0.2), trial(2, 0.9, status=FAILED), trial(3, 0.6), trial(4, 0.6)]
    rows = [row_of(record, CONFIG) for record in trials]
    best = best_of(rows, "accuracy")
    assert best is not None
    assert best["trial"] == 3
    assert best_of(rows[1:2], "accuracy") is None


def test_importance_finds_the_parameter_that_matters() -> None:
    trials = [
        trial(n, 0.2 + 3 * lr, lr=lr, dropout=(7 * n % 10) / 10) for n, lr in enumerate([0.02, 0.2] * 6, 1)
    ]
    rows = [row_of(record, CONFIG) for record in trials]
    shares = importance(rows, CONFIG, "accuracy")
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance([], CONFIG, "accuracy") == {}
    assert importance(rows[: IMPORTANCE_LEAST - 1], CONFIG, "accuracy") == {}
    assert importance(rows[::2], CONFIG, "accuracy") == {}  # all are alike


def test_results_are_a_table_all_curves_and_a_recipe_of_the_best(tmp_path: Path) -> None:
    trials = [trial(1, 0.1, 0.2, 0.3), trial(2, 0.5, lr=0.05, width=0.5), trial(3, status=FAILED)]
    found = write_results(CONFIG, tmp_path, SETTINGS, trials)
    assert found["best"] == 2
    assert found["importance"] == {}
    assert json.loads((tmp_path / "trials.json").read_text()) == found["trials"]
    assert json.loads((tmp_path / "study.json").read_text()) == {
        key: value for key, value in found.items() if key != "trials"
    }
    base, best, _ = found["trials"]
    assert base["settings"] == {}
    assert best["settings"] == {"lr": 0.05, "filters": [16, 32, 64, 128]}
    assert base["history"] == trials[0]["history"]
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["accuracy"] for row in rows] == ["0.3", "0.5", ""]
    assert [row["status"] for row in rows] == [DONE, DONE, FAILED]
    recipe = tomllib.loads((tmp_path / "best.toml").read_text())
    followed = TrainConfig.from_dict(recipe | {"data": CONFIG.to_dict()["data"], "preset": CONFIG.preset})
    assert followed == derived(CONFIG, trials[1]["values"])


def test_a_study_without_a_trial_that_ended_says_why(tmp_path: Path) -> None:
    with pytest.raises(FerBatchError, match="of the first: lost; give other settings"):
        write_results(CONFIG, tmp_path, SETTINGS, [trial(1, status=FAILED)])
    assert (tmp_path / "trials.csv").read_text().count("\n") == 2
    assert not (tmp_path / "best.toml").exists()
