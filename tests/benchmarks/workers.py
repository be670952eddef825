"""Compare one worker with several at equal epochs, with and without scaling, on FER2013's PublicTest.

python tests/benchmarks/workers.py --data fer2013=PATH [--images 8000] [--epochs 8] [--workers 1 8]
    [--set lr=0.05]

The workers are processes of this machine that average their gradients, as DDP does on a cluster. Each batch
of a worker has `batch_size` examples, so that eight workers take an eighth of the steps.
"""

import argparse
import dataclasses
import json
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from fer_batch.cli.arguments import parse_named_path
from fer_batch.data.clips import Clips
from fer_batch.data.datasets import load_datasets
from fer_batch.train_config import TrainConfig
from fer_batch.training.loop import WorkerContext, train_network
from tests.benchmarks.imbalance import SHORT


def run_worker(rank: int, world: int, config: TrainConfig, data: Clips, folder: str) -> None:
    """Train as one of `world` workers; the first writes the history of the run into `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    context = WorkerContext(
        device=torch.device("cpu"),
        rank=rank,
        world=world,
        join=lambda module: DistributedDataParallel(module, find_unused_parameters=True),
    )
    training, selection = (data.take(data.splits == split) for split in ("train", "select"))
    state = train_network(config, training, selection, context)
    if rank == 0:
        rows = [row.to_dict() for row in state.history]
        (Path(folder) / "history.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def measure(world: int, config: TrainConfig, data: Clips) -> dict[str, Any]:
    """Train with `world` workers; return the last epoch's metrics."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, workers=world)
        multiprocessing.spawn(run_worker, (world, config, data, folder), world)
        history = json.loads((Path(folder) / "history.json").read_text())
    return {**history[-1], "workers": world, "scaled": config.scale_lr, "wall_s": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=parse_named_path)
    parser.add_argument("--images", type=int, default=8000, help="training images, drawn at random")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    data = load_datasets([args.data])[0]
    training = np.flatnonzero(data.splits == "train")
    chosen = np.random.default_rng(0).permutation(training)[: args.images]
    data = data.take(np.sort(np.concatenate([chosen, np.flatnonzero(data.splits == "select")])))
    changes = {
        name: tomllib.loads(f"value = {value}")["value"] for name, value in (s.split("=") for s in args.set)
    }
    for world in args.workers:
        for scaled in (True, False) if world > 1 else (True,):
            settings = SHORT | {"epochs": args.epochs, "batch_size": 32, "scale_lr": scaled} | changes
            row = measure(world, TrainConfig(data=(args.data,), **settings), data)
            names = ("workers", "scaled", "accuracy", "macro_f1", "loss", "select_loss", "wall_s")
            print(json.dumps({name: row[name] for name in names}), flush=True)


if __name__ == "__main__":
    main()
