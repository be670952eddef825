"""`export`."""

import argparse
from typing import Any

from fer_batch.cli.export_model import is_of_a_model, run_export_model
from fer_batch.cli.train import named_path
from fer_batch.storage.folder import open_folder
from fer_batch.storage.paths import parse_file_path

FORMATS = ("csv", "jsonl", "vtt", "eaf", "textgrid", "xlsx")
ENTRIES = {
    ".csv": "rows",
    ".jsonl": "rows",
    ".vtt": "captions",
    ".eaf": "annotations",
    ".textgrid": "annotations",
    ".xlsx": "videos",
}
"""What there is in a file, by its suffix."""
SHOWN = 10
"""Videos in trouble that are named."""

EXAMPLES = """\
examples:
  fer-batch export results talk.mp4 -o talk.vtt                      captions for a player
  fer-batch export results talk.mp4 -o talk.eaf                      tiers for ELAN
  fer-batch export results -o grids --format textgrid                a TextGrid for Praat of each video
  fer-batch export results -o results.xlsx                           videos, faces and episodes in sheets
  fer-batch export results one.mp4 two.mp4 -o rows.csv               rows of both in one file
  fer-batch export results -o rows --format jsonl                    a file of rows for each video
  fer-batch export default -o model.onnx                             the packaged checkpoint, a network
  fer-batch export RUN/model.safetensors -o model.onnx               one of your own
  fer-batch export default -o small.onnx --int8 --data fer2013=fer2013.parquet

csv, jsonl: the rows of `tracks`, a face at a moment. vtt: a caption from each change to the next, with the
emotions of all faces. eaf, textgrid: a tier a face (a person, where `fer-batch assign` has named one), an
annotation an episode: a run of its moments with one emotion, the most probable one of each moment.
--threshold and --min-s leave out what is unsure or short. A file that is there is replaced.

onnx: a checkpoint as one file for any ONNX runtime, from grey face crops to calibrated probabilities, with
its card in the metadata, and for `--checkpoint` of `analyze`, `evaluate` and `bench`. It is written only if
onnxruntime says what PyTorch says, to 0.0001, on random crops and on real ones: of --data, else the faces of
the packaged sample video. --int8 makes the encoder smaller and faster: ranges are set by the training split
of --data, and what it costs is measured on the selection split, or the test split where there is no other."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "export",
        help="CSV, JSON lines, captions, tiers for ELAN and Praat, a workbook; a model as ONNX",
        description="Write timelines, or a checkpoint, to files of other programs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "out",
        type=open_folder,
        metavar="OUT",
        help="output folder of `analyze`; for onnx a .safetensors, a training run, or default",
    )
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="its video_id, its uri, or its file's name if that is one's (default: all)",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=parse_file_path,
        metavar="FILE-OR-FOLDER",
        help="a file where it ends in .csv, .jsonl, .vtt, .eaf, .TextGrid, .xlsx or .onnx, else a folder, "
        "with a file a video",
    )
    parser.add_argument("--format", choices=(*FORMATS, "onnx"), help="default: as FILE ends")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        default=0.0,
        help="least confidence at each moment of an episode (default %(default)s)",
    )
    parser.add_argument(
        "--min-s",
        type=float,
        metavar="SECONDS",
        default=0.0,
        help="least length of an episode (default %(default)s)",
    )
    group = parser.add_argument_group("a checkpoint as ONNX")
    group.add_argument("--int8", action="store_true", help="its encoder in int8; needs --data")
    group.add_argument(
        "--data",
        action="append",
        type=named_path,
        metavar="NAME=PATH",
        help="labelled faces, as `train` takes them; may be repeated",
    )
    parser.set_defaults(run=run_export, parser=parser)


def run_export(options: argparse.Namespace) -> int:
    """Run the command `export`."""
    if is_of_a_model(options):
        return run_export_model(options)
    from fer_batch.timeline.store import open_timeline

    files = open_timeline(options.out).export(
        options.output, options.format, options.videos, options.threshold, options.min_s
    )
    if not files:
        print(f"{options.output}: nothing to write, as {options.out} has no videos")
        return 0
    what = ENTRIES[files[0].path.suffix.lower()]
    entries = sum(file.entries for file in files)
    print(f"{options.output}: {entries} {what}, {len(files)} file{'s' * (len(files) != 1)}")
    trouble = [f"{file.path.name}: {file.trouble}" for file in files if file.trouble]
    for line in trouble[:SHOWN]:
        print(f"  {line}")
    if len(trouble) > SHOWN:
        print(f"  and {len(trouble) - SHOWN} more without faces or with damage")
    return 0
