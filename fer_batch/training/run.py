"""A training run under Ray Train, from the data to the checkpoint.

A run's folder is its record: `train.json` (the configuration), `history.json` and `.csv` (the epochs),
`tensorboard/`, `checkpoint_N/` (everything the next epoch needs), and at the end `model.safetensors` with its
card `model.json`, and `learning_curves.png`. It is local to this machine, or in a store; the workers need
not share it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.torch import TorchConfig, TorchTrainer

from fer_batch.config import difference
from fer_batch.errors import ConfigError, FerBatchError, InputError, OutputError, ResourceError
from fer_batch.model.card import read_card
from fer_batch.runtime import joins_cluster, ray_session
from fer_batch.storage.atomic import convert_write_error
from fer_batch.storage.folder import OutputFolder, check_not_address, open_folder, read_folder_record
from fer_batch.storage.lease import hold_lease
from fer_batch.timing import call_periodically
from fer_batch.train_config import TrainConfig
from fer_batch.training.checkpoints import (
    STATE_FILE,
    locate_storage,
    read_last_state,
    remove_old_checkpoints,
)
from fer_batch.training.distill import check_teachers
from fer_batch.training.export import TrainSummary, export_model, read_summary
from fer_batch.training.initialize import check_initial_weights
from fer_batch.training.recipes import Settings
from fer_batch.training.recorder import RunProgress, start_recorder
from fer_batch.training.resources import (
    NODES_TIMEOUT_S,
    GpuCount,
    Resources,
    choose_gpu_share,
    describe_device,
    format_processes,
    summarize_hardware,
    wait_for_resources,
)
from fer_batch.training.sources import (
    IN_ORDER,
    Streams,
    build_streams,
    check_examples,
    choose_worker_cpus,
    count_streamed_clips,
    count_training_clips,
    describe_counts,
    describe_data,
    extract_video_clips,
    find_video_folder,
    list_training_videos,
    load_images,
    load_in_memory,
)
from fer_batch.training.state import EpochResult
from fer_batch.training.status import StatusCallback, StatusMessage, ignore_status
from fer_batch.training.worker import train_worker

MAX_RESTARTS = 3
"""Restarts of the workers after one of them died."""
PROGRESS_TIMEOUT_S = 10.0
RESIZE_INTERVAL_S = 60.0
"""Seconds between two checks whether more workers can train. Adding them repeats the current epoch."""


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

    `out` may be the address of a folder in a store (s3://, gs://). The nodes of a cluster need not share it,
    unless the data has videos. All nodes read the files of `init`, `teacher` and `backbone_weights`.

    A repeated call continues after the last finished epoch; for a finished run it returns the summary.

    Args:
        config: Data and settings of the run.
        out: Folder of the run: new, empty, or of the same configuration.
        gpus: GPUs that `config.workers` workers share. The run waits until the cluster has them, and ends if
            they do not come; with `config.min_workers`, the share of that many workers is enough. "auto" is
            the GPUs that the cluster has now, at most one for each worker that the run starts with.
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
        ResourceError: The cluster does not have the CPUs or GPUs, or no longer, or PyTorch cannot use them.
        FerBatchError: Training ended without an epoch, or workers died more than `MAX_RESTARTS` times.

    The first two are raised before Ray starts and anything is written.
    """
    folder = open_folder(out).absolute()
    _check_folder(folder, config)
    before = read_folder_record(folder, "train.json", "a training run")
    if before is not None:
        _check_same_config(config, before, folder)
        if finished := read_summary(folder):
            return finished
    state = read_last_state(folder)  # an unusable file is reported before Ray starts
    if state is None and folder.exists(STATE_FILE):  # where version 0.1.0 kept its state
        raise OutputError(
            f"{folder} has an unfinished run of an older version, which cannot continue: give another --out"
        )
    choose_gpu_share(gpus, config.workers, {})
    check_initial_weights(config)
    video_classes = list_training_videos(config)
    images, counts = load_images(config)
    check_examples(config, images, video_classes)
    check_teachers(config, images.classes)
    clip_folder = (folder.path or Path()) / "clips"  # only a local folder has clips of videos
    with hold_lease(folder, "train"):
        with convert_write_error(folder):
            folder.write_json("train.json", config.to_dict())
            remove_old_checkpoints(folder)
        on_progress(StatusMessage("starting Ray …"))
        can_grow = joins_cluster(address)
        with ray_session(address, insecure=insecure, verbose=verbose):
            extracted = extract_video_clips(
                config,
                clip_folder,
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
            data = load_in_memory(config, images, clip_folder)
            streams = build_streams(config, data, clip_folder)
            training = count_training_clips(config, data, clip_folder)
            for line in [*describe_counts(counts), *describe_data(data, training)]:
                on_progress(StatusMessage(line))
            cpus = choose_worker_cpus(config.workers) if streams else 1
            count = config.min_workers or config.workers
            sharing = count if gpus == "auto" else config.workers  # later workers bring GPUs of their own
            gpu_share = choose_gpu_share(gpus, sharing, ray.cluster_resources())
            needed = {"CPU": cpus, **({"GPU": gpu_share} if gpu_share else {}), **(resources or {})}
            found = wait_for_resources(needed, count, can_grow=can_grow, on_progress=on_progress)
            on_progress(StatusMessage(describe_workers(config, needed)))
            recorder = start_recorder(folder, state.history if state else [])
            settings = {
                "config": config.to_dict(),
                "recorder": recorder,
                "storage": locate_storage(folder),
                "training": ray.put(data.take(data.splits == "train")),
                "selection": ray.put(data.take(data.splits == "select")),
                "streamed": count_streamed_clips(config, data.classes, clip_folder),
            }
            with call_periodically(_report_progress(recorder, config.workers, on_progress), interval_s=1.0):
                _run_workers(config, folder, needed, streams, settings)
            progress: RunProgress = ray.get(recorder.get_progress.remote())
            hardware = summarize_hardware(progress.hardware or found)  # the recorder may have been restarted
            state = read_last_state(folder)
            if state is None:
                raise FerBatchError(f"training in {folder} ended without an epoch")
            remove_old_checkpoints(folder)
        return export_model(config, folder, state, data, counts, train_clips=training, hardware=hardware)


def _run_workers(
    config: TrainConfig, folder: OutputFolder, resources: Resources, streams: Streams, settings: Settings
) -> None:
    """Run the workers to the end."""
    gpu_share = resources.get("GPU", 0)
    filesystem, path = settings["storage"]
    scaling: dict[str, Any] = {
        "num_workers": (config.min_workers, config.workers) if config.min_workers else config.workers,
        "use_gpu": gpu_share > 0,
        "resources_per_worker": resources,
        "elastic_resize_monitor_interval_s": RESIZE_INTERVAL_S,
    }
    failures: dict[str, Any] = {  # Ray's types lack the second name
        "max_failures": MAX_RESTARTS,
        # Ray Train fails to start workers once a minute while a lost node is not replaced.
        "controller_failure_limit": int(NODES_TIMEOUT_S // 60),
    }
    trainer = TorchTrainer(
        train_worker,
        datasets=streams,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(**scaling),
        torch_config=TorchConfig(backend="gloo" if gpu_share < 1 else "nccl"),  # NCCL needs a GPU per worker
        dataset_config=IN_ORDER,
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=path.rpartition("/")[0] or "/",
            storage_filesystem=filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(**failures),
        ),
    )
    try:
        trainer.fit()
    except SystemExit as stopped:  # Ray Train converts Ctrl-C to this
        raise KeyboardInterrupt from stopped
    except ray.train.TrainingFailedError as error:
        needed = format_processes(resources, config.min_workers or config.workers)
        raise find_cause(error, needed) from error


def find_cause(error: Exception, needed: str) -> Exception:
    """Return the expected error that ended the workers, or `error` itself if it is a bug.

    `needed` describes the resources that the run needs.
    """
    if isinstance(error, ray.train.ControllerError):
        # The classes of failed starts are private in Ray.
        if type(error.controller_failure).__name__.startswith("WorkerGroupStartup"):
            return ResourceError(
                f"The cluster no longer has {needed}; run the same command again to continue"
            )
        return error
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    # An error of the recorder reaches the worker as an error of Ray.
    causes = [item.cause if isinstance(item, RayTaskError) else item for item in failures.values()]
    for cause in causes:
        if isinstance(cause, FerBatchError):
            return cause
    if any(isinstance(getattr(cause, "health_check_failure", None), RayActorError) for cause in causes):
        return FerBatchError(
            f"Workers died {MAX_RESTARTS + 1} times, because their node was lost, memory ran out, or they "
            "crashed; run the same command again to continue"
        )
    return error


def _report_progress(recorder: Any, workers: int, on_progress: StatusCallback) -> Callable[[], None]:
    """Return a function that reports the new epochs and the progress of a run when it is called.

    `workers` is the number of workers that the run starts with.
    """
    reported = 0

    def report() -> None:
        nonlocal reported, workers
        try:
            progress = ray.get(recorder.get_progress.remote(), timeout=PROGRESS_TIMEOUT_S)
        except (RayError, TimeoutError):  # the recorder starts, writes a large state, or was restarted
            return
        if progress.workers not in (None, workers):
            workers = progress.workers
            on_progress(StatusMessage(f"workers: {workers} from now on"))
        for row in progress.history[reported:]:
            on_progress(StatusMessage(describe_epoch(row)))
        reported = max(reported, len(progress.history))
        if (step := progress.step) and step.epoch > reported:
            text = f"epoch {step.epoch}: step {step.step} of {step.steps}, {step.clips_per_s:.0f} clips/s"
            on_progress(StatusMessage(text, transient=True))

    return report


def describe_workers(config: TrainConfig, resources: Resources) -> str:
    """Describe the workers of a run, the examples of a step, and the learning rate, in a line."""
    workers, text = config.workers, f"workers: {config.workers}, {describe_device(resources)}"
    if workers == 1:
        return f"{text}, {config.batch_size} examples a step"
    text += f", {config.batch_size} × {workers} = {config.batch_size * workers} examples a step"
    return f"{text}, learning rate {config.lr:g} × {workers}" if config.scale_lr else text


def describe_epoch(row: EpochResult) -> str:
    """Describe the results of an epoch in a line."""
    return (
        f"epoch {row.epoch} ({row.phase}): loss {row.loss:.4f}, accuracy {row.accuracy:.4f}, "
        f"macro-F1 {row.macro_f1:.4f} on {row.n} images, {row.seconds:.0f} s"
    )


def _check_folder(folder: OutputFolder, config: TrainConfig) -> None:
    """Raise OutputError if the run cannot be kept in a folder."""
    if folder.path is not None:
        check_not_address(folder.path)
    elif find_video_folder(config) is not None:
        raise OutputError(
            f"--data clips=… is cut into clips in --out, which {folder} cannot hold: give a folder that all "
            "machines share"
        )
    else:
        folder.check_usable()


def _check_same_config(config: TrainConfig, before: Settings, out: OutputFolder) -> None:
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
