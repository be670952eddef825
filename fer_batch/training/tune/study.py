"""A study: its trials, each a file in its folder, and the tables and the recipe that result from them."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState

from fer_batch.config import difference
from fer_batch.errors import ConfigError, FerBatchError, OutputError
from fer_batch.storage.atomic import convert_write_error, write_bytes, write_json
from fer_batch.storage.folder import read_folder_record
from fer_batch.train_config import TrainConfig
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Study:
    """A study: its base, its folder, and the trials that are recorded there."""

    config: TrainConfig
    out: Path
    metric: str
    """"accuracy" or "macro_f1", on the selection split; it decides."""
    records: dict[int, TrialRecord] = field(default_factory=dict)
    """The trials by number."""

    def __repr__(self) -> str:
        best = self.best
        result = f"{self.metric}={self.score(best):.4f} in trial {best.number}" if best else "none done"
        return f"Study({len(self.records)} trials, {result})"

    @property
    def settings(self) -> Settings:
        """Settings of the base, and the "metric" that decides."""
        return {**self.config.to_dict(), "metric": self.metric}

    @property
    def best(self) -> TrialRecord | None:
        """The first trial with the best metric on the selection split; None if no trial is done."""
        done = (record for _, record in sorted(self.records.items()) if record.status == DONE)
        return max(done, key=self.score, default=None)

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial by number; the columns are `COLUMNS`.

        A parameter is missing if it is not searched. Accuracy and macro-F1 are those on the selection split
        in the epoch that `train` would keep; they are missing for a failed trial.
        """
        return pd.DataFrame(self.describe_trials(), columns=COLUMNS)

    @cached_property
    def importance(self) -> dict[str, float]:
        """Share of the variance of the finished study's results that each parameter explains.

        The shares sum to 1 and are sorted, highest first. They are empty if there are too few trials, or all
        results are equal. The method is functional ANOVA over a random forest (Hutter et al. 2014, "An
        Efficient Approach for Assessing Hyperparameter Importance"). It is inaccurate for few trials.
        """
        scores = [self.score(record) for record in self.records.values() if record.status == DONE]
        if len(scores) < MIN_TRIALS_FOR_IMPORTANCE or len(set(scores)) == 1:
            return {}
        forest = FanovaImportanceEvaluator(seed=0)
        try:
            return optuna.importance.get_param_importances(self.to_optuna(), evaluator=forest)
        except RuntimeError:  # no tree of the forest splits the trials
            return {}

    def measure(self, history: Sequence[EpochResult]) -> float:
        """Return the metric of the epoch that training keeps if it ends after `history`."""
        return float(getattr(selected_epoch(self.config, history), self.metric))

    def score(self, record: TrialRecord) -> float:
        """Return the metric of a trial; a trial that is not done counts as the worst."""
        return self.measure(record.history) if record.status == DONE else 0.0

    def describe_trials(self) -> list[Settings]:
        """Return the entries of `trials.json`.

        They have the values of `COLUMNS`, and the `settings` that differ from the base, and the `history`.
        """
        base = self.config.to_dict()
        rows = []
        for _, record in sorted(self.records.items()):
            is_done, epochs = record.status == DONE, len(record.history)
            kept = selected_epoch(self.config, record.history) if is_done else None
            own = apply_point(self.config, record.values).to_dict()
            rows.append(
                {
                    "trial": record.number,
                    **vars(record.values),
                    "epochs": epochs,
                    "stopped_early": is_done and epochs < self.config.epochs,
                    "accuracy": kept.accuracy if kept else None,
                    "macro_f1": kept.macro_f1 if kept else None,
                    "seconds": round(sum(epoch.seconds for epoch in record.history), 1),
                    "status": record.status,
                    "reason": record.reason,
                    "settings": {name: value for name, value in own.items() if value != base[name]},
                    "history": [row.to_dict() for row in record.history],
                }
            )
        return rows

    def to_optuna(self) -> optuna.Study:
        """Build an Optuna study with the trials. Their numbers agree, because Optuna's trial 0 is a dummy."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize")
        study.add_trial(optuna.create_trial(state=TrialState.FAIL))
        space = build_space(self.config)
        for _, record in sorted(self.records.items()):
            is_done = record.status == DONE
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.COMPLETE if is_done else TrialState.FAIL,
                    value=self.score(record) if is_done else None,
                    params=record.values.to_dict(),
                    distributions=space,
                    intermediate_values={row.epoch: getattr(row, self.metric) for row in record.history},
                )
            )
        return study

    def read_records(self) -> None:
        """Read the trials in the folder; there are none if the folder is new or empty.

        Raises ConfigError if it holds a study of other settings, OutputError if it holds something else.
        """
        before = read_folder_record(self.out, "study.json", "a study")
        if before is None:
            return
        if not isinstance(before.get("settings"), dict):
            raise OutputError(f"{self.out / 'study.json'} is not the record of a study: it has no settings")
        if changed := difference(before["settings"], self.settings):
            raise ConfigError(f"{self.out} holds a study of other settings ({changed}); give another --out")
        for path in sorted((self.out / "trials").glob("[0-9]*.json")):
            record = TrialRecord.read(path)
            self.records[record.number] = record

    def write_results(self) -> None:
        """Write `trials.csv`, `trials.json`, `best.toml` and `study.json`.

        Raises OutputError if they cannot be written, FerBatchError if no trial is done.
        """
        out, best = self.out, self.best
        with convert_write_error(out):
            write_bytes(out / "trials.csv", self.trials.to_csv(index=False).encode())
            write_json(out / "trials.json", self.describe_trials())
            if best:
                result = f"{self.metric} {self.score(best):.4f} on the selection split"
                title = f"# Trial {best.number} of {len(self.records)}: {result}\n"
                recipe = format_recipe(apply_point(self.config, best.values))
                write_bytes(out / "best.toml", (title + recipe).encode())
            number = best.number if best else None
            record = {"settings": self.settings, "best": number, "importance": self.importance}
            write_json(out / "study.json", record)
        if best is None:
            raise FerBatchError(
                f"no trial in {out} is done; the first failed: {self.trials.reason[0]}. "
                "Give other settings and another --out"
            )
