"""One worker of a training run: it trains with the others, and reports the state after each epoch."""

import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model

from fer_batch.errors import ResourceError
from fer_batch.train_config import TrainConfig
from fer_batch.training.checkpoints import locate_checkpoint, name_checkpoint
from fer_batch.training.loop import WorkerContext, train_network
from fer_batch.training.predict import choose_training_dtype, sum_over_workers
from fer_batch.training.recipes import Settings
from fer_batch.training.resources import describe_hardware, find_device
from fer_batch.training.sources import open_stream
from fer_batch.training.state import StepProgress, TrainState, decode_state, encode_state

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types in which a worker may compute."""


def train_worker(settings: Settings) -> None:
    """Run one worker: train, and report the state after each epoch."""
    config, recorder = TrainConfig.from_dict(settings["config"]), settings["recorder"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device() if find_device().type == "cuda" else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    check_same_scaling(count_workers_by_dtype(device))
    ray.get(recorder.record_worker.remote(rank, world, describe_hardware()))
    # Arrays of the object store are shared by the workers of a node.
    training, selection = ray.get([settings[name] for name in ("training", "selection")])
    # Ray Train may not yet know the last checkpoint of workers that died.
    last = ray.get(recorder.find_checkpoint.remote()) if rank == 0 else None
    last = broadcast_from_rank_zero(last)
    state = decode_state(ray.get(recorder.read_checkpoint.remote(last)), last) if last else None

    def on_epoch(state: TrainState) -> None:
        name, metrics = name_checkpoint(len(state.history)), state.history[-1].to_dict()
        if rank > 0:
            ray.train.report(metrics, checkpoint_dir_name=name)
            return

        def upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            ray.get(recorder.write_epoch.remote(name, encode_state(state), state.history))
            return checkpoint

        checkpoint = locate_checkpoint(settings["storage"], name)
        ray.train.report(
            metrics, checkpoint=checkpoint, checkpoint_dir_name=name, checkpoint_upload_fn=upload
        )

    def join(module: torch.nn.Module) -> torch.nn.Module:
        return prepare_model(
            module, move_to_device=device, parallel_strategy_kwargs={"find_unused_parameters": True}
        )

    def on_step(progress: StepProgress) -> None:
        if rank == 0:
            recorder.record_step.remote(progress)

    train_network(
        config,
        training,
        selection,
        WorkerContext(device=device, rank=rank, world=world, join=join),
        stream=open_stream(config, settings["streamed"], world),
        state=state,
        on_epoch=on_epoch,
        on_step=on_step,
    )


def count_workers_by_dtype(device: torch.device) -> dict[torch.dtype, int]:
    """Count the workers that compute in each type; all workers call this at the same time."""
    dtype = choose_training_dtype(device)
    counts = sum_over_workers(torch.tensor([float(dtype == other) for other in DTYPES], device=device))
    return {other: int(count) for other, count in zip(DTYPES, counts, strict=True) if count}


def check_same_scaling(workers: dict[torch.dtype, int]) -> None:
    """Raise ResourceError if float16, whose loss is scaled, is the type of some workers only.

    The workers average their gradients, and scaled ones must not be averaged with others.
    """
    if torch.float16 in workers and len(workers) > 1:
        types = " and ".join(str(dtype).removeprefix("torch.") for dtype in workers)
        raise ResourceError(f"The GPUs of the workers compute in {types}: use GPUs of one kind")
