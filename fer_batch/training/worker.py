"""One worker of a training run: it trains with the others, and reports the state after each epoch."""

import ray.train
import torch
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model

from fer_batch.config import TrainConfig
from fer_batch.training.checkpoints import locate_checkpoint, name_checkpoint
from fer_batch.training.loop import WorkerContext, train_network
from fer_batch.training.recipes import Settings
from fer_batch.training.resources import find_device
from fer_batch.training.sources import open_stream
from fer_batch.training.state import StepProgress, TrainState, decode_state, encode_state


def train_worker(settings: Settings) -> None:
    """Run one worker: train, and report the state after each epoch."""
    config, recorder = TrainConfig.from_dict(settings["config"]), settings["recorder"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device() if find_device().type == "cuda" else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    if rank == 0:
        recorder.record_workers.remote(world)
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
