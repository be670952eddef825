"""Compare methods against class imbalance with a narrow encoder, one seed and a short training.

python tests/benchmarks/imbalance.py --data fer2013=PATH [--epochs 8] [--methods none,sqrt] [--set lr=0.05]
    [--json FILE]

Each method trains on Training and is measured on PublicTest after its last epoch, so nothing is selected on
that split. With one seed, only differences above about one point are significant. `--set` changes another
field of TrainConfig for all methods: numbers and lists as in TOML, anything else is text.
"""

import argparse
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fer_batch.cli.arguments import parse_named_path
from fer_batch.data.clips import Clips
from fer_batch.data.datasets import load_datasets
from fer_batch.evaluation.metrics import measure
from fer_batch.train_config import IMBALANCE, TrainConfig
from fer_batch.training.loop import WorkerContext, train_network
from fer_batch.training.predict import predict_log_probs

SHORT: dict[str, Any] = {
    "filters": (16, 32, 64),
    "depths": (1, 1, 1),
    "fold": 2,
    "sequence_epochs": 0,
    "dropout": 0.1,
    "ema_decay": 0.99,
    "erasing": 0.0,
    "rotation_deg": 8.0,
    "zoom": 0.1,
    "shift": 0.08,
    "votes": 0.0,
}
"""Settings for a small network and few epochs: weak regularization."""
WATCHED = ("disgust", "fear")
"""The classes that suffer most: the rarest one, and the one most often confused with others."""


def train_and_measure(config: TrainConfig, data: Clips) -> dict[str, Any]:
    """Train on the training split; return the metrics on the selection split and the wall `seconds`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.monotonic()
    trained = train_network(
        config, data.take(data.splits == "train"), data.take(data.splits == ""), WorkerContext(device=device)
    )
    seconds = time.monotonic() - began
    model = trained.build_network().to(device)
    selection = data.take(data.splits == "select")
    logits = predict_log_probs(model, selection.frames[selection.starts[1:] - 1][:, None], device)
    probs = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    return {**measure(probs, selection.labels, data.classes).to_dict(), "seconds": seconds}


def table_of(results: dict[str, dict[str, Any]]) -> Table:
    """Print a row for each method: accuracy, macro-F1, F1 of the watched classes, seconds."""
    table = Table()
    table.add_column("method")
    watched = [f"F1 {name}" for name in WATCHED]
    for heading in ("accuracy", "macro-F1", *watched, "s"):
        table.add_column(heading, justify="right")
    for method, figures in results.items():
        rare = (f"{figures['per_class'][name]['f1']:.3f}" for name in WATCHED)
        table.add_row(
            method,
            f"{figures['accuracy']:.4f}",
            f"{figures['macro_f1']:.4f}",
            *rare,
            f"{figures['seconds']:.0f}",
        )
    return table


def parse_setting(text: str) -> tuple[str, Any]:
    """Split NAME=VALUE, and parse the value as TOML if possible."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, as in lr=0.05")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def parse_methods(text: str) -> tuple[str, ...]:
    """Split names at commas; each must be in IMBALANCE."""
    methods = tuple(text.split(","))
    if wrong := [method for method in methods if method not in IMBALANCE]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is no method; allowed are {', '.join(IMBALANCE)}")
    return methods


def main() -> None:
    """Train with each method, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=parse_named_path, required=True, metavar="fer2013=PATH")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--methods", type=parse_methods, default=IMBALANCE, metavar="A,B")
    parser.add_argument(
        "--set", type=parse_setting, action="append", default=[], metavar="NAME=VALUE", dest="settings"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    shared = {**SHORT, "epochs": options.epochs, **dict(options.settings), "data": (options.data,)}
    configs = {m: TrainConfig.from_dict({**shared, "imbalance": m}) for m in options.methods}
    data, _ = load_datasets([options.data])
    console = Console(highlight=False)
    results: dict[str, dict[str, Any]] = {}
    for method, config in configs.items():
        torch.set_num_threads(config.threads)
        results[method] = train_and_measure(config, data)
        console.print(f"{method}: accuracy {results[method]['accuracy']:.4f}")
        if options.json:
            settings = {k: v for k, v in config.to_dict().items() if k not in ("data", "imbalance")}
            options.json.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
    console.print(table_of(results))


if __name__ == "__main__":
    main()
