"""A study: many short trainings around a base, whose results decide the next ones.

Optuna's TPE suggests the trials (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"), ASHA
stops those that fall behind (Li et al. 2020, arXiv:1810.05934), and Ray Tune runs them.

A study's folder is its record: `study.json` (its settings), `trials/` (a file for each trial, written before
it starts and when it has ended), and at the end `trials.json`, `trials.csv` and `best.toml`. A continued
study repeats interrupted trials, and tells Optuna and ASHA the results of the ended ones. Ray Tune's own
restore is not used: its snapshots are seconds old, and after a kill it repeated two of four finished trials.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import ray.tune
import torch

from fer_batch.data.clips import Clips
from fer_batch.errors import ConfigError
from fer_batch.runtime import joins_cluster, ray_session
from fer_batch.storage.atomic import convert_write_error, remove_temporary_files, write_json
from fer_batch.storage.folder import parse_local_folder
from fer_batch.storage.lease import hold_lease
from fer_batch.train_config import TrainConfig
from fer_batch.training.distill import check_teachers
from fer_batch.training.initialize import check_initial_weights
from fer_batch.training.loop import WorkerContext, train_network
from fer_batch.training.resources import (
    GpuCount,
    Resources,
    check_gpus,
    count_required,
    find_device,
    share_resources,
    wait_for_resources,
)
from fer_batch.training.sources import (
    check_examples,
    count_training_clips,
    describe_counts,
    describe_data,
    find_video_folder,
    load_images,
)
from fer_batch.training.state import TrainState, selected_epoch
from fer_batch.training.status import StatusCallback, StatusMessage, ignore_status
from fer_batch.training.tune.search import (
    REASON,
    VALUE,
    TrialRecorder,
    build_scheduler,
    build_search,
    read_suggestion,
)
from fer_batch.training.tune.space import apply_point
from fer_batch.training.tune.study import METRICS, RUNNING, Study

MAX_RESTARTS = 2
"""Restarts of a trial whose process died."""
QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
"""Environment in which Ray Tune prints no tables and writes no logs."""


def tune(
    config: TrainConfig,
    out: str | Path,
    trials: int = 20,
    *,
    metric: str = "accuracy",
    parallel: int | None = None,
    gpus: GpuCount = "auto",
    on_progress: StatusCallback = ignore_status,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> Study:
    """Try points of the search space around `config`, and write the results to the folder `out`.

    The first trial is `config` itself. A trial trains the stills of the CNN-BiLSTM, or another network as a
    whole, for up to `config.epochs`, in a process with `config.threads` threads. A trial that fails counts as
    the worst, and its result has the reason. A repeated call continues with the remaining trials, and may
    increase their number.

    Args:
        config: Data and settings of the base.
        out: Folder of the study: new, empty, or of the same settings.
        trials: Number of trials, from 1.
        metric: "accuracy" or "macro_f1", on the selection split.
        parallel: Trials that run at the same time, by default one on each GPU, or as many as the CPUs allow.
        gpus: GPUs that the trials share. The study waits until the cluster has them, and ends if they do not
            come. "auto" uses the GPUs that the cluster has now, or else CPUs.
        on_progress: Receives messages about the data and each trial, and the current epoch (transient).
        address: Address of a Ray cluster, by default a local one.
        insecure: Accept a cluster that requires no token.
        verbose: Show the messages of Ray.

    Raises:
        ConfigError: An argument is not allowed, or the folder holds a study of other settings.
        InputError: The data cannot be used.
        OutputError: The folder cannot be written, or holds something else.
        ResourceError: The cluster does not have the GPUs, or PyTorch cannot use them.
        FerBatchError: No trial is done.

    The first two are raised before anything is written.
    """
    _check_arguments(config, trials, metric, parallel)
    check_gpus(gpus)
    study = Study(config=config, out=parse_local_folder(out).absolute(), metric=metric)
    study.read_records()
    numbers = range(1, trials + 1)
    if any(n not in study.records or study.records[n].status == RUNNING for n in numbers):
        data = _load_data(config, study.out, on_progress)
        with hold_lease(study.out, "tune"):
            study.read_records()  # another process may have continued the study
            with convert_write_error(study.out):
                (study.out / "trials").mkdir(parents=True, exist_ok=True)
                remove_temporary_files(study.out / "trials")
                if not (study.out / "study.json").exists():
                    write_json(study.out / "study.json", {"settings": study.settings})
            on_progress(StatusMessage("starting Ray …"))
            can_grow = joins_cluster(address)
            with ray_session(address, insecure=insecure, verbose=verbose):
                resources, parallel = share_resources(ray.cluster_resources(), config.threads, parallel, gpus)
                count = count_required(gpus, min(parallel, trials))
                wait_for_resources(resources, count, can_grow=can_grow, on_progress=on_progress)
                _run_trials(study, trials, data, on_progress, resources, parallel, verbose)
    study.write_results()
    return study


def run_trial(
    suggestion: dict[str, float | str], config: TrainConfig, metric: str, training: Clips, selection: Clips
) -> None:
    """Run one trial in its own process, and report each epoch to Ray Tune."""
    torch.set_num_threads(config.threads)

    def on_epoch(state: TrainState) -> None:
        value = getattr(selected_epoch(config, state.history), metric)
        ray.tune.report({**state.history[-1].to_dict(), VALUE: value})

    try:
        device = find_device()
        trial = dataclasses.replace(apply_point(config, read_suggestion(suggestion)[1]), sequence_epochs=0)
        train_network(trial, training, selection, WorkerContext(device=device), on_epoch=on_epoch)
    except Exception as error:  # a failed trial must not end the study
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if "NaN" in reason:
            reason = f"training diverged, and the predictions are NaN ({reason})"
        ray.tune.report({VALUE: 0.0, REASON: reason})


def _run_trials(
    study: Study,
    trials: int,
    data: Clips,
    on_progress: StatusCallback,
    resources: Resources,
    parallel: int,
    verbose: bool,
) -> None:
    """Run the remaining trials, `parallel` at a time, each with these resources."""
    config = study.config
    search, remaining = build_search(study, trials, is_parallel=parallel > 1)
    scratch = study.out / "ray"
    shutil.rmtree(scratch, ignore_errors=True)
    os.environ |= {} if verbose else QUIET
    trainable = ray.tune.with_parameters(
        run_trial,
        config=config,
        metric=study.metric,
        training=data.take(data.splits == "train"),
        selection=data.take(data.splits == "select"),
    )
    ray.tune.Tuner(
        ray.tune.with_resources(trainable, resources),
        tune_config=ray.tune.TuneConfig(
            search_alg=search,
            scheduler=build_scheduler(study),
            num_samples=remaining,
            max_concurrent_trials=parallel,
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name=scratch.name,
            storage_path=str(study.out),
            callbacks=[TrialRecorder(study, trials, on_progress)],
            failure_config=ray.tune.FailureConfig(max_failures=MAX_RESTARTS),
            verbose=2 if verbose else 0,
        ),
    ).fit()
    shutil.rmtree(scratch)


def _load_data(config: TrainConfig, out: Path, on_progress: StatusCallback) -> Clips:
    check_initial_weights(config)
    data, counts = load_images(config)
    check_examples(config, data)
    check_teachers(config, data.classes)
    for line in [*describe_counts(counts), *describe_data(data, count_training_clips(config, data, out))]:
        on_progress(StatusMessage(line))
    return data


def _check_arguments(config: TrainConfig, trials: int, metric: str, parallel: int | None) -> None:
    for option, value, is_valid, allowed in (
        ("--trials", trials, trials >= 1, "a whole number from 1"),
        ("--metric", metric, metric in METRICS, f"one of {', '.join(METRICS)}"),
        ("--parallel", parallel, parallel is None or parallel >= 1, "a whole number from 1"),
        ("--epochs", config.epochs, config.epochs >= 1, "a whole number from 1"),
        ("--workers", config.workers, config.workers == 1, "1; --parallel runs several trials"),
    ):
        if not is_valid:
            raise ConfigError(f"{option} must be {allowed}, got {value}")
    if find_video_folder(config) is not None:
        raise ConfigError(
            "--data clips=… does not work with tune: tune on labelled images, then train on the videos with "
            "the recipe best.toml"
        )
