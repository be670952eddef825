"""Run folds one after another in this process, or in parallel on Ray. Each finished fold is a file.

The file, such as `fold_01.json`, holds the probabilities of the fold's clips by model, and facts about the
training. A fold whose file exists is finished.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from fer_batch.data.clips import Clips
from fer_batch.errors import ConfigError, FerBatchError, OutputError
from fer_batch.evaluation.crossval.folds import Fold
from fer_batch.evaluation.crossval.train_fold import FoldResult, train_fold
from fer_batch.faults import fault_point
from fer_batch.runtime import joins_cluster, ray_session
from fer_batch.storage.atomic import convert_write_error, write_bytes
from fer_batch.train_config import TrainConfig
from fer_batch.training.resources import (
    GpuCount,
    Resources,
    check_gpus,
    count_required,
    describe_device,
    find_device,
    share_resources,
    wait_for_resources,
)

MAX_RETRIES = 3
"""Retries of a fold after its process has died."""
FACTS = ("trained_on", "held_out", "train_accuracy", "epochs", "seconds")
"""Fields of a `FoldResult` in its file, beside the probabilities."""


def run_folds(
    config: TrainConfig,
    data: Clips,
    pending: dict[Path, Fold],
    models: Sequence[str],
    *,
    parallel: int | None,
    gpus: GpuCount = "auto",
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> Iterator[Path]:
    """Train and predict each pending fold, write its file, and yield each finished file.

    `parallel` folds run at a time as tasks of Ray; None means one for each GPU, or as many as there are CPUs.
    One at a time runs in this process, without Ray, and an error ends the run. On Ray, a fold whose process
    dies is retried `MAX_RETRIES` times. If a fold fails, the others are finished first, then FerBatchError
    names it. The folds share `gpus` GPUs; with "auto" those that exist now.

    Raises ConfigError for GPUs that this process cannot use, ResourceError as `wait_for_resources` does.
    """
    on_cluster = address or os.environ.get("RAY_ADDRESS")
    if parallel == 1 or not pending or (parallel is None and len(pending) == 1 and not on_cluster):
        device = _choose_own_device(gpus)
        torch.set_num_threads(config.threads)
        for file, fold in pending.items():
            write_fold(file, train_fold(config, data, fold, models, device))
            yield file
        return
    on_line("starting Ray …")
    cpus, can_grow = None if parallel is None else parallel * config.threads, joins_cluster(address)
    with ray_session(address, insecure=insecure, num_cpus=cpus, verbose=verbose):
        resources, slots = share_resources(ray.cluster_resources(), config.threads, parallel, gpus)
        slots = min(len(pending), slots)
        count = count_required(gpus, slots)
        wait_for_resources(
            resources, count, can_grow=can_grow, on_progress=lambda message: on_line(message.text)
        )
        yield from _run_on_ray(config, data, pending, models, resources, slots, on_line)


def run_fold(config: TrainConfig, data: Clips, fold: Fold, models: Sequence[str]) -> FoldResult:
    """Train and predict one fold in a process of Ray."""
    torch.set_num_threads(config.threads)
    result = train_fold(config, data, fold, models, find_device())
    fault_point("fold.trained")
    return result


def write_fold(file: Path, result: FoldResult) -> None:
    """Write a fold's file; raises OutputError if that is impossible."""
    probs = {model: values.tolist() for model, values in result.probs.items()}
    content = json.dumps({**probs, **{name: getattr(result, name) for name in FACTS}})
    with convert_write_error(file):
        write_bytes(file, content.encode())


def name_fold_file(out: Path, fold: Fold, with_division: bool, with_seed: bool) -> Path:
    """Return the path of a fold's file in `out`."""
    words = [fold.by] * with_division + [f"seed_{fold.seed}"] * with_seed + [f"fold_{fold.number:02d}"]
    return out / f"{'_'.join(words)}.json"


def read_fold(file: Path, fold: Fold, models: Sequence[str], classes: int) -> FoldResult:
    """Read a fold's file.

    Raises OutputError unless it holds probabilities of each of `models` for the clips of the fold.
    """
    try:
        content = dict(json.loads(file.read_text()))
        result = FoldResult(
            fold=fold,
            probs={model: np.array(content[model], np.float64) for model in models},
            **{name: content[name] for name in FACTS},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{file} does not hold the predictions of a fold ({error}): delete it to repeat the fold"
        ) from error
    count = int(fold.tested.sum())
    if any(probs.shape != (count, classes) for probs in result.probs.values()):
        raise OutputError(f"{file} does not hold {count} predictions: delete it to repeat the fold")
    return result


def _choose_own_device(gpus: GpuCount) -> torch.device:
    """Return the device for folds in this process; raises ConfigError if it has no GPU but needs one."""
    check_gpus(gpus)
    has_gpu = gpus != 0 and torch.cuda.is_available()
    if gpus != "auto" and gpus and not has_gpu:
        raise ConfigError(f"--gpus {gpus}: PyTorch finds no GPU on this machine; give --gpus 0 to use CPUs")
    return torch.device("cuda" if has_gpu else "cpu")


def _run_on_ray(
    config: TrainConfig,
    data: Clips,
    pending: dict[Path, Fold],
    models: Sequence[str],
    resources: Resources,
    slots: int,
    on_line: Callable[[str], None],
) -> Iterator[Path]:
    on_line(f"{len(pending)} folds, {slots} at a time, {describe_device(resources)}")
    cpus, gpus = resources["CPU"], resources.get("GPU", 0)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run_fold)
    config_ref, data_ref = ray.put(config), ray.put(data)
    waiting, deaths = list(pending), dict.fromkeys(pending, 0)
    running: dict[Any, Path] = {}
    failed: dict[Path, str] = {}
    while waiting or running:
        while waiting and len(running) < slots:
            file = waiting.pop(0)
            running[task.remote(config_ref, data_ref, pending[file], models)] = file
        (ended,), _ = ray.wait(list(running), num_returns=1)
        file = running.pop(ended)
        try:
            write_fold(file, ray.get(ended))
        except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
            deaths[file] += 1
            if deaths[file] <= MAX_RETRIES:
                on_line(f"{file.stem}: its process died; retry {deaths[file]} of {MAX_RETRIES}")
                waiting.append(file)
            else:
                failed[file] = f"its process died {deaths[file]} times ({type(error).__name__})"
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            expected = isinstance(cause, FerBatchError)
            failed[file] = str(cause) if expected else f"{type(cause).__name__}: {cause}"
        except OutputError as error:
            failed[file] = str(error)
        else:
            yield file
    if failed:
        reasons = "; ".join(f"{file.stem}: {' '.join(reason.split())}" for file, reason in failed.items())
        raise FerBatchError(
            f"{len(failed)} of {len(pending)} folds failed ({reasons}); the others are finished: run the "
            "same command again to repeat the failed ones"
        )
