"""`explore`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from fer_batch.cli.train import named_path

if TYPE_CHECKING:
    from fer_batch.data.explore.tables import Table

EXAMPLES = """\
examples:
  fer-batch explore fer2013=fer2013.parquet --out look
  fer-batch explore fer2013=fer2013.csv ck48=CK+48/ --out look         each one, and both together
  fer-batch explore folder=faces/ --no-samples --out look              without pictures of faces

The data sets are those of `fer-batch train` but clips; nothing is left out of them but what can't be read.
DIR gets explore.html (one page with all of it), explore.xlsx, explore.json, classes.csv, the plots of
distribution, brightness and sharpness in colour and (_bw) in black and white, and pictures of faces:
samples_CLASS.png and odd_KIND.png.

These pictures and the page show faces. Those of FER2013 and CK+48 are for research: don't publish them, and
make the page with --no-samples for anyone else."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "explore",
        help="what a data set of labelled faces holds, and what is odd about it",
        description="Counts and shares of classes, duplicates, blank and odd images, brightness, sharpness.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sets", nargs="*", type=named_path, metavar="NAME=PATH", help="data sets")
    parser.add_argument(
        "--data", action="append", type=named_path, default=[], metavar="NAME=PATH",
        help="the same, as `train` takes it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--samples",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pictures of faces, nine of a class, also in the page (default: yes)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for what is found")
    parser.set_defaults(run=run_explore, parser=parser)


def run_explore(options: argparse.Namespace) -> int:
    """Run the command `explore`."""
    from fer_batch.data.explore.explore import explore
    from fer_batch.data.explore.report import write_exploration
    from fer_batch.data.explore.tables import list_tables
    from fer_batch.storage.paths import check_folder

    data = [*options.sets, *options.data]
    if not data:
        options.parser.error("no data set is named: give NAME=PATH, as in fer2013=fer2013.parquet")
    check_folder(options.out)
    _print_progress("reading " + ", ".join(name for name, _ in data) + " …")
    try:
        exploration = explore(data, on_line=_print_line)
        write_exploration(options.out, exploration, samples=options.samples, on_progress=_print_progress)
    finally:
        _print_progress("")
    _print_tables(list_tables(exploration), options.out)
    return 0


def _print_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _print_line(line: str) -> None:
    _print_progress("")
    print(line, file=sys.stderr, flush=True)


def _print_tables(tables: "list[Table]", out: Path) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for table in tables:
        rich_table = RichTable(title=Text(table.title), title_justify="left", title_style="bold")
        for name, is_numeric in zip(table.frame.columns, table.is_numeric(), strict=True):
            rich_table.add_column(Text(name), justify="right" if is_numeric else "left")
        for row in table.format_rows():
            rich_table.add_row(*map(Text, row))
        console.print(rich_table)
    console.print(
        f"{out / 'explore.html'}, explore.xlsx, explore.json and pictures beside it",
        markup=False,
        soft_wrap=True,
    )
