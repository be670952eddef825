"""Studies under Ray: their trials, when ASHA stops them, and continuing a killed study."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from fer_batch.errors import ConfigError, FerBatchError
from fer_batch.runtime import ray_session
from fer_batch.train_config import TrainConfig
from fer_batch.training.tune.run import tune
from fer_batch.training.tune.search import VALUE, build_scheduler
from fer_batch.training.tune.space import Point, locate_base
from fer_batch.training.tune.study import DONE, FAILED, RUNNING, Study, TrialRecord
from tests.training.examples import SMALL_RECIPE, collect_lines, make_history, write_bars_csv, write_recipe
from tests.training.processes import run_and_kill

RECIPE = SMALL_RECIPE | {"epochs": 4}
TRIALS = 5
POINT = Point(lr=0.1, augmentation=1.0, imbalance="sqrt")


def runs_studies(test: Any) -> Any:
    """Mark a test that waits for whole studies."""
    return pytest.mark.slow(pytest.mark.timeout(600)(test))


def ended(number: int, *accuracies: float) -> TrialRecord:
    return TrialRecord(number=number, values=POINT, status=DONE, history=make_history(*accuracies))


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
def test_asha_stops_trials_that_fall_behind_but_never_the_base(
    epochs: int, before: list[TrialRecord], number: int, accuracy: float, stopped_after: int | None
) -> None:
    config = TrainConfig(data=(("folder", "x"),), epochs=epochs)
    records = {record.number: record for record in before}
    asha = build_scheduler(Study(config=config, out=Path("study"), metric="accuracy", records=records))
    trial = Trial("", trial_id="now", config={"number": number}, stub=True)
    asha.on_trial_add(None, trial)  # type: ignore[arg-type]
    actions = [
        asha.on_trial_result(None, trial, {"training_iteration": epoch, VALUE: accuracy})
        for epoch in range(1, epochs + 1)
    ]
    stops = [epoch for epoch, action in enumerate(actions, 1) if action == TrialScheduler.STOP]
    assert (stops[0] if stops else None) == stopped_after


def make_config(data: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.from_dict({**RECIPE, "data": [["fer2013", str(data)]], **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars_csv(tmp_path_factory.mktemp("data") / "bars.csv")


@dataclass(frozen=True, kw_only=True)
class Studies:
    """A killed study that was continued with one more trial, and a study in which all trials fail."""

    out: Path
    killed: dict[int, dict[str, Any]]
    """Its trials when it was killed."""
    study: Study
    """Returned by the second call."""
    lines: list[str]
    """Reported by the second call."""
    failed: Path
    """Folder of the study in which every trial diverges."""
    failure: str


def read_trials(out: Path) -> dict[int, dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in sorted(out.glob("trials/[0-9]*.json"))]
    return {record["number"]: record for record in records}


def is_half_done(out: Path) -> bool:
    """Return whether two trials have ended and another one has started."""
    statuses = [record["status"] for record in read_trials(out).values()]
    return statuses.count(DONE) >= 2 and RUNNING in statuses


def tune_and_kill(data: Path, out: Path) -> None:
    recipe = write_recipe(out.with_name("small.toml"), RECIPE)
    options = ["--recipe", recipe, "--data", f"fer2013={data}", "--trials", TRIALS - 1, "--parallel", 2]
    command = ["tune", *map(str, options), "--out", str(out)]
    run_and_kill(command, out.with_name("killed.txt"), lambda: is_half_done(out))


@pytest.fixture(scope="module")
def studies(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studies]:
    folder = tmp_path_factory.mktemp("studies")
    tune_and_kill(data, folder / "killed")
    killed = read_trials(folder / "killed")
    lines: list[str] = []
    with ray_session(num_cpus=2):
        study = tune(
            make_config(data), folder / "killed", TRIALS, parallel=2, on_progress=collect_lines(lines)
        )
        with pytest.raises(FerBatchError) as raised:
            tune(make_config(data, lr=1e38, epochs=1), folder / "failed", 2, parallel=1)
        yield Studies(
            out=folder / "killed",
            killed=killed,
            study=study,
            lines=lines,
            failed=folder / "failed",
            failure=str(raised.value),
        )


@runs_studies
def test_a_killed_study_continues_with_the_remaining_trials(studies: Studies, data: Path) -> None:
    now = read_trials(studies.out)
    assert sorted(now) == list(range(1, TRIALS + 1))
    assert {record["status"] for record in now.values()} == {DONE}
    for number, record in studies.killed.items():
        assert now[number]["values"] == record["values"]
        assert record["status"] == RUNNING or now[number] == record
    assert now[1]["values"] == locate_base(make_config(data)).to_dict()
    assert len({json.dumps(record["values"]) for record in now.values()}) == TRIALS
    reported = [line for line in studies.lines if line.startswith("trial ")]
    assert len(reported) == TRIALS - sum(record["status"] == DONE for record in studies.killed.values())
    assert not (studies.out / "ray").exists()


@runs_studies
def test_trials_train_the_stills_until_they_are_stopped_and_the_base_to_the_end(studies: Studies) -> None:
    study = studies.study
    trials = study.trials.set_index("trial")
    assert trials.epochs[1] == RECIPE["epochs"]
    assert trials.stopped_early.equals(trials.epochs < RECIPE["epochs"])
    for number, record in study.records.items():
        assert [row.epoch for row in record.history] == list(range(1, trials.epochs[number] + 1))
        assert {row.phase for row in record.history} == {"stills"}
        assert trials.accuracy[number] == record.history[-1].accuracy
    assert study.best is not None
    assert trials.accuracy[study.best.number] == trials.accuracy.max()


@runs_studies
def test_a_finished_study_returns_at_once(studies: Studies, data: Path) -> None:
    lines: list[str] = []
    assert tune(make_config(data), studies.out, TRIALS, on_progress=collect_lines(lines)) == studies.study
    assert lines == []


@runs_studies
def test_another_configuration_is_refused(studies: Studies, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(lr was 0.1, is 0.2; metric was accuracy, is macro_f1\)"):
        tune(make_config(data, lr=0.2), studies.out, TRIALS, metric="macro_f1")


@runs_studies
def test_a_diverging_trial_fails_with_its_reason_and_the_next_one_runs(studies: Studies) -> None:
    records = read_trials(studies.failed)
    assert [record["status"] for record in records.values()] == [FAILED, FAILED]
    assert all(record["reason"].startswith("training diverged") for record in records.values())
    assert "the first failed: training diverged" in studies.failure
    assert (studies.failed / "trials.csv").read_text().count("training diverged") == 2
