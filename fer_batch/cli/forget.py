"""`forget_videos`."""

import argparse
from typing import Any

from fer_batch.storage.folder import open_folder

EXAMPLES = """\
examples:
  fer-batch forget results /archive/talks/monday.mp4
  fer-batch forget results monday.mp4 tuesday.mp4
  fer-batch forget results 3f2a9c0d11e4b7a6      by video_id

No row, file or log under OUT tells of the video afterwards; what was copied elsewhere is not touched. If the
command is killed, the same command again completes it."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "forget",
        help="remove a video from a run, without a trace",
        description="Remove all that the output of `analyze` holds of a video.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="its video_id, its uri, or its file's name if that is one's",
    )
    parser.set_defaults(run=run_forget, parser=parser)


def run_forget(options: argparse.Namespace) -> int:
    """Run the command `forget_videos`."""
    from fer_batch.run.forget import forget_videos

    for uri in forget_videos(options.out, options.videos):
        print(f"forgotten: {uri}")
    print(
        "`analyze` would look at it again where it finds it: remove the file, or leave it out of the inputs"
    )
    if not options.out.exists("_SUCCESS.json"):
        print(f"the run in {options.out} is not finished: run `fer-batch analyze` on it again")
    return 0
