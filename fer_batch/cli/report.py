"""`report`."""

import argparse
from typing import Any

from fer_batch.storage.folder import open_folder
from fer_batch.storage.paths import parse_file_path

EXAMPLES = """\
examples:
  fer-batch report results talk.mp4 -o talk.html
  fer-batch report results /archive/talks/monday.mp4 -o monday.html
  fer-batch report s3://bucket/results 3f2a9c0d11e4b7a6 -o page.html      by video_id

The page is one file that any browser of 2023 or later shows, from disk, without a network. It holds what the
tables say of the video, its address too, and no picture of anyone."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "report",
        help="a video's timeline as one HTML file",
        description="Write a page that shows a video's emotions over time, face by face.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument("video", metavar="VIDEO", help="its video_id, its uri, or its file's name")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=parse_file_path,
        metavar="FILE",
        help="the page, .html; replaced if it is there",
    )
    parser.set_defaults(run=run_report, parser=parser)


def run_report(options: argparse.Namespace) -> int:
    """Run the command `report`."""
    from fer_batch.timeline.store import open_timeline

    size_bytes = open_timeline(options.out).write_report(options.video, options.output)
    print(f"{options.output}: {size_bytes / 1e6:.1f} MB")
    return 0
