"""`verify_run`."""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from fer_batch.schema import VIDEO_STATUSES
from fer_batch.storage.folder import open_folder

EXAMPLES = """\
examples:
  fer-batch verify results
  fer-batch verify results --json

Exit code: 0 where every planned video has its row and every count adds up, 1 with a line for each difference,
2 where OUT holds no run. It reads all results and tables, writes nothing, and can run at any time; of a run
that is going on it says what is still to do."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "verify",
        help="check that nothing of a run is lost or there twice",
        description="Check the output of `analyze`: the plan, the results and the tables against each other.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.set_defaults(run=run_verify, parser=parser)


def run_verify(options: argparse.Namespace) -> int:
    """Run the command `verify_run`."""
    from fer_batch.run.summary import summarize_run
    from fer_batch.run.verify import verify_run

    found = verify_run(options.out.absolute())
    if found:
        print(json.dumps({"ok": False, "differences": found}, indent=1) if options.json else "\n".join(found))
        return 1
    summary = summarize_run(options.out.absolute())
    counts = {"moments": summary.moments, "faces": summary.faces, "tracks": summary.tracks}
    if options.json:
        videos = {"videos": summary.videos}
        print(json.dumps({"ok": True, "differences": [], **videos, **counts}, indent=1))
        return 0
    print(f"{options.out}: all adds up")
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("videos", str(sum(summary.videos.values())))
    for status in VIDEO_STATUSES:
        if status in summary.videos:
            table.add_row(f"  {status}", str(summary.videos[status]))
    for name, count in counts.items():
        table.add_row(name, str(count))
    Console(highlight=False).print(table)
    return 0
