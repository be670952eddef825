"""`assign`."""

import argparse
from pathlib import Path
from typing import Any

from fer_batch.errors import InputError
from fer_batch.storage.folder import open_folder

EXAMPLES = """\
examples:
  fer-batch assign results people.csv                    video,track_id,person
  fer-batch assign results --seats Ann Bo                Ann sits on the left of the picture, Bo on the right
  fer-batch assign results --seats Ann Bo --video talk.mp4 --max-faces 3
  fer-batch assign results --largest Ann                 the largest face is Ann
  fer-batch query results "SELECT uri AS video, track_id, min(time_s) AS from_s, max(time_s) AS to_s,
      avg(face_px) AS height, person FROM tracks GROUP BY ALL ORDER BY ALL" --format csv --output people.csv

The last makes a list to fill in. What was said before of the videos in question is replaced. All views have
a column person then. It is kept in OUT as names of tracks, nothing else of the faces; a video that is
analyzed anew has other tracks, and is nobody's until it is said again."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "assign",
        help="say who is who: names for tracks",
        description="Name the tracks of an analyzed archive: by a list, by where they are, or by their size.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "people", nargs="?", type=Path, metavar="people.csv", help="a list: video,track_id,person"
    )
    how.add_argument(
        "--seats",
        nargs="+",
        metavar="PERSON",
        help="who sits where, from the left of the picture to the right",
    )
    how.add_argument("--largest", metavar="PERSON", help="whose face is the largest")
    parser.add_argument(
        "--video", action="append", default=[], metavar="VIDEO", help="only in this one; may be given again"
    )
    parser.add_argument(
        "--max-faces",
        type=int,
        metavar="N",
        help="only the N largest faces of a moment count for --seats (default: as many as are named)",
    )
    parser.set_defaults(run=run_assign, parser=parser)


def run_assign(options: argparse.Namespace) -> int:
    """Run the command `assign`."""
    from fer_batch.timeline.assign import assign_by_position, assign_from_csv

    if options.people:
        if options.video or options.max_faces:
            raise InputError("a list names its videos and tracks itself; leave --video and --max-faces out")
        rows = assign_from_csv(options.out, options.people)
    elif options.largest is not None:
        if options.max_faces:
            raise InputError("of --largest one face counts; leave --max-faces out")
        if not options.largest:
            raise InputError("--largest names nobody; give a name")
        rows = assign_by_position(options.out, [options.largest], options.video)
    else:
        rows = assign_by_position(options.out, options.seats, options.video, options.max_faces)
    for person, tracks, videos in _counted(rows):
        print(f"{person}: {tracks} track{'s' * (tracks != 1)} in {videos} video{'s' * (videos != 1)}")
    if not rows.num_rows:
        print(f"nobody was named: {'the list has no person' if options.people else 'no track fits'}")
    return 0


def _counted(rows: Any) -> list[tuple[str, int, int]]:
    """Persons, with the numbers of their tracks and videos."""
    found: dict[str, list[str]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["person"], []).append(row["video_id"])
    return [(person, len(videos), len(set(videos))) for person, videos in sorted(found.items())]
