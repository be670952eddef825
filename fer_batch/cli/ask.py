"""`ask`: the questions of `timeline.questions` and `timeline.series`, a command each."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_batch.cli.answer import add_answer_options, check_answer_options, give_answer
from fer_batch.storage.folder import open_folder

if TYPE_CHECKING:
    import duckdb

    from fer_batch.timeline.store import Timeline

EXAMPLES = """\
examples:
  fer-batch ask shares results --by person               how much of what was seen was which emotion
  fer-batch ask shares results --video talk.mp4 --every 60
  fer-batch ask episodes results happy --threshold 0.8 --min 2
  fer-batch ask peaks results surprise --video talk.mp4
  fer-batch ask turning-points results --person Ann
  fer-batch ask co-occurrence results --by pair
  fer-batch ask baseline results --person Ann --format csv --output ann.csv
  fer-batch ask smooth results --video talk.mp4 --window 2
  fer-batch ask resample results --every 10 --by person
  fer-batch ask join results talk.srt --video talk.mp4   what was seen during each subtitle

`fer-batch ask QUESTION --help` tells what a question's columns are. What is seen are expressions, not
feelings. Anything else is a question in SQL: `fer-batch query --help`."""

ABOUT = {
    "shares": """\
How much of what was seen was which emotion. Columns: the groups', emotion, moments (of faces with
that emotion), seconds, share (of the group's moments) and mean (of its probability over all of
them).""",
    "episodes": """\
Runs of one emotion of one face, with a confidence of at least --threshold at each of its moments.
Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments, peak_s (when
it was most probable), peak and mean (of the confidence).""",
    "peaks": """\
Moments at which an emotion is most probable, --distance seconds to either side, and --threshold at
least. Columns: video_id, uri, track_id, person, emotion, time_s, probability.""",
    "turning-points": """\
Where a face's emotion changes from one that lasted --min seconds to another that does; what is
shorter is passed over. Columns: video_id, uri, track_id, person, time_s, before, after, gap_s
(between the two).""",
    "co-occurrence": """\
Which emotions two faces show at the same moment; every two faces of a moment are a pair. Columns:
the groups', emotion_a, emotion_b, pairs, share (of the group's pairs), lift (1: as often as by
chance).""",
    "baseline": """\
Each face's probabilities less their mean over all moments of that person, or of the track where
nobody was named. Columns: video_id, uri, track_id, person, time_s, emotion, d_angry … (-1 to 1),
rises (the emotion of the highest difference).""",
    "smooth": """\
Each face's probabilities as their mean over --window seconds around the moment, half to each side,
so that nothing is shifted in time. Columns: video_id, uri, track_id, person, time_s, emotion,
confidence, p_angry …, moments (over how many).""",
    "resample": """\
A row for each --every seconds of each video, whether or not a face was seen. Columns: video_id,
uri, who, start_s, state (face, no face, not looked at), looked (moments), faces, emotion, p_angry …
(means).""",
    "join": """\
What was seen during events of your own. Columns: yours, faces (face-moments), emotion (the most
probable one on the mean) and p_angry … (means; empty where no face was seen).""",
}


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "ask",
        help="questions to the timeline: shares, episodes, peaks …",
        description="Ask the timeline of an analyzed archive a question.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    questions = parser.add_subparsers(required=True, metavar="QUESTION")
    add = {name: _question(questions, name) for name in ABOUT}
    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    for name in ("shares", "co-occurrence"):
        add[name].add_argument(
            "--by",
            nargs="*",
            default=["video"],
            metavar="GROUP",
            help=("video, person, track" if name == "shares" else "video, pair (who the two are)")
            + " and columns of a manifest; none for all together (default: video)",
        )
    for name in ("episodes", "peaks"):
        add[name].add_argument("emotion", nargs="?", metavar="EMOTION", help="only this one")
        add[name].add_argument(
            "--threshold", type=float, default=0.6, metavar="P", help="0 to 1 (default %(default)s)"
        )
    add["shares"].add_argument("--every", **seconds, help="by intervals of so many seconds too")
    add["episodes"].add_argument("--min", default=0.5, **seconds, help="least length (default %(default)s)")
    add["peaks"].add_argument("--distance", default=1.0, **seconds, help="default %(default)s")
    add["turning-points"].add_argument("--min", default=1.0, **seconds, help="default %(default)s")
    add["baseline"].add_argument(
        "--by", choices=("person", "track"), default="person", help="default: person"
    )
    add["smooth"].add_argument("--window", default=1.0, **seconds, help="default %(default)s")
    add["resample"].add_argument("--every", default=1.0, **seconds, help="default %(default)s")
    add["resample"].add_argument(
        "--by", choices=("video", "person", "track"), default="video", help="default: video"
    )
    add["join"].add_argument(
        "events",
        type=Path,
        metavar="EVENTS",
        help="a .csv, .parquet or .jsonl with start_s and end_s, or time_s, and video where --video "
        "names none; or subtitles (.srt, .vtt)",
    )
    for name, question in add.items():
        question.add_argument("--video", metavar="VIDEO", help="only this one: its id, uri or file name")
        question.add_argument("--person", help="only this one, as `fer-batch assign` named them")
        question.add_argument("--track", type=int, metavar="N", help="only the tracks of this number")
        question.add_argument("--start", **seconds, help="only from there on, in seconds of the video")
        question.add_argument("--end", **seconds, help="only what comes before")
        add_answer_options(question)
        question.set_defaults(run=run_ask, parser=question, question=name)


def _question(questions: Any, name: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = questions.add_parser(
        name,
        help=ABOUT[name].split(".")[0].replace("\n", " "),
        description=ABOUT[name],
        epilog="\n".join(
            line for line in EXAMPLES.splitlines() if f"ask {name} " in line or line == "examples:"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    return parser


def run_ask(options: argparse.Namespace) -> int:
    """Run the command `ask`."""
    from fer_batch.timeline.store import open_timeline

    check_answer_options(options)
    faces = {
        "video": options.video,
        "person": options.person,
        "track": options.track,
        "start_s": options.start,
        "end_s": options.end,
    }
    give_answer(_asked(open_timeline(options.out), options, faces), options)
    return 0


def _asked(
    timeline: "Timeline", options: argparse.Namespace, faces: dict[str, Any]
) -> "duckdb.DuckDBPyRelation":
    asked: dict[str, Callable[[], duckdb.DuckDBPyRelation]] = {
        "shares": lambda: timeline.shares(options.by, options.every, **faces),
        "episodes": lambda: timeline.episodes(options.emotion, options.threshold, options.min, **faces),
        "peaks": lambda: timeline.peaks(options.emotion, options.threshold, options.distance, **faces),
        "turning-points": lambda: timeline.turning_points(options.min, **faces),
        "co-occurrence": lambda: timeline.co_occurrence(options.by, **faces),
        "baseline": lambda: timeline.baseline(options.by, **faces),
        "smooth": lambda: timeline.smooth(options.window, **faces),
        "resample": lambda: timeline.resample(options.every, options.by, **faces),
        "join": lambda: timeline.join_events(options.events, **faces),
    }
    return asked[options.question]()
