"""The folder of a study: a file for each trial, and the tables and the recipe that result from them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from fer_batch.config import TrainConfig, difference
from fer_batch.errors import ConfigError, FerBatchError, OutputError
from fer_batch.storage.atomic import convert_write_error, format_csv, write_bytes, write_json
from fer_batch.storage.folder import check_folder_empty
from fer_batch.training.recipes import Settings, format_recipe
from fer_batch.training.state import EpochResult, selected_epoch
from fer_batch.training.tune.space import PARAMETERS, Point, apply_point, build_space

METRICS = ("accuracy", "macro_f1")
COLUMNS = (
    "trial", *PARAMETERS, "epochs", "stopped_early", "accuracy", "macro_f1", "seconds", "status", "reason"
)  # fmt: skip
"""Columns of `trials.csv`."""
RUNNING, DONE, FAILED = "running", "done", "failed"
MIN_TRIALS_FOR_IMPORTANCE = 4


@dataclass(kw_only=True)
class TrialRecord:
    """The file of a trial, which is written before the trial starts and when it has ended."""

    number: int
    """From 1; trial 1 is the base."""
    values: Point
    """The point of the search space."""
    status: str = RUNNING
    """"running", "done" or "failed"."""
    reason: str = ""
    history: list[EpochResult] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """Write the record into the study's folder."""
        record = dataclasses.asdict(self) | {"values": self.values.to_dict()}
        write_json(out / "trials" / f"{self.number:04d}.json", record, "trial")

    @classmethod
    def read(cls, path: Path) -> "TrialRecord":
        """Read a record; raises OutputError if the file holds something else."""
        try:
            record = json.loads(path.read_text())
            values, history = Point(**record.pop("values")), record.pop("history")
            return cls(**record, values=values, history=[EpochResult(**row) for row in history])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise OutputError(
                f"{path} is not the record of a trial ({error}); delete it to repeat the trial"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: its base, its folder, and the trials that are recorded there."""

    config: TrainConfig
    out: Path
    metric: str
    """"accuracy" or "macro_f1", on the selection split."""
    records: dict[int, TrialRecord] = field(default_factory=dict)
    """The trials by number."""

    @property
    def settings(self) -> Settings:
        """Settings of the base, and the "metric" that decides."""
        return {**self.config.to_dict(), "metric": self.metric}

    def measure(self, history: Sequence[EpochResult]) -> float:
        """Return the metric of the epoch that training keeps if it ends after `history`."""
        return float(getattr(selected_epoch(self.config, history), self.metric))

    def read_records(self) -> None:
        """Read the trials in the folder; there are none if the folder is new or empty.

        Raises ConfigError if it holds a study of other settings, OutputError if it holds something else.
        """
        file = self.out / "study.json"
        if not file.exists():
            check_folder_empty(self.out, "a study")
            return
        try:
            before = dict(json.loads(file.read_text())["settings"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OutputError(f"{file} is not the record of a study: {error}") from error
        if changed := difference(before, self.settings):
            raise ConfigError(f"{self.out} holds a study of other settings ({changed}); give another --out")
        for path in sorted((self.out / "trials").glob("[0-9]*.json")):
            record = TrialRecord.read(path)
            self.records[record.number] = record


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """The result of a trial: a row of `trials.csv`, and an entry of `trials.json`.

    A parameter is None if it is not searched, and the metrics are None for a failed trial.
    """

    trial: int
    lr: float
    width: float | None
    dropout: float | None
    augmentation: float
    imbalance: str
    epochs: int
    stopped_early: bool
    accuracy: float | None
    """Accuracy on the selection split, in the epoch that `train` would keep."""
    macro_f1: float | None
    seconds: float
    status: str
    reason: str
    settings: Settings
    """Settings that differ from the base, by the names of `TrainConfig`'s fields."""
    history: list[EpochResult]

    def metric(self, name: str) -> float:
        """Return the "accuracy" or "macro_f1" of a finished trial."""
        return float(getattr(self, name))


@dataclass(frozen=True, kw_only=True, repr=False)
class StudySummary:
    """The result of a study."""

    metric: str
    """"accuracy" or "macro_f1", on the selection split; it decides."""
    trials: list[TrialResult]
    """In order of their numbers."""
    best: TrialResult
    """The first trial with the best metric on the selection split."""
    importance: dict[str, float]
    """Share of the results' variance that each parameter explains; see `estimate_importance`."""

    def __repr__(self) -> str:
        return (
            f"StudySummary({len(self.trials)} trials, best: trial {self.best.trial}, "
            f"{self.metric}={self.best.metric(self.metric):.4f})"
        )


def summarize_trial(record: TrialRecord, config: TrainConfig) -> TrialResult:
    """Summarize a trial of the study around `config`."""
    is_done = record.status == DONE
    kept = selected_epoch(config, record.history) if is_done else None
    base = config.to_dict()
    own = apply_point(config, record.values).to_dict()
    return TrialResult(
        trial=record.number,
        **vars(record.values),
        epochs=len(record.history),
        stopped_early=is_done and len(record.history) < config.epochs,
        accuracy=kept.accuracy if kept else None,
        macro_f1=kept.macro_f1 if kept else None,
        seconds=round(sum(epoch.seconds for epoch in record.history), 1),
        status=record.status,
        reason=record.reason,
        settings={name: value for name, value in own.items() if value != base[name]},
        history=record.history,
    )


def find_best(trials: Sequence[TrialResult], metric: str) -> TrialResult | None:
    """Find the first trial with the best metric; returns None if no trial is done."""
    done = (trial for trial in trials if trial.status == DONE)
    return max(done, key=lambda trial: trial.metric(metric), default=None)


def build_optuna_study(
    trials: Sequence[TrialResult], space: Mapping[str, BaseDistribution], metric: str
) -> optuna.Study:
    """Build an Optuna study with the trials. Their numbers agree, because Optuna's trial 0 is a dummy."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trial(optuna.create_trial(state=TrialState.FAIL))
    for trial in trials:
        done = trial.status == DONE
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if done else TrialState.FAIL,
                value=trial.metric(metric) if done else None,
                params={name: getattr(trial, name) for name in space},
                distributions=dict(space),
                intermediate_values={row.epoch: getattr(row, metric) for row in trial.history},
            )
        )
    return study


def estimate_importance(trials: Sequence[TrialResult], config: TrainConfig, metric: str) -> dict[str, float]:
    """Estimate the share of the results' variance that each parameter explains.

    The shares sum to 1 and are sorted, highest first. They are empty if there are too few trials, or all
    results are equal. The method is functional ANOVA over a random forest (Hutter et al. 2014, "An Efficient
    Approach for Assessing Hyperparameter Importance"). It is inaccurate for few trials.
    """
    done = [trial for trial in trials if trial.status == DONE]
    if len(done) < MIN_TRIALS_FOR_IMPORTANCE or len({trial.metric(metric) for trial in done}) == 1:
        return {}
    study = build_optuna_study(done, build_space(config), metric)
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=forest)
    except RuntimeError:  # no tree of the forest splits the trials
        return {}
    return {name: float(share) for name, share in shares.items()}


def write_results(study: Study) -> StudySummary:
    """Write `trials.csv`, `trials.json`, `best.toml` and `study.json`, and return the summary.

    Raises OutputError if they cannot be written, FerBatchError if no trial is done.
    """
    config, out, metric = study.config, study.out, study.metric
    trials = [summarize_trial(record, config) for _, record in sorted(study.records.items())]
    best = find_best(trials, metric)
    importance = estimate_importance(trials, config, metric)
    with convert_write_error(out):
        rows = [[getattr(trial, name) for name in COLUMNS] for trial in trials]
        write_bytes(out / "trials.csv", format_csv(COLUMNS, rows))
        write_json(out / "trials.json", [dataclasses.asdict(trial) for trial in trials])
        if best:
            recipe = format_recipe(apply_point(config, study.records[best.trial].values))
            result = f"{metric} {best.metric(metric):.4f} on the selection split"
            title = f"# Trial {best.trial} of {len(trials)}: {result}\n"
            write_bytes(out / "best.toml", (title + recipe).encode())
        record = {"settings": study.settings, "best": best.trial if best else None, "importance": importance}
        write_json(out / "study.json", record)
    if best is None:
        raise FerBatchError(
            f"no trial in {out} is done; the first failed: {trials[0].reason}. "
            "Give other settings and another --out"
        )
    return StudySummary(metric=metric, trials=trials, best=best, importance=importance)
