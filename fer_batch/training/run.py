"""A training run: its data checked, its workers started under Ray Train, and its model written.

A run's folder is its record: `train.json` (the configuration), `history.json` and `.csv` (the epochs),
`tensorboard/`, `state.pt` (all that the next epoch needs), and at the end `model.safetensors` with its card
`model.json`. The state is a file of ours, not a checkpoint of Ray Train's: Ray rewrites its list of
checkpoints in place, so that a run killed at that moment could never go on.
"""

import io
import json
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model
from tensorboardX import SummaryWriter

from fer_batch.config import TrainConfig, difference
from fer_batch.data.datasets import Clips, class_counts
from fer_batch.data.videos import MADE
from fer_batch.errors import ConfigError, FerBatchError, InputError, OutputError
from fer_batch.model.backbone import BackboneEncoder
from fer_batch.model.registry import build_network
from fer_batch.model.weights import Card, read_card, save_checkpoint
from fer_batch.runtime import call_periodically, ray_session
from fer_batch.storage.atomic import format_csv, write_bytes, write_json
from fer_batch.storage.folder import check_folder_empty
from fer_batch.storage.lease import hold_lease
from fer_batch.training.calibrate import fit_temperature
from fer_batch.training.loop import HISTORY, Place, frame_logits, frames_of, learn
from fer_batch.training.sources import (
    CALIBRATE_LEAST,
    IN_ORDER,
    check_clips,
    clips_of,
    cpu_share,
    crop_scale_of,
    cut_clips,
    division,
    images_of,
    in_memory,
    stream_of,
    streamed,
    training_counts,
)

SCALARS = ("loss", "train_accuracy", "lr", "select_loss", "accuracy", "macro_f1", "seconds")
UNTOLD = ("data", "init", "backbone_weights")
"""Paths, which a card has no use for."""


def train(
    config: TrainConfig,
    out: Path,
    resources: dict[str, float] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[str], None] = lambda line: None,
    *,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Train, or continue what stands in `out`, and write model.safetensors, its card and the history there.

    Returns the card's training record. The same call again after a kill goes on from the last finished
    epoch; another configuration on the same folder raises ConfigError, data that can't be used InputError,
    both before Ray is started or anything written. `resources` are Ray's for each worker, by default one
    CPU, or one GPU where Ray has them. `on_line` gets a line for what is amiss with the data, and for
    each epoch as it ends; `on_progress` how far the epoch is, once a second.
    """
    out = out.absolute()
    record = out / "train.json"
    if record.exists():
        before = _read_record(record)
        changed = difference(before, config.to_dict())
        if changed:
            _check_named_anew(config, before)
            raise ConfigError(f"{out} holds a run of another configuration ({changed}): name another --out")
        if (out / "model.json").exists():
            return json.loads((out / "model.json").read_text())["training"]
    else:
        check_folder_empty(out, "a training run")
    if config.init:
        read_card(Path(config.init))
    if config.backbone_weights:
        BackboneEncoder(config.backbone, config.backbone_size).load_pretrained(Path(config.backbone_weights))
    check_clips(config)
    images, amiss = images_of(config)
    if clips_of(config) is None:
        _check_splits(images)
        _check_preset(config, images)
    with hold_lease(out, "train"):
        try:
            write_json(record, config.to_dict())
        except OSError as error:
            raise OutputError(f"{out} can't be written: {error.strerror}") from error
        on_line("starting Ray …")
        with ray_session(address, insecure=insecure, verbose=verbose):
            counts = Counter(amiss) + Counter(cut_clips(config, out / "clips", _video_told(on_progress)))
            for name, count in sorted(counts.items()):
                on_line(f"data: {count} {name.replace('_', ' ')}")
            data = in_memory(config, images, out / "clips")
            clips = streamed(config, data, out / "clips")
            for line in division(data, training_counts(config, data, out / "clips")):
                on_line(line)
            state = _fit(config, out, resources, clips, _looks(out, on_line, on_progress))
        return _export(config, out, state, data, counts)


def _check_named_anew(config: TrainConfig, before: dict[str, Any]) -> None:
    """Raise for a checkpoint or data that the run before did not name, and that is not there."""
    if config.init and config.init != before.get("init"):
        read_card(Path(config.init))
    for name, path in config.data:
        if [name, path] not in before.get("data", []) and not Path(path).exists():
            raise InputError(f"--data {name}={path}: there is no such file or folder")


def _check_splits(data: Clips) -> None:
    splits = sorted(set(data.splits.tolist()))
    for split in ("train", "select"):
        if split not in splits:
            raise InputError(f"the data has nothing for the split {split!r}; it has {', '.join(splits)}")


def _check_preset(config: TrainConfig, data: Clips) -> None:
    """Raise where a class of a published recognizer has nothing to be learned from."""
    there = class_counts(data.take(data.splits == "train"))
    absent = [name for name in data.classes if name not in there]
    if config.preset and absent:
        raise InputError(
            f"--preset {config.preset} is of the classes {', '.join(data.classes)}; the data has nothing to "
            f"train on of {', '.join(absent)}: give data that has, or other --classes"
        )


def _video_told(on_progress: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, videos: on_progress(f"{done} of {videos} videos cut to clips")


def train_worker(settings: dict[str, Any]) -> None:
    """One worker of a run: reads the data, trains, reports and checkpoints each epoch."""
    config, out = TrainConfig.from_dict(settings["config"]), Path(settings["out"])
    context, device = ray.train.get_context(), get_device()
    rank = context.get_world_rank()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    data = in_memory(config, images_of(config)[0], out / "clips")
    log = SummaryWriter(str(out / "tensorboard"), flush_secs=1) if rank == 0 else None

    def epoch_done(state: dict[str, Any]) -> None:
        last = state["history"][-1]
        if log:
            _write_state(out / "state.pt", state)
            write_json(out / "history.json", state["history"])
            for name in SCALARS:
                log.add_scalar(name, last[name], last["epoch"])
        ray.train.report(last)

    learn(
        config,
        data.take(data.splits == "train"),
        data.take(data.splits == "select"),
        Place(
            device=device,
            rank=rank,
            world=context.get_world_size(),
            join=lambda module: prepare_model(
                module, parallel_strategy_kwargs={"find_unused_parameters": True}
            ),
        ),
        stream=stream_of(config, data.classes, out / "clips", context.get_world_size()),
        state=_read_state(out / "state.pt"),
        epoch_done=epoch_done,
        progress=out / "progress.json" if rank == 0 else None,
    )
    if log:
        log.close()  # and so write the last epoch, which its thread may still hold


def _fit(
    config: TrainConfig,
    out: Path,
    resources: dict[str, float] | None,
    clips: dict[str, Any],
    look: Callable[[], None],
) -> dict[str, Any]:
    """Run the workers to the end; returns the last epoch's state."""
    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    trainer = TorchTrainer(
        train_worker,
        datasets=clips,
        train_loop_config={"config": config.to_dict(), "out": str(out)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=use_gpu,
            resources_per_worker=resources
            or {"CPU": cpu_share(config.workers) if clips else 1, **({"GPU": 1} if use_gpu else {})},
        ),
        dataset_config=IN_ORDER,
        run_config=ray.train.RunConfig(
            name=out.name,
            storage_path=str(out.parent),
            failure_config=ray.train.FailureConfig(max_failures=3),
        ),
    )
    with call_periodically(look, interval_s=1.0):
        try:
            result = trainer.fit()
        except SystemExit as stopped:  # what Ray Train makes of Ctrl-C
            raise KeyboardInterrupt from stopped
    state = _read_state(out / "state.pt")
    if state is None:
        raise FerBatchError(f"training in {out} ended without an epoch: {result.error}")
    return state


def _looks(
    out: Path, on_line: Callable[[str], None], on_progress: Callable[[str], None]
) -> Callable[[], None]:
    """What reports, each time it is called, the epochs that have come since, and how far the next one is."""
    shown = 0

    def look() -> None:
        nonlocal shown
        epochs = _read_json(out / "history.json") or []
        for e in epochs[shown:]:
            on_line(
                f"epoch {e['epoch']} ({e['phase']}): loss {e['loss']:.4f}, accuracy {e['accuracy']:.4f}, "
                f"macro-F1 {e['macro_f1']:.4f} on {e['n']} images, {e['seconds']:.0f} s"
            )
        shown = max(shown, len(epochs))
        now = _read_json(out / "progress.json")
        if now and now["epoch"] > shown:
            on_progress(
                f"epoch {now['epoch']}: step {now['step']} of {now['steps']}, {now['clips_per_s']:.0f}/s"
            )

    return look


def _read_json(path: Path) -> Any:
    """What a file holds that is replaced as a whole, None while it is not there."""
    return json.loads(path.read_text()) if path.exists() else None


def _read_record(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{record} is not the record of a training run: {error}") from error


def _write_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _read_state(path: Path) -> dict[str, Any] | None:
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def _export(
    config: TrainConfig, out: Path, state: dict[str, Any], data: Clips, counts: dict[str, int]
) -> dict[str, Any]:
    """Write the model, calibrated, with its card and history; returns the card's training record."""
    history = state["history"]
    weights, chosen = state["ema"], history[-1]
    if state["kept"] is not None and chosen["phase"] != "sequences":  # early stopping, and none after it
        weights, chosen = state["kept"], max(history, key=lambda row: row["accuracy"])
    model = build_network(state["network"], state["architecture"]).eval()
    model.load_state_dict(weights)
    held_out = data.take(data.splits == "calibrate")
    temperature = 1.0
    if len(held_out) >= CALIBRATE_LEAST:
        frames = frames_of(model, held_out, config.window_length)
        views = (frames, frames[..., ::-1].copy())  # as they are answered by default
        logits = np.mean([frame_logits(model, view, torch.device("cpu")) for view in views], axis=0)
        temperature = fit_temperature(logits, held_out.labels)
    record = {
        "config": {k: v for k, v in config.to_dict().items() if k not in UNTOLD},
        "data": [name for name, _ in config.data],
        "init": read_card(Path(config.init))[1].model_id if config.init else None,
        "left_out": {k: v for k, v in counts.items() if k not in MADE},
        "train_clips": training_counts(config, data, out / "clips"),
        **{
            f"{split}_clips": class_counts(data.take(data.splits == split))
            for split in ("calibrate", "select")
        },
        "selection": {k: chosen[k] for k in ("accuracy", "macro_f1", "n")},
        "seconds": round(sum(h["seconds"] for h in history)),
        "hardware": _hardware(),
        "torch": torch.__version__,
    }
    write_json(out / "history.json", history)
    write_bytes(out / "history.csv", format_csv(HISTORY, ([row[key] for key in HISTORY] for row in history)))
    card = Card(
        classes=data.classes,
        network=state["network"],
        architecture=state["architecture"] | ({"dropout": 0.0} if "dropout" in state["architecture"] else {}),
        window_rate_hz=config.window_rate_hz,
        window_length=config.window_length if model.lstms else 1,
        crop_scale=crop_scale_of(config),
        temperature=temperature,
        training=record,
    )
    save_checkpoint(out / "model.safetensors", model, card)
    (out / "progress.json").unlink(missing_ok=True)
    return record


def _hardware() -> str:
    """The machine, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{len(names)} cores, {names[0]}" if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
