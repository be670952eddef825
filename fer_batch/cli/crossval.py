"""`crossval`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.cli.analyze import add_insecure_option
from fer_batch.cli.train import add_data_option, train_config

EXAMPLES = """\
examples:
  fer-batch crossval --data ck48=CK+48/ --out runs/ck48
  fer-batch crossval --data ck48=ck48.parquet --init RUN/model.safetensors --seed 1 --out runs/ck48_1
  fer-batch crossval --recipe dcnn-bilstm-ck48 --data ck48=ck48.parquet --test-share 0.3 --out runs/dcnn
  fer-batch crossval --recipe dcnn-bilstm-ck48 --data ck48=ck48.parquet --by both --folds 5 --out runs/leak
  fer-batch crossval --recipe cnn4bn-fer2013 --data fer2013=fer2013.parquet --folds 5 --out runs/cnn4bn

Without --recipe: CK+48's seven classes, the CNN on a sequence's last frame against the CNN-BiLSTM
on all of its frames; the ten folds are of subjects, and come with the package. With a recipe: its
network, its classes and its training, one model a fold. Nothing is chosen on the fold that is asked: what
`plateau` and early stopping look at is a tenth of the other folds, held out. The data's split `test` stays
aside.

DIR gets crossval.json, folds.csv, predictions.csv and confusion.png, and a file for each fold that is done:
the same command again goes on from there."""

FIGURES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
TITLES = {"cnn": "CNN, last frame", "cnn_bilstm": "CNN-BiLSTM, all frames"}

WAYS = {"random": "at random", "subject": "by subject"}


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "crossval",
        help="how good a way of training is on people never seen, and what having seen them is worth",
        description="Cross-validation by subject or at random, the folds side by side on Ray. By default "
        "CK+48, seven classes, ten folds by subject: the CNN on a sequence's last frame against the "
        "CNN-BiLSTM on all of its frames.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_option(parser, text="a data set, as in `fer-batch train`; may be repeated")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the answers")
    group = parser.add_argument_group("what is trained")
    group.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="training settings: a packaged recipe (`fer-batch models` lists them), or a .toml file of the "
        "options of `fer-batch train` (names with _)",
    )
    group.add_argument(
        "--init",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="a model's .safetensors to start each fold from (default: random weights with a recipe, "
        "else the packaged one)",
    )
    group.add_argument(
        "--epochs",
        type=int,
        default=argparse.SUPPRESS,
        help="passes over the other folds as stills (dcnn-bilstm: over all clips)",
    )
    group.add_argument(
        "--seed", type=int, default=argparse.SUPPRESS, help="of the training and the folds (default 0)"
    )
    group = parser.add_argument_group("who is asked")
    group.add_argument(
        "--by",
        choices=("subject", "random", "both"),
        default="subject",
        help="divide by subject (where nobody is named, the same images stay together), at random as it is "
        "often published, or both and the difference (default subject)",
    )
    ways = group.add_mutually_exclusive_group()
    ways.add_argument("--folds", type=int, default=10, metavar="K", help="(default 10)")
    ways.add_argument(
        "--test-share", type=float, metavar="S", help="ask one part with this share, instead of folds"
    )
    group.add_argument(
        "--repeats", type=int, default=1, metavar="R", help="once for each of R seeds from --seed (default 1)"
    )
    group = parser.add_argument_group("the machine")
    group.add_argument(
        "--parallel",
        type=int,
        metavar="K",
        help="folds at once, under Ray (default: as many as there are CPUs for; 1: without Ray)",
    )
    group.add_argument("--address", help="a Ray cluster, whose machines share DIR (default: this machine)")
    add_insecure_option(group)
    group.add_argument("--verbose", action="store_true", help="show what Ray says")
    parser.set_defaults(run=run_crossval, parser=parser)


def run_crossval(options: argparse.Namespace) -> int:
    """Run the command `crossval`."""
    from fer_batch.evaluation.crossval.crossval import CK48_RECIPE, check_ck48_data, crossval
    from fer_batch.evaluation.crossval.folds import Protocol

    if options.recipe is None:
        check_ck48_data(options.data or ())
        for name, value in CK48_RECIPE.items():
            vars(options).setdefault(name, value)
    result = crossval(
        train_config(options),
        options.out,
        protocol=Protocol(
            by=("random", "subject") if options.by == "both" else (options.by,),
            folds=options.folds,
            test_share=options.test_share,
            repeats=options.repeats,
        ),
        parallel=options.parallel,
        address=options.address,
        insecure=options.insecure,
        verbose=options.verbose,
        on_line=lambda line: print(line, file=sys.stderr, flush=True),
    )
    _print_result(result.to_dict(), options)
    return 0


def _print_result(result: dict[str, Any], options: argparse.Namespace) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    several, models = "leak" in result, result["settings"]["models"]
    parts = {by: result[by] for by in ("random", "subject")} if several else {options.by: result}
    recipe = options.recipe or ""
    titles = {name: TITLES.get(name, "the model" if recipe.endswith(".toml") else recipe) for name in models}
    names = " and ".join("CK+48" if name == "ck48" else name for name in dict(options.data))
    people = f" of {result['subjects']} people" if result["subjects"] else ""
    console.print(
        Text(f"{names}, {result['n']} {result['unit']}{people}, {_how(result['settings'], parts)}", "bold"),
        soft_wrap=True,
    )
    table, columns = Table(), []
    table.add_column()
    for by, part in parts.items():
        for name in models:
            table.add_column(f"{titles[name]}, {WAYS[by]}" if several else titles[name], justify="right")
            columns.append(part[name])
    table.add_row("answers", *(str(m["n"]) for m in columns))
    for key, title in FIGURES.items():
        table.add_row(title, *(f"{m[key]:.4f} ({_interval(m['intervals'][key])})" for m in columns))
    for name in columns[0]["classes"]:
        table.add_row(f"  F1 {name}", *(f"{m['per_class'][name]['f1']:.3f}" for m in columns))
    console.print(table)
    for by, part in parts.items():
        _print_spread(console, part, titles, f"{WAYS[by]}, " if several else "")
        if "difference" in part:
            _print_difference(console, part["difference"], f"{WAYS[by]}, " if several else "")
    for name in result.get("leak", {}):
        _print_leak(console, result, name, titles[name])
    for by, part in parts.items():
        title = titles[models[-1]].partition(",")[0] + (f", {WAYS[by]}" if several else "")
        _print_confusion(console, part[models[-1]], title)
    picture = "confusion_random.png, confusion_subject.png" if several else "confusion.png"
    console.print(
        f"{options.out / 'crossval.json'}, folds.csv, predictions.csv, {picture} beside it",
        markup=False,
        soft_wrap=True,
    )


def _how(settings: dict[str, Any], parts: dict[str, Any]) -> str:
    """How the data was divided, in words."""
    runs = settings["repeats"]
    if settings["test_share"] is None:
        folds = len(next(iter(parts.values()))["folds"]) // runs
        how = f"{folds} folds pooled"
    else:
        how = f"{settings['test_share']:g} of it asked"
    return how + (f", {runs} times" if runs > 1 else "")


def _print_spread(console: Console, part: dict[str, Any], titles: dict[str, str], where: str) -> None:
    """Mean and spread over repeats or folds, where there are several."""
    found = part["spread"]
    if found["count"] < 2:
        return
    for name, title in titles.items():
        keys = (name, f"{name}_macro_f1") if name in TITLES else tuple(FIGURES)
        accuracy, f1 = (f"{found[key]['mean']:.3f} ± {found[key]['sd']:.3f}" for key in keys)
        console.print(
            f"{where}{title}: accuracy {accuracy}, macro-F1 {f1} (mean ± standard deviation of "
            f"{found['count']} {found['over']})",
            soft_wrap=True,
        )


def _print_difference(console: Console, gap: dict[str, Any], where: str) -> None:
    test = f" (McNemar p = {gap['p']:.2g})" if gap["p"] is not None else ""
    console.print(
        f"{where}the sequence adds {100 * gap['accuracy']:+.1f} points of accuracy "
        f"({_interval([100 * v for v in gap['interval']], 1)}): {gap['only_second']} sequences are right "
        f"only with it, {gap['only_first']} only without{test}",
        soft_wrap=True,
    )


def _print_leak(console: Console, result: dict[str, Any], model: str, title: str) -> None:
    gap, repeats = result["leak"][model], result["settings"]["repeats"]
    at_random, by_subject = result["random"], result["subject"]
    points = _interval([100 * v for v in gap["accuracy_interval"]], 1)
    f1 = _interval(gap["macro_f1_interval"])
    over = (
        f", over {repeats} repeats ± {100 * gap['accuracy_runs']['sd']:.1f} points and "
        f"± {gap['macro_f1_runs']['sd']:.3f}"
    )
    known = sum(row["known"] for row in at_random["folds"])
    console.print(
        f"{title}: the leak is worth {100 * gap['accuracy']:+.1f} points of accuracy ({points}) and "
        f"{gap['macro_f1']:+.3f} macro-F1 ({f1}){over if repeats > 1 else ''}: at random {known} of "
        f"{at_random[model]['n']} answers are of {'people' if result['subjects'] else 'images'} that stand "
        f"outside the fold too, by subject none of {by_subject[model]['n']}",
        soft_wrap=True,
    )


def _print_confusion(console: Console, figures: dict[str, Any], title: str) -> None:
    console.print(f"{title}: a row a true class, a column an answer", soft_wrap=True)
    table = Table("true")
    for name in figures["classes"]:
        table.add_column(name, justify="right")
    for name, row in zip(figures["classes"], figures["confusion"], strict=True):
        table.add_row(name, *map(str, row))
    console.print(table)


def _interval(ends: list[float], digits: int = 3) -> str:
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
