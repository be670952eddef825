"""A study under Ray: what is tried, when it is stopped, and that a killed one loses and doubles nothing."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer_batch.config import TrainConfig
from fer_batch.errors import ConfigError, FerBatchError
from fer_batch.runtime import ray_session
from fer_batch.training.tune.run import VALUE, _asha, shares, tune
from fer_batch.training.tune.space import base_point
from fer_batch.training.tune.study import DONE, FAILED, RUNNING, new_record
from tests.training.test_run import kill_session, processes_of, wait_for

RECIPE: dict[str, Any] = {
    "epochs": 4,
    "sequence_epochs": 1,
    "batch_size": 16,
    "filters": [8, 8],
    "depths": [1, 1],
    "fold": 2,
}
TRIALS = 5


def of_studies(test: Any) -> Any:
    """Marks a test that waits for whole studies."""
    return pytest.mark.slow(pytest.mark.timeout(600)(test))


@pytest.mark.parametrize(
    ("there", "threads", "parallel", "share", "at_once"),
    [
        ({}, 1, None, {"CPU": 1}, 1),
        ({"CPU": 8}, 1, None, {"CPU": 1}, 8),
        ({"CPU": 8}, 3, None, {"CPU": 3}, 2),
        ({"CPU": 2}, 4, None, {"CPU": 2}, 1),
        ({"CPU": 8}, 1, 2, {"CPU": 1}, 2),
        ({"CPU": 2}, 1, 3, {"CPU": 0.6666}, 3),
        ({"CPU": 16, "GPU": 1}, 1, None, {"CPU": 1, "GPU": 1}, 1),
        ({"CPU": 16, "GPU": 2}, 1, 5, {"CPU": 1, "GPU": 1 / 3}, 5),
        ({"CPU": 4, "GPU": 1}, 1, 8, {"CPU": 0.5, "GPU": 1 / 8}, 8),
    ],
)
def test_trials_share_what_there_is(
    there: dict[str, float], threads: int, parallel: int | None, share: dict[str, float], at_once: int
) -> None:
    assert shares(there, threads, parallel) == (share, at_once)


def ended(number: int, *accuracies: float) -> dict[str, Any]:
    return new_record(number, {}, DONE) | {"history": [{"accuracy": value} for value in accuracies]}


@pytest.mark.parametrize(
    ("epochs", "before", "number", "accuracy", "stopped_after"),
    [
        (1, [], 2, 0.1, 1),
        (9, [], 2, 0.1, 9),
        (9, [ended(1, *[0.5] * 9)], 2, 0.4, 2),
        (9, [ended(1, *[0.5] * 9)], 2, 0.6, 9),
        (9, [ended(1, *[0.5] * 9)], 1, 0.4, None),
        (9, [ended(2, 0.5), ended(3, 0.5)], 4, 0.4, 9),  # they failed before the first rung
        (36, [ended(1, *[0.5] * 36), ended(2, *[0.3] * 4)], 3, 0.4, 4),
        (36, [ended(1, *[0.5] * 36), ended(2, *[0.3] * 4), ended(3, *[0.2] * 4)], 4, 0.4, 12),
    ],
)
def test_what_falls_behind_those_before_is_stopped_but_for_the_base(
    epochs: int, before: list[dict[str, Any]], number: int, accuracy: float, stopped_after: int | None
) -> None:
    asha = _asha(TrainConfig(data=(("folder", "x"),), epochs=epochs), "accuracy", before)
    trial = Trial("", trial_id="now", config={"number": number}, stub=True)
    asha.on_trial_add(None, trial)  # type: ignore[arg-type]
    said = [
        asha.on_trial_result(None, trial, {"training_iteration": epoch, VALUE: accuracy})
        for epoch in range(1, epochs + 1)
    ]
    stops = [epoch for epoch, action in enumerate(said, 1) if action == TrialScheduler.STOP]
    assert (stops[0] if stops else None) == stopped_after


def configured(data: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({**RECIPE, "data": [["fer2013", str(data)]], **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER2013's CSV of noise with a bright bar whose height tells the class; every fifth is PublicTest."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "bars.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for number in range(200):
            emotion = number % 7
            image = random.integers(0, 60, (48, 48))
            image[6 * emotion : 6 * emotion + 8, 8:40] = 220
            pixels = " ".join(map(str, image.ravel().tolist()))
            writer.writerow([emotion, pixels, "Training" if number % 5 else "PublicTest"])
    return path


@dataclass(frozen=True, kw_only=True)
class Studies:
    """One from the command line that was killed and then went on with a trial more, and one in vain."""

    out: Path
    killed: dict[int, dict[str, Any]]
    """Its trials then."""
    found: dict[str, Any]
    """What the second start returned."""
    lines: list[str]
    """What that reported."""
    failed: Path
    """Of which every trial diverges."""
    failure: str


def trials_of(out: Path) -> dict[int, dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in sorted(out.glob("trials/[0-9]*.json"))]
    return {record["number"]: record for record in records}


def in_the_middle(out: Path) -> bool:
    """Whether two trials have ended, and another has begun."""
    statuses = [record["status"] for record in trials_of(out).values()]
    return statuses.count(DONE) >= 2 and RUNNING in statuses


def tune_and_kill(data: Path, out: Path) -> None:
    recipe = out.with_name("ours.toml")
    recipe.write_text("".join(f"{name} = {value}\n" for name, value in RECIPE.items()))
    words = ["--recipe", recipe, "--data", f"fer2013={data}", "--trials", TRIALS - 1, "--parallel", 2]
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_batch.cli.main", "tune", *map(str, words), "--out", str(out)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )
    try:
        wait_for(lambda: in_the_middle(out), lambda: process.poll() is None)
    finally:
        kill_session(process)
    assert not processes_of(process.pid)


@pytest.fixture(scope="module")
def studies(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studies]:
    folder = tmp_path_factory.mktemp("studies")
    tune_and_kill(data, folder / "killed")
    killed = trials_of(folder / "killed")
    lines: list[str] = []
    with ray_session(num_cpus=2):
        found = tune(configured(data), folder / "killed", TRIALS, parallel=2, on_line=lines.append)
        with pytest.raises(FerBatchError) as raised:
            tune(configured(data, lr=1e38, epochs=1), folder / "failed", 2, parallel=1)
        yield Studies(
            out=folder / "killed",
            killed=killed,
            found=found,
            lines=lines,
            failed=folder / "failed",
            failure=str(raised.value),
        )


@of_studies
def test_a_killed_study_loses_and_doubles_nothing(studies: Studies, data: Path) -> None:
    now = trials_of(studies.out)
    assert sorted(now) == list(range(1, TRIALS + 1))
    assert {record["status"] for record in now.values()} == {DONE}
    for number, record in studies.killed.items():
        assert now[number]["values"] == record["values"]
        assert record["status"] == RUNNING or now[number] == record
    assert now[1]["values"] == base_point(configured(data))
    assert len({json.dumps(record["values"]) for record in now.values()}) == TRIALS
    told = [line for line in studies.lines if line.startswith("trial ")]
    assert len(told) == TRIALS - sum(record["status"] == DONE for record in studies.killed.values())
    assert not (studies.out / "ray").exists()


@of_studies
def test_each_trial_is_its_stills_up_to_where_it_was_stopped_and_the_base_is_whole(studies: Studies) -> None:
    trials = studies.found["trials"]
    assert trials[0]["epochs"] == RECIPE["epochs"]
    for trial in trials:
        assert [row["epoch"] for row in trial["history"]] == list(range(1, trial["epochs"] + 1))
        assert {row["phase"] for row in trial["history"]} == {"stills"}
        assert trial["accuracy"] == trial["history"][-1]["accuracy"]
        assert trial["stopped_early"] == (trial["epochs"] < RECIPE["epochs"])
    best = trials[studies.found["best"] - 1]
    assert best["accuracy"] == max(trial["accuracy"] for trial in trials)


@of_studies
def test_a_finished_study_says_its_result_at_once(studies: Studies, data: Path) -> None:
    lines: list[str] = []
    assert tune(configured(data), studies.out, TRIALS, on_line=lines.append) == studies.found
    assert lines == []


@of_studies
def test_another_configuration_is_refused(studies: Studies, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(lr was 0.1, is 0.2; metric was accuracy, is macro_f1\)"):
        tune(configured(data, lr=0.2), studies.out, TRIALS, metric="macro_f1")


@of_studies
def test_a_trial_that_diverges_is_a_row_with_its_reason_and_the_next_is_tried(studies: Studies) -> None:
    records = trials_of(studies.failed)
    assert [record["status"] for record in records.values()] == [FAILED, FAILED]
    assert all(record["reason"].startswith("it diverged") for record in records.values())
    assert "of the first: it diverged" in studies.failure
    assert (studies.failed / "trials.csv").read_text().count("it diverged") == 2
