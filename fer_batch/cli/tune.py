"""`tune`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.cli.analyze import add_insecure_option
from fer_batch.cli.train import add_data_option, add_settings, print_status, train_config

if TYPE_CHECKING:
    from fer_batch.training.tune.study import StudySummary

EXAMPLES = """\
examples:
  fer-batch tune --data fer2013=fer2013.parquet --epochs 12 --trials 20 --out studies/first
  fer-batch tune --recipe cnn4bn-fer2013 --data fer2013=fer2013.parquet --epochs 15 --out studies/cnn4bn
  fer-batch tune --data folder=faces/ --init default --lr 0.01 --epochs 5 --parallel 4 --out studies/ours
  fer-batch train --recipe studies/first/best.toml --data fer2013=fer2013.parquet --epochs 36 --out runs/best

Around the options of `train`, which are the first trial, it searches the learning rate (a tenth to three
times), the width (0.5, 0.75, 1 or 1.5 times the channels), the dropout (0 to 1.5 times), the augmentation
(0 to 2 times) and what is done for rare classes. Of cnn-bilstm it trains the stills. Trials that fall behind
are stopped early; a trial is judged on the selection split, never on a test split.

The same command again goes on where it was stopped, and more --trials add to it. STUDY gets trials.csv,
trials.json (with the curves), best.toml (a recipe for `train`), study.json, and history.png, parameters.png,
curves.png and importance.png."""

HEADINGS = {
    "trial": "trial",
    "lr": "lr",
    "width": "width ×",
    "dropout": "dropout ×",
    "augmentation": "augment ×",
    "imbalance": "imbalance",
    "epochs": "epochs",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "seconds": "seconds",
}


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "tune",
        help="search better settings for training",
        description="Search settings of training around those that are given, under Ray Tune: Optuna "
        "suggests them, ASHA stops what falls behind.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_option(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="STUDY", help="folder: new, empty, or of this study"
    )
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="how many are tried (default %(default)s)"
    )
    parser.add_argument(
        "--metric",
        default="accuracy",
        choices=("accuracy", "macro_f1"),
        help="what is best, on the selection split (default %(default)s)",
    )
    parser.add_argument(
        "--parallel", type=int, metavar="K", help="trials at once (default: one a GPU, else one a CPU)"
    )
    add_settings(parser)
    parser.add_argument("--address", help="a Ray cluster (default: this machine)")
    add_insecure_option(parser)
    parser.add_argument("--verbose", action="store_true", help="show what Ray says")
    parser.set_defaults(run=run_tune, parser=parser)


def run_tune(options: argparse.Namespace) -> int:
    """Run the command `tune`."""
    config = train_config(options)
    from fer_batch.training.tune.plots import write_plots
    from fer_batch.training.tune.run import tune

    found = tune(
        config,
        options.out,
        options.trials,
        metric=options.metric,
        parallel=options.parallel,
        on_progress=print_status,
        address=options.address,
        insecure=options.insecure,
        verbose=options.verbose,
    )
    pictures = write_plots(options.out, found)
    _print_trials(found, options.out, pictures)
    return 0


def _print_trials(found: "StudySummary", out: Path, pictures: list[str]) -> None:
    metric = found.settings["metric"]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    done = [trial for trial in found.trials if getattr(trial, metric) is not None]
    other = [trial for trial in found.trials if getattr(trial, metric) is None]
    names = [name for name in HEADINGS if any(getattr(trial, name) is not None for trial in found.trials)]
    table = Table(title="best first; trial 1 is the base", title_justify="left", title_style="")
    for name in names:
        table.add_column(HEADINGS[name], justify="left" if name == "imbalance" else "right")
    table.add_column("status")
    for trial in [*sorted(done, key=lambda trial: -getattr(trial, metric)), *other]:
        status = "stopped early" if trial.stopped_early else f"{trial.status} {trial.reason}".strip()
        table.add_row(*(_said(name, getattr(trial, name)) for name in names), Text(status))
    console.print(table)
    if found.importance:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in found.importance.items())
        console.print(f"share of the differences that is due to each: {shares}", soft_wrap=True)
    best = found.best
    console.print(
        f"{out / 'best.toml'}: trial {best.trial}, accuracy {best.accuracy:.4f}, macro-F1 "
        f"{best.macro_f1:.4f} for selection; beside it trials.csv, trials.json, {', '.join(pictures)}",
        markup=False,
        soft_wrap=True,
    )


def _said(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("accuracy", "macro_f1"):
        return f"{value:.4f}"
    if name in ("width", "dropout", "augmentation"):
        return f"{value:.2f}"
    return f"{value:.3g}" if name == "lr" else f"{value:.0f}" if name == "seconds" else str(value)
