"""`evaluate`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.cli.train import add_data_option

if TYPE_CHECKING:
    from fer_batch.evaluation.evaluate import Examples

EXAMPLES = """\
examples:
  fer-batch evaluate --data fer2013=fer2013.parquet --split PublicTest --out report
  fer-batch evaluate --checkpoint RUN/model.safetensors --data fer2013=fer2013.csv --no-flip --out report
  fer-batch evaluate --data ck48=CK+48/ --out report

The data sets are those of `fer-batch train`; nothing is left out of them but what can't be read. REPORT gets
metrics.json, per_class.csv, confusion.csv, confusion_normalized.csv, confusion.png and reliability.png."""

OVERALL = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "ece": "ECE, 15 bins",
    "ece_expected": "  by chance alone",
    "ece_debiased": "  above chance",
    "nll": "NLL",
}


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="how good a checkpoint is on labelled faces",
        description="Try a checkpoint on labelled faces: accuracy, F1, confusions, calibration.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_option(parser)
    parser.add_argument(
        "--split",
        metavar="S",
        help="Training, PublicTest, PrivateTest, or train, select (or val), test "
        "(default: test if there is one, else select, else train)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="a model's .safetensors, or a .onnx of `export` (default: the packaged one)",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mean with the mirrored face, as in `analyze` (default: yes)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder for the figures")
    parser.set_defaults(run=run_evaluate, parser=parser)


def run_evaluate(options: argparse.Namespace) -> int:
    """Run the command `evaluate`."""
    from fer_batch.errors import OutputError
    from fer_batch.evaluation.evaluate import evaluate
    from fer_batch.evaluation.report import write_report

    standing = next(folder for folder in (options.out, *options.out.absolute().parents) if folder.exists())
    if not standing.is_dir():
        raise OutputError(f"{standing} is a file; --out needs a folder")
    figures = evaluate(
        options.data,
        split=options.split,
        checkpoint=options.checkpoint,
        flip=options.flip,
        on_loaded=_print_loaded,
    )
    write_report(options.out, figures)
    _print_figures(figures, options.out)
    return 0


def _print_loaded(examples: "Examples") -> None:
    for part in examples.data:
        left_out = ", ".join(f"{count} {reason}" for reason, count in part["left_out"].items() if count)
        said = f"{part['name']}: {part['n']} faces or clips of the split {examples.split}"
        print(said + (f" (left out: {left_out})" if left_out else ""), file=sys.stderr, flush=True)


def _print_figures(figures: dict[str, Any], out: Path) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    names = ", ".join(part["name"] for part in figures["data"])
    flipped = "" if figures["flip"] else ", without flip"
    title = f"{figures['model_id']}{flipped} on {names}, {figures['split']}, n = {figures['n']:,}"
    console.print(Text(title, "bold"), soft_wrap=True)
    table = Table()
    table.add_column()
    for heading in ("", "95 % interval"):
        table.add_column(heading, justify="right")
    for key, name in OVERALL.items():
        interval = figures["intervals"].get(key)
        table.add_row(
            name, f"{figures[key]:.4f}", f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        )
    console.print(table)
    table = Table(title="by class", title_justify="left", title_style="")
    table.add_column("class")
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right")
    for name, values in figures["per_class"].items():
        shares = (f"{values[key]:.3f}" for key in ("precision", "recall", "f1"))
        table.add_row(Text(name), *shares, str(values["support"]))
    console.print(table)
    table = Table(title="a row a true class, a column an answer", title_justify="left", title_style="")
    table.add_column("true")
    for name in figures["classes"]:
        table.add_column(Text(name), justify="right")
    for name, row in zip(figures["classes"], figures["confusion"], strict=True):
        table.add_row(Text(name), *map(str, row))
    console.print(table)
    console.print(f"{out / 'metrics.json'}, tables and plots beside it", markup=False, soft_wrap=True)
