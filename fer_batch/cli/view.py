"""`view`."""

import argparse
from typing import Any

from fer_batch.storage.folder import open_folder

EXAMPLES = """\
examples:
  fer-batch view results                    says an address; open it in a browser of this machine
  fer-batch view results --port 8000        always the same address
  fer-batch view s3://bucket/results        results in a store

Of another machine: ssh -L 8000:localhost:8000 MACHINE fer-batch view results --port 8000

All videos of the run, to search and filter; of each the player with boxes over the faces, and their emotions
over time. Only this machine is answered (all who use it), only files of this run are shown, and nothing is
written. Press ? in the page for its keys. Ctrl-C ends it."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "view",
        help="look at a run in a browser",
        description="Serve the videos of a run and their timelines to a browser on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="default: 0, any that is free")
    parser.set_defaults(run=run_view, parser=parser)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text} is no port; allowed are 0 to 65535")
    return int(text)


def run_view(options: argparse.Namespace) -> int:
    """Run the command `view`."""
    from fer_batch.timeline.viewer.server import serve

    return serve(options.out, options.port)
