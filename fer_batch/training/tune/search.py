"""The parts of Ray Tune that a study needs: the search, ASHA, and a callback for records."""

import math
from pathlib import Path
from typing import Any

import optuna
import ray.tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from fer_batch.training.recipes import Settings
from fer_batch.training.state import HISTORY_COLUMNS, EpochResult, selected_epoch
from fer_batch.training.status import StatusCallback, StatusMessage
from fer_batch.training.tune.space import Point, build_space, locate_base
from fer_batch.training.tune.study import DONE, FAILED, RUNNING, Study, TrialRecord

ASHA_REDUCTION = 3
"""ASHA continues the best third of the trials at 1/9 and at 1/3 of the epochs."""
MIN_GRACE_EPOCHS = 2
"""Epochs before ASHA stops a trial: during the first one the learning rate may still rise."""
MIN_RANDOM_TRIALS, MAX_RANDOM_TRIALS = 3, 10
"""Limits of the random trials before TPE models the results; a third of all trials is random."""
VALUE, REASON = "value", "reason"
"""Keys of a trial's report: the metric so far, and the reason of a failure."""


class TrialRecorder(ray.tune.Callback):
    """Writes the record of each trial when it ends, and reports the progress of the study."""

    def __init__(self, study: Study, trials: int, on_progress: StatusCallback) -> None:
        self.study, self.trials, self.on_progress = study, trials, on_progress
        self.running: dict[int, TrialRecord] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: Settings, **info: Any
    ) -> None:
        record = self._find_record(trial)
        if REASON in result:
            record.status, record.reason = FAILED, result[REASON]
            return
        # A restarted trial reports its first epochs again.
        earlier = record.history[: result["epoch"] - 1]
        record.history = [*earlier, EpochResult(**{name: result[name] for name in HISTORY_COLUMNS})]
        self.on_progress(
            StatusMessage(
                f"{self._count_ended()} of {self.trials} trials done; trial {record.number}: "
                f"epoch {result['epoch']} of {self.study.config.epochs}, accuracy {result['accuracy']:.4f}",
                transient=True,
            )
        )

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._close(self._find_record(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._find_record(trial)
        first_line = str(trial.get_error() or "").split("\n")[0]
        record.status, record.reason = FAILED, f"its process died: {first_line}"
        self._close(record)

    def _find_record(self, trial: Trial) -> TrialRecord:
        number, point = read_suggestion(trial.config)
        return self.running.setdefault(number, TrialRecord(number=number, values=point, status=DONE))

    def _close(self, record: TrialRecord) -> None:
        if record.status == DONE and not record.history:
            record.status, record.reason = FAILED, "it ended before its first epoch"
        study = self.study
        record.write(study.out)
        study.records[record.number] = record
        self.running.pop(record.number, None)
        if record.status == FAILED:
            outcome = f"failed: {record.reason}"
        else:
            kept = selected_epoch(study.config, record.history)
            seconds = sum(epoch.seconds for epoch in record.history)
            outcome = (
                f"accuracy {kept.accuracy:.4f}, macro-F1 {kept.macro_f1:.4f}, "
                f"{len(record.history)} of {study.config.epochs} epochs, {seconds:.0f} s"
            )
        text = f"trial {record.number} ({self._count_ended()} of {self.trials} done): {outcome}"
        if best := study.best:
            text += f"; best so far: trial {best.number}, {study.score(best):.4f}"
        self.on_progress(StatusMessage(text))

    def _count_ended(self) -> int:
        return sum(record.status != RUNNING for record in self.study.records.values())


def read_suggestion(suggestion: Settings) -> tuple[int, Point]:
    """Split a suggestion of `RecordedSearch` into the number of the trial and its point."""
    values = dict(suggestion)
    return values.pop("number"), Point(**values)


class RecordedSearch(OptunaSearch):
    """Optuna's suggestions; each gets a number, and is recorded before its trial starts."""

    def __init__(self, out: Path, numbers: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.out, self.numbers = out, numbers

    def suggest(self, trial_id: str) -> Settings:
        values = super().suggest(trial_id) or {}
        number = self.numbers.pop(0)
        TrialRecord(number=number, values=Point(**values)).write(self.out)
        return {**values, "number": number}


class BaseKeepingAsha(ASHAScheduler):
    """ASHA that never stops the base, because all other trials are compared with it."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Settings) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if trial.config["number"] == 1 else action


def build_search(study: Study, trials: int, *, is_parallel: bool) -> tuple[RecordedSearch, int]:
    """Build the search of a study with `trials` trials, which knows the results of the ended ones.

    Returns the search and the number of remaining trials. Interrupted trials are repeated first.
    """
    config, records = study.config, study.records
    interrupted = [n for n in range(1, trials + 1) if n in records and records[n].status == RUNNING]
    new = [n for n in range(1, trials + 1) if n not in records]
    points = [records[n].values.to_dict() for n in interrupted]
    if 1 in new:
        points.append(locate_base(config).to_dict())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = RecordedSearch(
        study.out,
        [*interrupted, *new],
        space=build_space(config),
        metric=VALUE,
        mode="max",
        points_to_evaluate=points,
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=min(max(trials // 3, MIN_RANDOM_TRIALS), MAX_RANDOM_TRIALS),
            constant_liar=is_parallel,
            seed=config.seed * 1_000_003 + len(records),  # a continued study draws other points
        ),
    )
    for record in records.values():
        if record.status != RUNNING:
            search.add_evaluated_point(record.values.to_dict(), study.score(record))
    return search, len(interrupted) + len(new)


def build_scheduler(study: Study) -> ASHAScheduler:
    """Build ASHA, which knows the results of the ended trials."""
    epochs = study.config.epochs
    asha = BaseKeepingAsha(
        metric=VALUE,
        mode="max",
        max_t=epochs,
        grace_period=max(math.ceil(epochs / ASHA_REDUCTION**2), min(MIN_GRACE_EPOCHS, epochs)),
        reduction_factor=ASHA_REDUCTION,
    )
    for record in study.records.values():
        if record.status == RUNNING:
            continue
        trial = Trial("", trial_id=f"before-{record.number}", config={"number": record.number}, stub=True)
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]  # ASHA does not use the controller
        for epoch in range(1, len(record.history) + 1):
            value = study.measure(record.history[:epoch])
            asha.on_trial_result(None, trial, {"training_iteration": epoch, VALUE: value})
    return asha
