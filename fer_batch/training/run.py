"""A training run under Ray Train, from the data to the checkpoint.

A run's folder is its record: `train.json` (the configuration), `history.json` and `.csv` (the epochs),
`tensorboard/`, `state.pt` (everything the next epoch needs), and at the end `model.safetensors` with its card
`model.json`, and `learning_curves.png`. The state is not a checkpoint of Ray Train: Ray rewrites its list of
checkpoints in place, so that a run that is killed at that moment could not continue.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model
from tensorboardX import SummaryWriter

from fer_batch.config import TrainConfig, difference
from fer_batch.errors import ConfigError, FerBatchError, InputError
from fer_batch.model.weights import read_card
from fer_batch.runtime import call_periodically, ray_session
from fer_batch.storage.atomic import convert_write_error, write_json
from fer_batch.storage.folder import read_folder_record
from fer_batch.storage.lease import hold_lease
from fer_batch.training.distill import check_teachers
from fer_batch.training.export import TrainSummary, export_model
from fer_batch.training.initialize import check_initial_weights
from fer_batch.training.loop import StepProgress, WorkerContext, train_network
from fer_batch.training.recipes import Settings
from fer_batch.training.resources import (
    GpuCount,
    Resources,
    choose_gpu_share,
    describe_device,
    find_device,
    joins_cluster,
    summarize_hardware,
    wait_for_resources,
)
from fer_batch.training.sources import (
    IN_ORDER,
    Streams,
    build_streams,
    check_examples,
    choose_worker_cpus,
    count_training_clips,
    describe_counts,
    describe_data,
    extract_video_clips,
    list_training_videos,
    load_images,
    load_in_memory,
    open_stream,
)
from fer_batch.training.state import EpochResult, TrainState, read_state, write_state
from fer_batch.training.status import StatusCallback, StatusMessage, ignore_status

TENSORBOARD_SCALARS = ("loss", "train_accuracy", "lr", "select_loss", "accuracy", "macro_f1", "seconds")
MAX_RESTARTS = 3
"""Restarts of the workers after one of them died."""


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    gpus: GpuCount = "auto",
    resources: Resources | None = None,
    on_progress: StatusCallback = ignore_status,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> TrainSummary:
    """Train a model and write it to the folder `out`, or continue an interrupted run there.

    A repeated call continues after the last finished epoch; for a finished run it returns the summary.

    Args:
        config: Data and settings of the run.
        out: Folder of the run: new, empty, or of the same configuration.
        gpus: GPUs that the workers share. The run waits until the cluster has them, and ends if they do not
            come. "auto" is one for each worker if the cluster has GPUs now, or else none.
        resources: Other Ray resources of each worker, by default one CPU.
        on_progress: Receives messages about the data, each epoch when it ends, and once a second the progress
            within an epoch (transient).
        address: Address of a Ray cluster, by default a local one.
        insecure: Accept a cluster that requires no token.
        verbose: Show the messages of Ray.

    Raises:
        ConfigError: The settings contradict each other, or the folder has a run of another configuration.
        InputError: The data cannot be used.
        OutputError: The folder cannot be written, or holds something else.
        ResourceError: The cluster does not have the CPUs or GPUs, or PyTorch cannot use them.
        FerBatchError: Training ended without an epoch.

    The first two are raised before Ray starts and anything is written.
    """
    out = Path(out).absolute()
    before = read_folder_record(out / "train.json", "a training run")
    if before is not None:
        _check_same_config(config, before, out)
        if (out / "model.json").exists():
            path, card = read_card(out)
            return TrainSummary.from_dict(card.training, path)
    read_state(out / "state.pt")  # an unusable file is reported before Ray starts
    choose_gpu_share(gpus, config.workers, {})
    check_initial_weights(config)
    video_classes = list_training_videos(config)
    images, counts = load_images(config)
    check_examples(config, images, video_classes)
    check_teachers(config, images.classes)
    with hold_lease(out, "train"):
        with convert_write_error(out):
            write_json(out / "train.json", config.to_dict())
        on_progress(StatusMessage("starting Ray …"))
        can_grow = joins_cluster(address)
        with ray_session(address, insecure=insecure, verbose=verbose):
            extracted = extract_video_clips(
                config,
                out / "clips",
                lambda done, total: on_progress(
                    StatusMessage(f"{done} of {total} videos cut into clips", transient=True)
                ),
            )
            if extracted.videos:
                on_progress(
                    StatusMessage(
                        f"data: {extracted.windows} clips of {extracted.tracks} tracks "
                        f"in {extracted.videos} videos"
                    )
                )
            counts += extracted.issues
            data = load_in_memory(config, images, out / "clips")
            streams = build_streams(config, data, out / "clips")
            training = count_training_clips(config, data, out / "clips")
            for line in [*describe_counts(counts), *describe_data(data, training)]:
                on_progress(StatusMessage(line))
            cpus = choose_worker_cpus(config.workers) if streams else 1
            gpu_share = choose_gpu_share(gpus, config.workers, ray.cluster_resources())
            needed = {"CPU": cpus, **({"GPU": gpu_share} if gpu_share else {}), **(resources or {})}
            found = wait_for_resources(needed, config.workers, can_grow=can_grow, on_progress=on_progress)
            on_progress(StatusMessage(f"workers: {config.workers}, {describe_device(needed)}"))
            state = _run_workers(config, out, needed, streams, on_progress)
        hardware = summarize_hardware(found)
        summary = export_model(config, out, state, data, counts, hardware=hardware)
        (out / "progress.json").unlink(missing_ok=True)
        return summary


def train_worker(settings: Settings) -> None:
    """Run one worker: load the data, train, and write the state after each epoch."""
    config, out = TrainConfig.from_dict(settings["config"]), Path(settings["out"])
    ray_context = ray.train.get_context()
    device = get_device() if find_device().type == "cuda" else torch.device("cpu")
    rank, world = ray_context.get_world_rank(), ray_context.get_world_size()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    data = load_in_memory(config, load_images(config)[0], out / "clips")
    board = SummaryWriter(str(out / "tensorboard"), flush_secs=1) if rank == 0 else None

    def on_epoch(state: TrainState) -> None:
        last = state.history[-1].to_dict()
        if board:
            write_state(out / "state.pt", state)
            write_json(out / "history.json", [row.to_dict() for row in state.history])
            for name in TENSORBOARD_SCALARS:
                board.add_scalar(name, last[name], last["epoch"])
        ray.train.report(last)

    def join(module: torch.nn.Module) -> torch.nn.Module:
        return prepare_model(
            module, move_to_device=device, parallel_strategy_kwargs={"find_unused_parameters": True}
        )

    def on_step(progress: StepProgress) -> None:
        if rank == 0:
            write_json(out / "progress.json", dataclasses.asdict(progress))

    train_network(
        config,
        data.take(data.splits == "train"),
        data.take(data.splits == "select"),
        WorkerContext(device=device, rank=rank, world=world, join=join),
        stream=open_stream(config, data.classes, out / "clips", world),
        state=read_state(out / "state.pt"),
        on_epoch=on_epoch,
        on_step=on_step,
    )
    if board:
        board.close()  # writes the last epoch, which its thread may still hold


def _run_workers(
    config: TrainConfig,
    out: Path,
    resources: Resources,
    streams: Streams,
    on_progress: StatusCallback,
) -> TrainState:
    """Run the workers to the end, and return the state after the last epoch."""
    gpu_share = resources.get("GPU", 0)
    trainer = TorchTrainer(
        train_worker,
        datasets=streams,
        train_loop_config={"config": config.to_dict(), "out": str(out)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers, use_gpu=gpu_share > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="gloo" if gpu_share < 1 else "nccl"),  # NCCL needs a GPU per worker
        dataset_config=IN_ORDER,
        run_config=ray.train.RunConfig(
            name=out.name,
            storage_path=str(out.parent),
            failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
        ),
    )
    with call_periodically(_report_files(out, on_progress), interval_s=1.0):
        try:
            result = trainer.fit()
        except SystemExit as stopped:  # Ray Train converts Ctrl-C to this
            raise KeyboardInterrupt from stopped
    state = read_state(out / "state.pt")
    if state is None:
        raise FerBatchError(f"training in {out} ended without an epoch: {result.error}")
    return state


def _report_files(out: Path, on_progress: StatusCallback) -> Callable[[], None]:
    """Return a function that reports the new content of `history.json` and `progress.json` when called."""
    reported = 0

    def report() -> None:
        nonlocal reported
        history = [EpochResult(**row) for row in _read_json(out / "history.json") or []]
        for row in history[reported:]:
            on_progress(
                StatusMessage(
                    f"epoch {row.epoch} ({row.phase}): loss {row.loss:.4f}, accuracy {row.accuracy:.4f}, "
                    f"macro-F1 {row.macro_f1:.4f} on {row.n} images, {row.seconds:.0f} s"
                )
            )
        reported = max(reported, len(history))
        if (progress := _read_json(out / "progress.json")) and progress["epoch"] > reported:
            step = StepProgress(**progress)
            text = f"epoch {step.epoch}: step {step.step} of {step.steps}, {step.clips_per_s:.0f} clips/s"
            on_progress(StatusMessage(text, transient=True))

    return report


def _check_same_config(config: TrainConfig, before: Settings, out: Path) -> None:
    """Raise ConfigError if the configuration of the run in `out`, `before`, is another one.

    A checkpoint or data set that does not exist is a more likely mistake, and is reported first.
    """
    if not (changed := difference(before, config.to_dict())):
        return
    if config.init and config.init != before.get("init"):
        read_card(Path(config.init))
    for name, path in config.data:
        if [name, path] not in before.get("data", []) and not Path(path).exists():
            raise InputError(f"--data {name}={path}: there is no such file or folder")
    raise ConfigError(f"{out} holds a run of another configuration ({changed}); give another --out")


def _read_json(path: Path) -> Any:
    """Read a file that is replaced as a whole; returns None if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else None
