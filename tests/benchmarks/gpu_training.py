"""Checks of training on a GPU: one process, two processes on one device, and a run that is killed."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fer_batch.data.clips import Clips
from fer_batch.train_config import TrainConfig
from fer_batch.training.loop import WorkerContext, train_network
from fer_batch.training.state import TrainState, decode_state, encode_state
from tests.benchmarks.gpu_setup import Measurement, Setup, peak_gpu_bytes
from tests.training.examples import (
    SMALL_NETWORK,
    SMALL_RECIPE,
    find_differences,
    make_bars,
    write_bars_csv,
    write_recipe,
)
from tests.training.processes import run_and_kill

PROCESSES = 2
MIN_ACCURACY = 0.9
"""Accuracy that each training must reach: the classes are bars of different heights."""


def measure_training(setup: Setup) -> Measurement:
    """Train both phases in one process: clips per second, memory, and whether it learns."""
    training, selection = make_clips(setup)
    state = train_network(make_config(setup), training, selection, WorkerContext(device=setup.device))
    return describe_training(state, len(training), setup.device)


def measure_ddp(setup: Setup) -> Measurement:
    """Train in two processes that share one device, with the arguments of Ray Train's `prepare_model`.

    NCCL refuses two processes on one GPU, so gloo averages the gradients. It copies them through the CPU, so
    the speed says nothing about several GPUs.
    """
    torch.multiprocessing.spawn(_train_rank, (setup,), nprocs=PROCESSES)
    files = [setup.folder / f"{rank}.pt" for rank in range(PROCESSES)]
    first, second = (decode_state(file.read_bytes(), file.name) for file in files)
    result = describe_training(first, len(make_clips(setup)[0]), setup.device)
    result["gpu_bytes"] = json.loads((setup.folder / "0.json").read_text())
    result["processes"] = PROCESSES
    for name in ("module", "ema"):
        weights = [
            {k: v for k, v in getattr(state, name).items() if "running" not in k and "batches" not in k}
            for state in (first, second)
        ]
        if different := find_differences(*weights):
            result["problems"].append(f"weights of {name} differ between processes: {different[:3]}")
    return result


def _train_rank(rank: int, setup: Setup) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{setup.folder}/ranks", rank=rank, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    device = torch.device("cuda", 0) if setup.device.type == "cuda" else torch.device("cpu")

    def join(module: nn.Module) -> nn.Module:
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    context = WorkerContext(device=device, rank=rank, world=PROCESSES, join=join)
    state = train_network(make_config(setup), *make_clips(setup), context)
    (setup.folder / f"{rank}.pt").write_bytes(encode_state(state))
    (setup.folder / f"{rank}.json").write_text(json.dumps(peak_gpu_bytes(device)))
    dist.destroy_process_group()


def measure_resume(setup: Setup) -> Measurement:
    """Kill `fer-batch train` after its second epoch, and run the same command to the end."""
    data = write_bars_csv(setup.folder / "bars.csv", 200 if setup.small else 2000)
    recipe = write_recipe(setup.folder / "recipe.toml", SMALL_RECIPE | {"epochs": 30})
    out, log = setup.folder / "run", setup.folder / "killed.log"
    command = ["train", "--data", f"fer2013={data}", "--recipe", str(recipe), "--out", str(out)]
    command += ["--gpus", "1" if setup.device.type == "cuda" else "0"]
    run_and_kill(command, log, lambda: "epoch 2 " in log.read_text())
    before = read_history(out)
    ended = subprocess.run(
        [sys.executable, "-m", "fer_batch.cli.main", *command], capture_output=True, text=True, check=False
    )
    if ended.returncode:
        return {"problems": [f"the second start ended with {ended.returncode}: {ended.stderr[-2000:]}"]}
    after, card = read_history(out), json.loads((out / "model.json").read_text())
    problems = []
    if not before or after[: len(before)] != before:
        problems.append("the second start did not keep the epochs of the first")
    if [row["epoch"] for row in after] != list(range(1, 32)):
        problems.append(f"epochs are missing or repeated: {[row['epoch'] for row in after]}")
    return {
        "problems": problems,
        "epochs_before_the_kill": len(before),
        "epochs": len(after),
        "seconds_per_epoch": [row["seconds"] for row in after],
        "card": card.get("training"),
    }


def read_history(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's history.json, none if it is missing."""
    path = out / "history.json"
    return json.loads(path.read_text()) if path.exists() else []


def make_config(setup: Setup) -> TrainConfig:
    settings = SMALL_NETWORK if setup.small else {}
    epochs = 10 if setup.small else 3
    return TrainConfig(data=(("folder", "bars"),), epochs=epochs, sequence_epochs=1, **settings)


def make_clips(setup: Setup) -> tuple[Clips, Clips]:
    """Return clips to train on and to select by."""
    count = 240 if setup.small else 30_000
    labels = [number % 3 for number in range(count)]
    return make_bars(labels), make_bars(labels[: count // 10], seed=1)


def describe_training(state: TrainState, clips: int, device: torch.device) -> Measurement:
    """Return the rate of each epoch, the accuracy and the memory, and what is wrong with them."""
    problems = []
    if not all(math.isfinite(row.loss) for row in state.history):
        problems.append("a loss is not finite")
    for phase in ("stills", "sequences"):
        accuracy = [row.accuracy for row in state.history if row.phase == phase][-1]
        if accuracy < MIN_ACCURACY:
            problems.append(f"accuracy {accuracy:.2f} after {phase}, less than {MIN_ACCURACY}")
    return {
        "problems": problems,
        "clips": clips,
        "epochs": [
            {
                "phase": row.phase,
                "loss": row.loss,
                "accuracy": row.accuracy,
                "seconds": row.seconds,
                "clips_per_s": clips / row.seconds,
            }
            for row in state.history
        ],
        "gpu_bytes": peak_gpu_bytes(device),
    }
