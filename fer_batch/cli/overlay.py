"""`overlay`."""

import argparse
import sys
import time
from typing import Any

from fer_batch.storage.folder import open_folder
from fer_batch.storage.paths import parse_file_path

EXAMPLES = """\
examples:
  fer-batch overlay results monday.mp4 -o annotated.mp4
  fer-batch overlay results monday.mp4 -o anonymous.mp4 --blur-faces
  fer-batch overlay results 3f2a9c0d11e4b7a6 -o annotated.mkv      by video_id

The video is encoded anew (H.264), upright, with its frames at their times; its sound is copied. What the file
says of itself, such as the place, is left out.

--blur-faces hides the faces that were found, and all of what was not looked at. Faces that were NOT found are
NOT hidden, as those in profile, behind a hand, or smaller than --min-face of `analyze`; neither are voices,
name badges and surroundings. Look at the result before you give it away."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "overlay",
        help="write a video with its faces and emotions drawn on it",
        description="Write a video with boxes, names and emotions drawn on it, or with its faces hidden.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument("video", metavar="VIDEO", help="its video_id, uri or file name")
    parser.add_argument(
        "-o",
        "--output",
        type=parse_file_path,
        required=True,
        metavar="FILE",
        help="video to write: .mp4 or .mkv",
    )
    parser.add_argument(
        "--blur-faces", action="store_true", help="leave of each face that was found a few large squares"
    )
    parser.set_defaults(run=run_overlay, parser=parser)


def run_overlay(options: argparse.Namespace) -> int:
    """Run the command `overlay`."""
    from fer_batch.timeline.store import open_timeline

    timeline = open_timeline(options.out)
    ((length_s,),) = timeline.sql(
        "SELECT greatest(coalesce(duration_s, 0), read_s) FROM videos WHERE video_id = $video",
        {"video": timeline.video_id(options.video)},
    ).fetchall()
    done = timeline.write_overlay(
        options.video, options.output, blur_faces=options.blur_faces, on_progress=_progress(length_s)
    )
    for line in (f"{done.frames} frames", *(f"sound: {sound}" for sound in done.audio_streams)):
        print(line)
    if done.error:
        print(f"not all of it could be read: {done.error}")
    return 0


def _progress(length_s: float) -> Any:
    """Says on stderr how far it is: twice a second in a terminal, where it is written over, else each ten."""
    terminal = sys.stderr.isatty()
    began = last = time.monotonic()

    def show(time_s: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= (0.5 if terminal else 10):
            last = now
            said = f"{time_s:.0f} of {length_s:.0f} s, {time_s / (now - began):.1f}× realtime"
            print(
                f"\r\x1b[K{said}" if terminal else said,
                end="" if terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    return show
