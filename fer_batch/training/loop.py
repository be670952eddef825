"""Training of the CNN-BiLSTM under Ray Train: what each worker runs, epoch by epoch, and how a run is
started.

Two phases. *Stills*: every frame is a sequence of one, and encoder and heads learn what an expression looks
like. *Sequences*: every clip becomes a moving window, half of them changing from one expression to another
on the way; the encoder stays as it is and the LSTMs learn what the neighbours of a moment say of it.
"""

import csv
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ray.train.torch import TorchTrainer, get_device, prepare_model
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn

from fer_batch.config import TrainConfig, difference
from fer_batch.errors import ConfigError, FerBatchError, InputError, OutputError
from fer_batch.files import write_json
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import Card, save_checkpoint
from fer_batch.runtime import meanwhile, ray_session
from fer_batch.schema import EMOTIONS
from fer_batch.training.augment import augment_sequences, augment_stills
from fer_batch.training.datasets import class_counts, concatenate, draw_sequences, load_dataset
from fer_batch.training.imbalance import class_weights
from fer_batch.training.optimize import Stepper

HISTORY = ("epoch", "phase", "loss", "lr", "accuracy", "macro_f1", "n", "seconds")


def train(
    config: TrainConfig,
    out: Path,
    resources: dict[str, float] | None = None,
    on_epoch: Callable[[str], None] = lambda line: None,
    *,
    address: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Train, or continue what stands in `out`, and write model.safetensors, its card and the history there.

    Returns the card's training record. The same call again after a kill goes on from the last finished
    epoch; another configuration on the same folder raises ConfigError, data that can't be used InputError,
    both before Ray is started or anything written. `resources` are Ray's for each worker, by default one
    CPU, or one GPU where Ray has them. `on_epoch` gets a line for each epoch as it ends.
    """
    out = out.absolute()
    record = out / "train.json"
    if record.exists():
        changed = difference(_read_record(record), config.to_dict())
        if changed:
            raise ConfigError(f"{out} holds a run of another configuration ({changed}): name another --out")
        if (out / "model.json").exists():
            return json.loads((out / "model.json").read_text())["training"]
    elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out} holds something else than a training run: name a new or empty folder")
    splits = {split for name, path in config.data for split in load_dataset(name, Path(path))[0].splits}
    for needed in ("train", "select"):
        if needed not in splits:
            raise InputError(f"the data has no image for the split {needed!r}; it has {sorted(splits)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(record, config.to_dict())
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}") from error
    with ray_session(address, verbose=verbose):
        return _export(config, out, _fit(config, out, resources, on_epoch))


def _fit(
    config: TrainConfig, out: Path, resources: dict[str, float] | None, on_epoch: Callable[[str], None]
) -> dict[str, Any]:
    """Run the workers to the end; returns the last checkpoint's state."""
    use_gpu = ray.cluster_resources().get("GPU", 0) >= config.workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config.to_dict(), "out": str(out)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=use_gpu,
            resources_per_worker=resources or {"CPU": 1, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            name=out.name,
            storage_path=str(out.parent),
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    with meanwhile(_epochs_reported(out / "history.json", on_epoch), every_s=1.0):
        try:
            result = trainer.fit()
        except SystemExit as stopped:  # what Ray Train makes of Ctrl-C
            raise KeyboardInterrupt from stopped
    if result.checkpoint is None:
        raise FerBatchError(f"training in {out} ended without a checkpoint: {result.error}")
    with result.checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)


def train_worker(settings: dict[str, Any]) -> None:
    """One worker of a run: reads the data, trains both phases, reports and checkpoints each epoch."""
    config = TrainConfig(**_tuples(settings["config"]))
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    data = concatenate([load_dataset(name, Path(path))[0] for name, path in config.data])
    training, selection = data.take(data.splits == "train"), data.take(data.splits == "select")
    frame_labels = np.repeat(training.labels, np.diff(training.starts))
    weights = torch.from_numpy(class_weights(frame_labels, len(EMOTIONS), config.class_weights)).to(device)

    architecture: dict[str, Any] = {
        "classes": len(EMOTIONS),
        "filters": list(config.filters),
        "dropout": config.dropout,
    }
    network = CnnBiLstm(**architecture).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = CnnBiLstm(**architecture).to(device).eval()
    ema.load_state_dict(network.state_dict())

    phases = [("stills", config.epochs), ("sequences", config.sequence_epochs)]
    plan = [name for name, epochs in phases for _ in range(epochs)]
    state = _restore()
    history: list[dict[str, Any]] = state["history"] if state else []
    if state:
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
    phase, stepper = "", None
    for epoch in range(len(history), len(plan)):
        if plan[epoch] != phase:
            phase = plan[epoch]
            if phase == "sequences" and (epoch == config.epochs):
                network.load_state_dict(ema.state_dict())  # the LSTMs learn on the encoder that will ship
            module = _Step(network, phase)
            model = prepare_model(module, parallel_strategy_kwargs={"find_unused_parameters": True})
            stepper = Stepper(config, phase, network, training, world)
            if state and state["phase"] == phase:
                stepper.load_state_dict(state["stepper"])
        assert stepper is not None
        began = time.monotonic()
        torch.manual_seed(config.seed * 1_000_003 + epoch * 1_009 + rank)  # a resumed epoch is the same epoch
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch * 1_009 + rank)
        order = np.random.default_rng([config.seed, epoch]).permutation(stepper.units)[rank::world]
        model.train()
        if phase == "sequences":
            network.encoder.eval()
        total, count = torch.zeros((), device=device), 0
        for first in range(0, stepper.steps * config.batch_size, config.batch_size):
            chosen = order[first : first + config.batch_size]
            if phase == "stills":
                frames, labels = training.frames[chosen][:, None], frame_labels[chosen][:, None]
                crops = augment_stills(_to_grey(frames[:, 0], device), generator)[:, None]
            else:
                frames, labels = draw_sequences(training, chosen, config.window_length, generator)
                crops = augment_sequences(_to_grey(frames, device), generator)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = model(_normalise(crops))  # (B, T, classes)
            target = torch.from_numpy(labels).to(device)
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(),
                target.flatten(),
                weights,
                label_smoothing=config.label_smoothing,
            )
            stepper.step(loss)
            _update_average(ema, network, config.ema_decay, stepper.taken)
            total += loss.detach() * len(chosen)
            count += len(chosen)
        sums = _all_sum(torch.stack([total, torch.tensor(float(count), device=device)]))
        mean_loss = float(sums[0] / sums[1])
        lr = stepper.lr
        predicted = predict_stills(ema, selection.frames[selection.starts[1:] - 1], device, rank, world)
        scores = (
            float(accuracy_score(selection.labels, predicted)),
            float(
                f1_score(
                    selection.labels, predicted, labels=range(len(EMOTIONS)), average="macro", zero_division=0
                )
            ),
        )
        stepper.epoch_done(scores[0])
        values = (epoch + 1, phase, mean_loss, lr, *scores, len(selection), time.monotonic() - began)
        history.append(dict(zip(HISTORY, values, strict=True)))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                saved = {
                    "network": network.state_dict(),
                    "ema": ema.state_dict(),
                    "stepper": stepper.state_dict(),
                    "phase": phase,
                    "history": history,
                    "counts": class_counts(training),
                    "selection_counts": class_counts(selection),
                    "architecture": architecture,
                }
                torch.save(saved, Path(folder) / "state.pt")
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(history[-1], checkpoint=checkpoint)
        if rank == 0:
            write_json(Path(settings["out"]) / "history.json", history)


class _Step(nn.Module):
    """What one step computes, as one forward, so that distributed data parallel sees every parameter used."""

    def __init__(self, network: CnnBiLstm, phase: str) -> None:
        super().__init__()
        self.network, self.phase = network, phase

    def forward(self, crops: Tensor) -> Tensor:
        if self.phase == "stills":
            return self.network(crops)
        with torch.no_grad():
            embeddings = self.network.encode(crops.flatten(0, 1))
        return self.network.classify(embeddings.float().unflatten(0, crops.shape[:2]))


def predict_stills(
    model: CnnBiLstm,
    frames: np.ndarray,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    batch: int = 256,
) -> np.ndarray:
    """`(N, 48, 48) uint8` stills to `(N,) int64` classes; ranks share the work and all get the whole
    answer.
    """
    answers = torch.zeros(len(frames), dtype=torch.int64, device=device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
        for first in range(rank * batch, len(frames), world * batch):
            crops = _normalise(_to_grey(frames[first : first + batch], device))
            answers[first : first + batch] = model(crops[:, None])[:, 0].argmax(1)
    return _all_sum(answers).cpu().numpy()


def _epochs_reported(history: Path, report: Callable[[str], None]) -> Callable[[], None]:
    """What reports, each time it is called, the epochs that have come to `history` since."""
    shown = 0

    def look() -> None:
        nonlocal shown
        epochs = json.loads(history.read_text()) if history.exists() else []
        for e in epochs[shown:]:
            report(
                f"epoch {e['epoch']} ({e['phase']}): loss {e['loss']:.4f}, accuracy {e['accuracy']:.4f}, "
                f"macro-F1 {e['macro_f1']:.4f} on {e['n']} images, {e['seconds']:.0f} s"
            )
        shown = max(shown, len(epochs))

    return look


def _to_grey(frames: np.ndarray, device: torch.device) -> Tensor:
    """`(…, 48, 48) uint8` to `(…, 1, 48, 48)` float in 0–1 on the device."""
    return torch.from_numpy(frames).to(device).float().div_(255).unsqueeze(-3)


def _normalise(crops: Tensor) -> Tensor:
    return (crops - Card.mean) / Card.std


@torch.no_grad()
def _update_average(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and batch-norm statistics, quicker at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _all_sum(value: Tensor) -> Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


def _read_record(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{record} is not the record of a training run: {error}") from error


def _restore() -> dict[str, Any] | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **settings,
        "data": tuple((name, path) for name, path in settings["data"]),
        "filters": tuple(settings["filters"]),
    }


def _export(config: TrainConfig, out: Path, state: dict[str, Any]) -> dict[str, Any]:
    model = CnnBiLstm(**state["architecture"])
    model.load_state_dict(state["ema"])
    history = state["history"]
    record = {
        "config": {k: v for k, v in config.to_dict().items() if k != "data"},
        "data": [name for name, _ in config.data],
        "training_clips": state["counts"],
        "selection_clips": state["selection_counts"],
        "selection": {k: history[-1][k] for k in ("accuracy", "macro_f1", "n")},
        "seconds": round(sum(h["seconds"] for h in history)),
    }
    write_json(out / "history.json", history)
    with (out / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY)
        writer.writeheader()
        writer.writerows(history)
    card = Card(
        classes=EMOTIONS,
        architecture={**state["architecture"], "dropout": 0.0},
        window_rate_hz=config.window_rate_hz,
        window_length=config.window_length,
        training=record,
    )
    save_checkpoint(out / "model.safetensors", model, card)
    return record
