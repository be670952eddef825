"""`crossval`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.cli.train import add_data_option
from fer_batch.config import TrainConfig

EXAMPLES = """\
examples:
  fer-batch crossval --data ck48=CK+48/ --out runs/ck48
  fer-batch crossval --data ck48=ck48.parquet --init RUN/model.safetensors --seed 1 --out runs/ck48_1

The ten folds are of subjects, and come with the package. DIR gets crossval.json and predictions.csv, and
a file for each fold that is done: the same command again goes on from there."""

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "crossval",
        help="what a sequence adds to its last frame, on CK+48 by subject",
        description="CK+48, seven classes, ten folds by subject: the CNN on a sequence's last frame against "
        "the CNN-BiLSTM on all of its frames.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_option(parser, "ck48=PATH", "CK+48: folders or Parquet")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the answers")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="a model's .safetensors to start each fold from (default: the packaged one)",
    )
    parser.add_argument("--epochs", type=int, help="passes over the other folds' frames as stills")
    parser.add_argument("--seed", type=int, help="of the training (default 0)")
    parser.set_defaults(run=run_crossval, parser=parser)


def run_crossval(options: argparse.Namespace) -> int:
    """Run the command `crossval`."""
    import torch

    from fer_batch.evaluation.crossval import CLASSES, RECIPE, crossval
    from fer_batch.model.weights import DEFAULT_CHECKPOINT

    given = {name: getattr(options, name) for name in ("epochs", "seed")}
    config = TrainConfig(
        **RECIPE | {name: value for name, value in given.items() if value is not None},
        data=tuple(options.data),
        classes=CLASSES,
        init=str((options.init or DEFAULT_CHECKPOINT).absolute()),
    )
    torch.set_num_threads(config.threads)
    result = crossval(config, options.out, on_line=lambda line: print(line, file=sys.stderr, flush=True))
    _print_result(result, options.out)
    return 0


def _print_result(result: dict[str, Any], out: Path) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    title = (
        f"CK+48, {result['n']} sequences of {result['subjects']} people, {len(result['folds'])} folds pooled"
    )
    console.print(Text(title, "bold"), soft_wrap=True)
    table = Table()
    table.add_column()
    table.add_column("CNN, last frame", justify="right")
    table.add_column("CNN-BiLSTM, all frames", justify="right")
    models = (result["cnn"], result["cnn_bilstm"])
    for key, name in FIGURES.items():
        table.add_row(name, *(f"{m[key]:.4f} ({_interval(m['intervals'][key])})" for m in models))
    for name in result["cnn"]["classes"]:
        table.add_row(f"  F1 {name}", *(f"{m['per_class'][name]['f1']:.3f}" for m in models))
    console.print(table)
    gap = result["difference"]
    console.print(
        f"the sequence adds {100 * gap['accuracy']:+.1f} points of accuracy "
        f"({_interval([100 * v for v in gap['interval']], 1)}): {gap['only_second']} sequences are right "
        f"only with it, {gap['only_first']} only without (McNemar p = {gap['p']:.2g})",
        soft_wrap=True,
    )
    table = Table(
        title="CNN-BiLSTM: a row a true class, a column an answer", title_justify="left", title_style=""
    )
    table.add_column("true")
    for name in models[1]["classes"]:
        table.add_column(name, justify="right")
    for name, row in zip(models[1]["classes"], models[1]["confusion"], strict=True):
        table.add_row(name, *map(str, row))
    console.print(table)
    console.print(f"{out / 'crossval.json'}, predictions.csv beside it", markup=False, soft_wrap=True)


def _interval(ends: list[float], digits: int = 3) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
