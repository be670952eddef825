"""A study: many short trainings around a base, of which the finished ones say what is tried next.

Optuna's TPE suggests the trials (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"), ASHA
ends those that fall behind (Li et al. 2020, arXiv:1810.05934), and Ray Tune runs them.

A study's folder is its record: `study.json` (its settings), `trials/` (a file a trial, written before it is
tried, and again when it has ended), and at the end `trials.json`, `trials.csv` and `best.toml`. What has no
finished file is tried again, and Optuna and ASHA are told of what has. Ray's own restore is not used: its
snapshots are seconds old, and after a kill it ran two of four finished trials once more.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import ray.tune
import torch
from ray.tune.experiment import Trial
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from fer_batch.config import TrainConfig
from fer_batch.data.datasets import Clips
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.weights import read_card
from fer_batch.runtime import ray_session
from fer_batch.storage.atomic import remove_temporary_files, remove_tree, write_json
from fer_batch.storage.lease import hold_lease
from fer_batch.training.loop import HISTORY, Place, learn
from fer_batch.training.sources import clips_of, division, images_of, training_counts
from fer_batch.training.tune.space import base_point, derived, space
from fer_batch.training.tune.study import (
    DONE,
    FAILED,
    METRICS,
    RUNNING,
    best_of,
    new_record,
    read_records,
    row_of,
    standing,
    write_record,
    write_results,
)

REDUCTION = 3
"""ASHA lets the best third of the trials pass each of its rungs, which are at 1/9 and 1/3 of the epochs."""
GRACE_LEAST = 2
"""Epochs before the first of them: one says little where the learning rate has still to rise."""
RANDOM_LEAST, RANDOM_MOST = 3, 10
"""Trials at random before TPE models what they found: a third of all, within these."""
RESTARTS = 2
"""How often a trial begins again whose process was lost."""
VALUE, REASON = "value", "reason"
QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
"""Environment in which Ray Tune prints no tables of its own, and writes no logs that nobody reads."""


def tune(
    config: TrainConfig,
    out: Path,
    trials: int = 20,
    *,
    metric: str = "accuracy",
    parallel: int | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[str], None] = lambda line: None,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Try `trials` points of the `space` around `config`, the base itself first, and write what came of them
    to `out`; returns "settings", "trials" (as in trials.json, in order of their number), "best" (the
    number of the best by `metric` on the selection split) and "importance" (see `importance`).

    A trial trains the stills of the CNN-BiLSTM, or another network as a whole, for up to `config.epochs`, in
    a process with `config.threads` threads; `parallel` run at once, by default one on each GPU, or as many
    as the CPUs allow. One that fails is bad as can be, and is a row with its reason.

    The same call again goes on with what is not done, and more `trials` add to it. Raises ConfigError for
    other settings on the same folder, OutputError where it holds something else, InputError for data that
    can't be used, all before anything is written, and FerBatchError where no trial came to an end.
    """
    _check(config, trials, metric, parallel)
    out = out.absolute()
    settings = {**config.to_dict(), "metric": metric}
    records = read_records(out, settings)
    if any(number not in records or records[number]["status"] == RUNNING for number in range(1, trials + 1)):
        data = _data(config, out, on_line)
        with hold_lease(out, "tune"):
            records = read_records(out, settings)  # another may have gone on with it in the meantime
            try:
                (out / "trials").mkdir(parents=True, exist_ok=True)
                remove_temporary_files(out / "trials")
                if not (out / "study.json").exists():
                    write_json(out / "study.json", {"settings": settings})
            except OSError as error:
                raise OutputError(f"{out} can't be written: {error.strerror}") from error
            on_line("starting Ray …")
            with ray_session(address, insecure=insecure, verbose=verbose):
                book = _Book(config, out, metric, trials, records, on_line, on_progress)
                _fit(book, data, parallel, verbose)
    return write_results(config, out, settings, [records[number] for number in sorted(records)])


def run_trial(
    point: dict[str, Any], config: TrainConfig, metric: str, training: Clips, selection: Clips
) -> None:
    """One trial, in a process of its own: trains, and reports each epoch."""
    torch.set_num_threads(config.threads)

    def epoch_done(state: dict[str, Any]) -> None:
        history = state["history"]
        ray.tune.report({**history[-1], VALUE: standing(config, history)[metric]})

    try:
        learn(
            dataclasses.replace(derived(config, point), sequence_epochs=0),
            training,
            selection,
            Place(device=torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            epoch_done=epoch_done,
        )
    except Exception as error:  # whatever it is, the study goes on
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if "NaN" in reason:
            reason = f"it diverged, its answers are no numbers ({reason})"
        ray.tune.report({VALUE: 0.0, REASON: reason})


class _Search(OptunaSearch):
    """Optuna's suggestions, each with its number and written down before it is tried."""

    def __init__(self, out: Path, numbers: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.out, self.numbers = out, numbers

    def suggest(self, trial_id: str) -> dict[str, Any]:
        values = super().suggest(trial_id) or {}
        number = self.numbers.pop(0)
        write_record(self.out, new_record(number, values, RUNNING))
        return {**values, "number": number}


class _Asha(ASHAScheduler):
    """ASHA that lets the base run to its end, as all others are compared with it."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if trial.config["number"] == 1 else action


class _Book(ray.tune.Callback):
    """Writes down what comes of the trials, and tells it."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        metric: str,
        trials: int,
        records: dict[int, dict[str, Any]],
        on_line: Callable[[str], None],
        on_progress: Callable[[str], None],
    ) -> None:
        self.config, self.out, self.metric, self.trials = config, out, metric, trials
        self.records, self.on_line, self.on_progress = records, on_line, on_progress
        self.open: dict[int, dict[str, Any]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._opened(trial)
        if REASON in result:
            record |= {"status": FAILED, "reason": result[REASON]}
            return
        begun_anew = record["history"][: result["epoch"] - 1]
        record["history"] = [*begun_anew, {name: result[name] for name in HISTORY}]
        self.on_progress(
            f"{self._done()} of {self.trials} trials done; trial {record['number']}: epoch {result['epoch']} "
            f"of {self.config.epochs}, accuracy {result['accuracy']:.4f}"
        )

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._close(self._opened(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        lines = str(trial.get_error() or "").split("\n")
        self._close(self._opened(trial) | {"status": FAILED, "reason": f"its process was lost: {lines[0]}"})

    def _opened(self, trial: Trial) -> dict[str, Any]:
        point = dict(trial.config)
        number = point.pop("number")
        return self.open.setdefault(number, new_record(number, point, DONE))

    def _close(self, record: dict[str, Any]) -> None:
        if record["status"] == DONE and not record["history"]:
            record |= {"status": FAILED, "reason": "it ended before its first epoch"}
        write_record(self.out, record)
        self.records[record["number"]] = record
        self.open.pop(record["number"], None)
        rows = [row_of(r, self.config) for r in self.records.values()]
        row, best = row_of(record, self.config), best_of(rows, self.metric)
        if row["status"] == FAILED:
            said = f"failed: {row['reason']}"
        else:
            epochs = f"{row['epochs']} of {self.config.epochs} epochs"
            scores = f"accuracy {row['accuracy']:.4f}, macro-F1 {row['macro_f1']:.4f}"
            said = f"{scores}, {epochs}, {row['seconds']:.0f} s"
        self.on_line(
            f"trial {row['trial']} ({self._done()} of {self.trials} done): {said}"
            + (f"; best is trial {best['trial']}, {best[self.metric]:.4f}" if best else "")
        )

    def _done(self) -> int:
        return sum(record["status"] != RUNNING for record in self.records.values())


def _check(config: TrainConfig, trials: int, metric: str, parallel: int | None) -> None:
    for option, value, valid, allowed in (
        ("--trials", trials, trials >= 1, "a whole number from 1"),
        ("--metric", metric, metric in METRICS, ", ".join(METRICS)),
        ("--parallel", parallel, parallel is None or parallel >= 1, "a whole number from 1"),
        ("--epochs", config.epochs, config.epochs >= 1, "a whole number from 1"),
        ("--workers", config.workers, config.workers == 1, "1: --parallel is how many trials run at once"),
    ):
        if not valid:
            raise ConfigError(f"{option} is {value}; allowed is {allowed}")
    if clips_of(config) is not None:
        raise ConfigError("--data clips=…: a study is of labelled images; train on videos by its best.toml")
    if config.init:
        read_card(Path(config.init))


def _data(config: TrainConfig, out: Path, on_line: Callable[[str], None]) -> Clips:
    """The labelled images, checked."""
    if config.backbone_weights:
        BackboneEncoder(config.backbone, config.backbone_size).load_pretrained(Path(config.backbone_weights))
    data, amiss = images_of(config)
    for split in ("train", "select"):
        if split not in data.splits:
            raise InputError(f"the data has nothing for the split {split!r}: give more images")
    for name, count in sorted(amiss.items()):
        on_line(f"data: {count} {name.replace('_', ' ')}")
    for line in division(data, training_counts(config, data, out)):
        on_line(line)
    return data


def _fit(book: _Book, data: Clips, parallel: int | None, verbose: bool) -> None:
    """Run the trials that have not ended, first those that have begun."""
    config, metric, records = book.config, book.metric, book.records
    resources, parallel = shares(ray.cluster_resources(), config.threads, parallel)
    ended = [record for record in records.values() if record["status"] != RUNNING]
    numbers = range(1, book.trials + 1)
    begun = [n for n in numbers if n in records and records[n]["status"] == RUNNING]
    new = [n for n in numbers if n not in records]
    points = [records[n]["values"] for n in begun]
    if 1 in new:
        points.append(base_point(config))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = _Search(
        book.out,
        [*begun, *new],
        space=space(config),
        metric=VALUE,
        mode="max",
        points_to_evaluate=points,
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=min(max(book.trials // 3, RANDOM_LEAST), RANDOM_MOST),
            constant_liar=parallel > 1,
            seed=config.seed * 1_000_003 + len(records),  # not once more what was drawn before
        ),
    )
    for record in ended:
        value = standing(config, record["history"])[metric] if record["status"] == DONE else 0.0
        search.add_evaluated_point(record["values"], value)
    scratch = book.out / "ray"
    if scratch.exists():
        remove_tree(scratch)
    os.environ |= {} if verbose else QUIET
    trainable = ray.tune.with_parameters(
        run_trial,
        config=config,
        metric=metric,
        training=data.take(data.splits == "train"),
        selection=data.take(data.splits == "select"),
    )
    ray.tune.Tuner(
        ray.tune.with_resources(trainable, resources),
        tune_config=ray.tune.TuneConfig(
            search_alg=search,
            scheduler=_asha(config, metric, ended),
            num_samples=len(begun) + len(new),
            max_concurrent_trials=parallel,
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name=scratch.name,
            storage_path=str(book.out),
            callbacks=[book],
            failure_config=ray.tune.FailureConfig(max_failures=RESTARTS),
            verbose=2 if verbose else 0,
        ),
    ).fit()
    remove_tree(scratch)


def shares(there: dict[str, float], threads: int, parallel: int | None) -> tuple[dict[str, float], int]:
    """Ray's resources of a trial, and how many run at once: `parallel`, or one on each GPU, or as many as
    the CPUs allow. `there` is what Ray has of each.
    """
    cpus, gpus = there.get("CPU", 1), there.get("GPU", 0)
    parallel = parallel or max(1, int(gpus or cpus // threads))
    cpu = min(threads, int(10_000 * cpus / parallel) / 10_000)  # Ray counts ten-thousandths
    return {"CPU": cpu, **({"GPU": 1 / math.ceil(parallel / gpus)} if gpus else {})}, parallel


def _asha(config: TrainConfig, metric: str, ended: list[dict[str, Any]]) -> ASHAScheduler:
    """ASHA that has seen the trials that have ended."""
    least = min(GRACE_LEAST, config.epochs)
    asha = _Asha(
        metric=VALUE,
        mode="max",
        max_t=config.epochs,
        grace_period=max(math.ceil(config.epochs / REDUCTION**2), least),
        reduction_factor=REDUCTION,
    )
    for record in ended:
        number = record["number"]
        trial = Trial("", trial_id=f"before-{number}", config={"number": number}, stub=True)
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]  # it has no use for a controller
        for epoch in range(1, len(record["history"]) + 1):
            value = standing(config, record["history"][:epoch])[metric]
            asha.on_trial_result(None, trial, {TRAINING_ITERATION: epoch, VALUE: value})
    return asha
