"""`plot`."""

import argparse
from typing import Any

from fer_batch.storage.folder import check_outside_run, open_folder
from fer_batch.storage.paths import parse_file_path

EXAMPLES = """\
examples:
  fer-batch plot results monday.mp4 -o monday.png                 a lane for each face over time
  fer-batch plot results -o archive.svg                           a row a video, the emotion over time
  fer-batch plot results --emotion happy --absolute -o happy.png  how probable "happy" is, in seconds
  fer-batch plot results --kind shares -o shares.png              how often each emotion, a bar a video
  fer-batch plot results monday.mp4 --kind shares -o faces.png    the same, a bar a face
  fer-batch plot results --kind shares --by-person -o people.png  the same, a bar a person

Colours are apart for all kinds of colour vision and in grey. White is where no face was found, hatched is
what was not looked at. Of many faces, videos or persons some are shown, and the picture says how many."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "plot",
        help="draw a video's faces over time, or an archive",
        description="Draw emotions over time, or how often there was each.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument(
        "video", nargs="?", metavar="VIDEO", help="its video_id, uri or file name (default: all videos)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=parse_file_path,
        required=True,
        metavar="FILE",
        help="picture to write: .png or .svg",
    )
    parser.add_argument(
        "--kind", choices=("ribbons", "strip", "shares"),
        help="ribbons: the faces of a VIDEO over time (default with one); strip: all videos over time "
        "(default without); shares: a bar a video, or a face of a VIDEO",
    )  # fmt: skip
    parser.add_argument(
        "--emotion", metavar="NAME", help="of a strip: the probability of this one, not the most probable"
    )
    parser.add_argument(
        "--absolute", action="store_true", help="of a strip: seconds, not shares of each video's length"
    )
    parser.add_argument("--by-person", action="store_true", help="of shares: a bar a person of `assign`")
    parser.set_defaults(run=run_plot, parser=parser)


def run_plot(options: argparse.Namespace) -> int:
    """Run the command `plot`."""
    from fer_batch.plotting import SCREEN_DPI, save_figure
    from fer_batch.timeline.store import open_timeline

    kind = options.kind or ("ribbons" if options.video else "strip")
    if kind == "ribbons" and not options.video:
        options.parser.error("--kind ribbons is of one video: name a VIDEO")
    if kind == "strip" and options.video:
        options.parser.error("--kind strip is of all videos: leave VIDEO out, or draw its ribbons")
    for name, given, of in (
        ("--emotion", options.emotion is not None, "strip"),
        ("--absolute", options.absolute, "strip"),
        ("--by-person", options.by_person, "shares"),
    ):
        if given and kind != of:
            options.parser.error(f"{name} is for --kind {of}")
    check_outside_run(options.output, options.out)
    timeline = open_timeline(options.out)
    if kind == "strip":
        figure = timeline.plot_strip(options.emotion, absolute=options.absolute)
    elif kind == "shares":
        figure = timeline.plot_shares(options.video, by_person=options.by_person)
    else:
        figure = timeline.plot_ribbons(options.video)
    save_figure(figure, options.output, SCREEN_DPI)
    return 0
