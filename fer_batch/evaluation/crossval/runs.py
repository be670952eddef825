"""Folds trained and answered, each to a file of its own: in this process one after another, or side by side
on Ray.

A fold's file is `fold_01.json` (`file_of`): of each model the probabilities of the fold's clips, and how it
was trained. What is there is done.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from fer_batch.config import TrainConfig
from fer_batch.data.clips import Clips
from fer_batch.errors import FerBatchError, InputError, OutputError
from fer_batch.evaluation.crossval.folds import Fold, draw_part, groups_of
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import Network
from fer_batch.runtime import ray_session
from fer_batch.storage.atomic import write_bytes
from fer_batch.training.loop import train_network
from fer_batch.training.predict import (
    frames_to_tensor,
    normalize_crops,
    predict_log_probs,
    select_input_frames,
)
from fer_batch.training.state import TrainState
from fer_batch.training.workers import WorkerContext

PAIR = ("cnn", "cnn_bilstm")
"""Two answers of one training: the encoder and its head on the last frame, after the stills; and all of the
network on all frames of the sequence, at the last."""
ALONE = ("model",)
"""What a training ends with."""
HELD_OUT = 0.1
"""Share of a fold's training clips that "plateau" and early stopping look at, where they are asked for."""
RETRIES = 3
"""Times that a fold is begun anew after the process that ran it has died."""
AT_ONCE = 64
"""Sequences answered in one batch."""


def file_of(out: Path, fold: Fold, protocol_named: bool, seed_named: bool) -> Path:
    """The file of a fold in `out`; its name says the protocol and the seed where there are several."""
    words = [fold.by] * protocol_named + [f"seed_{fold.seed}"] * seed_named + [f"fold_{fold.number:02d}"]
    return out / f"{'_'.join(words)}.json"


def run_folds(
    config: TrainConfig,
    data: Clips,
    todo: dict[Path, Fold],
    models: Sequence[str],
    *,
    parallel: int | None,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> Iterator[Path]:
    """Train and answer each fold of `todo`, as `config` says but with the fold's seed, and write its file;
    yields the files as they are done.

    `parallel` folds at once are tasks of Ray, by default as many as it has CPUs for; one at a time is done in
    this process, without Ray, and an error ends it. On Ray a fold whose process dies is begun anew, `RETRIES`
    times, and where one fails the others are done first; then FerBatchError says which, and why.
    """
    elsewhere = address or os.environ.get("RAY_ADDRESS")
    if parallel == 1 or not todo or (parallel is None and len(todo) == 1 and not elsewhere):
        for file, fold in todo.items():
            run_fold(config, data, fold, models, file)
            yield file
        return
    on_line("starting Ray …")
    cpus = None if parallel is None else parallel * config.threads
    with ray_session(address, insecure=insecure, num_cpus=cpus, verbose=verbose):
        yield from _on_ray(config, data, todo, models, parallel, on_line)


def _on_ray(
    config: TrainConfig,
    data: Clips,
    todo: dict[Path, Fold],
    models: Sequence[str],
    parallel: int | None,
    on_line: Callable[[str], None],
) -> Iterator[Path]:
    there = ray.cluster_resources()
    at_once = min(len(todo), parallel or max(1, int(there.get("CPU", 1)) // config.threads))
    on_line(f"{len(todo)} folds, {at_once} at a time")
    gpus = int(10_000 * min(1.0, there.get("GPU", 0) / at_once)) / 10_000
    task = ray.remote(num_cpus=config.threads, num_gpus=gpus, max_retries=0)(run_fold)
    settings, clips = ray.put(config), ray.put(data)
    waiting, tries = list(todo), dict.fromkeys(todo, 0)
    running: dict[Any, Path] = {}
    failed: dict[Path, str] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            file = waiting.pop(0)
            running[task.remote(settings, clips, todo[file], models, file)] = file
        (ended,), _ = ray.wait(list(running), num_returns=1)
        file = running.pop(ended)
        try:
            ray.get(ended)
        except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
            tries[file] += 1
            if tries[file] <= RETRIES:
                on_line(f"{file.stem}: its process died; begun anew, {tries[file]} of {RETRIES} times")
                waiting.append(file)
            else:
                failed[file] = f"its process died {tries[file]} times ({type(error).__name__})"
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            failed[file] = (
                str(cause) if isinstance(cause, FerBatchError) else f"{type(cause).__name__}: {cause}"
            )
        else:
            if not file.exists():
                raise OutputError(
                    f"{file.name} was written on another machine: --out must be a folder that all of the "
                    "cluster share"
                )
            yield file
    if failed:
        said = "; ".join(f"{file.stem}: {' '.join(reason.split())}" for file, reason in failed.items())
        raise FerBatchError(
            f"{len(failed)} of {len(todo)} folds could not be done ({said}); the others are, and the same "
            "command again does what is left"
        )


def run_fold(config: TrainConfig, data: Clips, fold: Fold, models: Sequence[str], file: Path) -> None:
    """Train on all clips but the fold's, answer the fold's, and write `file`."""
    torch.set_num_threads(config.threads)
    config = dataclasses.replace(config, seed=fold.seed)
    write_whole(file, json.dumps(_answered(config, data, fold, models)).encode())


def _answered(config: TrainConfig, data: Clips, fold: Fold, models: Sequence[str]) -> dict[str, Any]:
    """What stands in a fold's file."""
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learned_from, looked_at = (data.take(part) for part in training_parts(config, data, fold))
    stills: dict[str, torch.Tensor] = {}

    def on_epoch(state: TrainState) -> None:
        if state.history[-1].phase == "stills":
            stills.update({name: value.clone() for name, value in state.ema.items()})

    trained = train_network(config, learned_from, looked_at, WorkerContext(device=device), on_epoch=on_epoch)
    network = trained.build_network().to(device)
    asked = data.take(fold.tested)
    answers = {}
    if tuple(models) == PAIR:
        network.load_state_dict(stills)
        answers["cnn"] = last_frame_probs(network, asked, device)
        network.load_state_dict(trained.weights)
        answers["cnn_bilstm"] = sequence_probs(network, asked, device)
    else:
        answers["model"] = whole_probs(network, asked, config.window_length, device)
    return {
        **{name: probs.tolist() for name, probs in answers.items()},
        "trained_on": len(learned_from),
        "held_out": len(looked_at),
        "train_accuracy": trained.history[-1].train_accuracy,
        "epochs": len(trained.history),
        "seconds": round(time.monotonic() - began, 1),
    }


def training_parts(config: TrainConfig, data: Clips, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """What of the clips outside a fold is learned from, and what "plateau" and early stopping look at, each
    `(N,) bool`.

    The fold's own clips must choose nothing; so where one of the two is asked for, a part of the others is
    held out, in the fold's own way. Otherwise all are learned from, and the last epoch answers. Raises
    InputError where so few are left that a part of them is none, or has all of a class but one.
    """
    outside = np.flatnonzero(~fold.tested)
    held = np.zeros(len(data), bool)
    plateau = config.schedule == "plateau" and config.plateau_patience < config.epochs
    if plateau or config.early_stopping:
        training = data.take(outside)
        drawn = draw_part(training.labels, groups_of(training), fold.by, HELD_OUT, fold.seed)
        held[outside[drawn]] = True
    learned_from = ~fold.tested & ~held
    if (plateau or config.early_stopping) and not held.any():
        raise InputError(
            f"the {len(outside)} examples outside fold {fold.number} are too few to hold a tenth of them out "
            "for the plateau of the learning rate or for early stopping: give more data"
        )
    if len(np.unique(data.labels[learned_from])) < 2:
        raise InputError(
            f"without the {fold.tested.sum()} examples of fold {fold.number} the data has no two classes "
            "left to train on; cross-validation takes subjects of several folds"
        )
    return learned_from, held


@torch.inference_mode()
def last_frame_probs(model: Network, clips: Clips, device: torch.device) -> np.ndarray:
    """Probabilities `(N, C) float64` by the encoder and its head of each clip's last frame alone."""
    if not len(clips):
        return np.zeros((0, model.classes))
    crops = normalize_crops(frames_to_tensor(clips.frames[clips.starts[1:] - 1], device))  # (N, 1, 48, 48)
    return model.classify_crops(model.encode(crops)).double().softmax(dim=1).cpu().numpy()


@torch.inference_mode()
def sequence_probs(model: Network, clips: Clips, device: torch.device) -> np.ndarray:
    """Probabilities `(N, C) float64` by the whole network of all frames of each clip, at the last."""
    answers = [np.zeros((0, model.classes))]
    for first in range(0, len(clips), AT_ONCE):
        part = clips.take(np.arange(first, min(first + AT_ONCE, len(clips))))
        lengths = np.diff(part.starts)
        steps = np.minimum(
            np.arange(lengths.max()), lengths[:, None] - 1
        )  # (B, T), its last frame as padding
        crops = normalize_crops(
            frames_to_tensor(part.frames[part.starts[:-1, None] + steps], device)
        )  # (B, T, 1, 48, 48)
        logits = model(crops, torch.from_numpy(lengths))  # (B, T, C)
        last = logits[torch.arange(len(part)), torch.from_numpy(lengths - 1)]
        answers.append(last.double().softmax(dim=1).cpu().numpy())
    return np.concatenate(answers)


def whole_probs(model: Network, clips: Clips, length: int, device: torch.device) -> np.ndarray:
    """Probabilities `(N, C) float64` of each clip by what the network is made for: all of its frames where it
    reads several, `length` of them where it is one of whole clips, else its last.
    """
    if isinstance(model, CnnBiLstm):
        return sequence_probs(model, clips, device)
    return np.exp(
        predict_log_probs(model, select_input_frames(model, clips, length), device).astype(np.float64)
    )


def read_fold(file: Path, models: Sequence[str], shape: tuple[int, int]) -> dict[str, Any]:
    """What a fold's file holds; raises OutputError where that is no answer of `models` of this shape."""
    try:
        done = dict(json.loads(file.read_text()))
        shapes = {np.shape(done[name]) for name in models}
        {done[name] for name in ("seconds", "trained_on", "held_out", "train_accuracy")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{file} is not a fold's answers ({error}): delete it to have it done again"
        ) from error
    if shapes != {shape}:
        raise OutputError(f"{file} does not answer {shape[0]} sequences: delete it to have it done again")
    return done


def write_whole(file: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises OutputError where it can't be."""
    try:
        write_bytes(file, content)
    except OSError as error:
        raise OutputError(f"{file} can't be written: {error.strerror}") from error
