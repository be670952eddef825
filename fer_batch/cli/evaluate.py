"""`evaluate`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.cli.train import add_data_option
from fer_batch.evaluation.averaging import AVERAGING

if TYPE_CHECKING:
    from fer_batch.evaluation.compare import Comparison
    from fer_batch.evaluation.evaluate import CheckpointResult
    from fer_batch.evaluation.examples import Examples

EXAMPLES = """\
examples:
  fer-batch evaluate --data fer2013=fer2013.parquet --split PublicTest --out report
  fer-batch evaluate --checkpoint RUN/model.safetensors --data fer2013=fer2013.csv --no-flip --out report
  fer-batch evaluate --data ck48=CK+48/ --common-classes --out report
  fer-batch evaluate --data fer2013=fer2013.csv --averaging none flip ten-crop --out report
  fer-batch evaluate --checkpoint default --checkpoint RUN --ensemble --data folder=faces/ --out report

The data sets are those of `fer-batch train`; nothing is left out of them but what can't be read. REPORT gets
metrics.json, per_class.csv, confusion.csv, confusion_normalized.csv, mistakes.csv (the most confident first),
plots of these, reliability.png, pictures of right and wrong answers, and the learning curves and history of
the run where the checkpoint lies in the folder of one. With several checkpoints that is a folder for each in
REPORT, of the first way of averaging. Where there is something to compare, REPORT has comparison.csv, .json
and .png: each row with what it gains over the first one, the 95 % interval of that, and McNemar's p.

samples_right.png, samples_wrong.png and mistakes.png show faces of the data set, and such data sets are for
research only: these pictures are not for publishing. --no-samples leaves them out."""

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
        action="append",
        metavar="FILE",
        help="a model's .safetensors, a .onnx of `export`, or a training run's folder; may be repeated "
        "(default: the packaged one, which is named default)",
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--averaging",
        nargs="+",
        choices=AVERAGING,
        metavar="WAY",
        help="none: the face alone; flip (default): the mean with its mirror image, as in `analyze`; "
        "ten-crop: the mean of four corners and the centre with their mirror images; several are compared",
    )
    ways.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="short for --averaging flip, or none",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="also the mean of all checkpoints' probabilities; they must have the same classes",
    )
    parser.add_argument(
        "--common-classes",
        action="store_true",
        help="leave out examples of classes that the checkpoint lacks, and answer only with classes that the "
        "data has: to try a checkpoint on a data set of another kind",
    )
    parser.add_argument(
        "--samples",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pictures of faces answered right and wrong, not for publishing (default: yes)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="REPORT", help="folder for the figures")
    parser.set_defaults(run=run_evaluate, parser=parser)


def run_evaluate(options: argparse.Namespace) -> int:
    """Run the command `evaluate`."""
    from fer_batch.evaluation.compare import compare
    from fer_batch.evaluation.evaluate import evaluate
    from fer_batch.storage.paths import check_folder

    check_folder(options.out)
    checkpoints = [None if name == "default" else Path(name) for name in options.checkpoint or ["default"]]
    averaging = options.averaging or ["none" if options.flip is False else "flip"]
    live = sys.stderr.isatty()
    evaluation = evaluate(
        options.data,
        split=options.split,
        checkpoints=checkpoints,
        averaging=averaging,
        ensemble=options.ensemble,
        common_classes=options.common_classes,
        on_loaded=_print_loaded,
        on_progress=lambda line: (
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True) if live else None
        ),
    )
    if live:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    evaluation.write(options.out, samples=options.samples)
    examples, reported = evaluation.examples, evaluation.first_results
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if options.common_classes:
        _print_common(console, examples, reported)
    if len(reported) == 1:
        _print_figures(console, {**reported[0].to_dict(), **examples.to_dict()})
    if len(evaluation.results) > 1:
        _print_comparison(console, compare(evaluation))
    first = options.out / ("metrics.json" if len(reported) == 1 else "comparison.json")
    beside = "" if len(reported) == 1 else ", a folder for each checkpoint"
    console.print(f"{first}, tables and plots beside it{beside}", markup=False, soft_wrap=True)
    return 0


def _print_loaded(examples: "Examples") -> None:
    for part in examples.data:
        left_out = ", ".join(f"{count} {reason}" for reason, count in part.left_out.items() if count)
        said = f"{part.name}: {part.n} faces or clips of the split {examples.split}"
        print(said + (f" (left out: {left_out})" if left_out else ""), file=sys.stderr, flush=True)
    if examples.split == "train":
        print(
            "the split train is what models learn from: of one that has learned from these, the figures say "
            "how well it remembers",
            file=sys.stderr,
            flush=True,
        )


def _print_common(console: Console, examples: "Examples", results: Sequence["CheckpointResult"]) -> None:
    left_out = ", ".join(f"{count} {name}" for name, count in examples.left_out.items())
    unused = dict.fromkeys(name for result in results for name in result.unused_classes)
    console.print(
        f"classes in common: {', '.join(examples.classes)}; examples left out: {left_out or 'none'}; "
        f"classes that are no answer: {', '.join(unused) or 'none'}",
        markup=False,
        soft_wrap=True,
    )


def _print_figures(console: Console, figures: dict[str, Any]) -> None:
    names = ", ".join(part["name"] for part in figures["data"])
    way = {"none": ", without flip", "flip": ""}.get(figures["averaging"], f", {figures['averaging']}")
    title = f"{figures['model_id']}{way} on {names}, {figures['split']}, n = {figures['n']:,}"
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


def _print_comparison(console: Console, comparison: "Comparison") -> None:
    table = Table(
        title=f"compared on {comparison.examples.split}, n = {len(comparison.examples.labels):,}, "
        "95 % intervals; gains in points",
        title_justify="left",
        title_style="",
    )
    table.add_column("checkpoint")
    table.add_column("averaging")
    for heading in ("accuracy", "macro-F1", "gain", "p"):
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        shares = [
            f"{getattr(row.metrics, key):.4f} ({_interval(row.metrics.intervals[key], 3)})"
            for key in ("accuracy", "macro_f1")
        ]
        gain = row.gain
        said = ["", ""]
        if gain:
            ends = [100 * v for v in gain.interval]
            said = [f"{100 * gain.accuracy:+.2f} ({_interval(ends, 2)})", f"{gain.p:.2g}"]
        table.add_row(Text(row.checkpoint), row.averaging, *shares, *said)
    console.print(table)


def _interval(ends: Sequence[float], digits: int) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
