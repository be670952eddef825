"""`explain`."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from fer_batch.errors import ConfigError

EXAMPLES = """\
examples:
  fer-batch explain portrait.jpg --out why
  fer-batch explain talk.mp4 --at 12.4 --at 15 --emotion happy --out why
  fer-batch explain faces/ --whole --emotion all --checkpoint RUN/model.safetensors --out why
  fer-batch explain talk.mp4 --method occlusion --out why

Each face gets NAME_face1.png (of a video NAME_12.40s_face1.png): its crop under two maps for each emotion.
Grad-CAM: where the network's last map of the face holds what raises it. Occlusion: how far the logarithm of
its probability falls where a patch of 8×8 pixels is grey. The probabilities are those of the crop alone, but
for networks of whole clips. Faces of a video get …_time.png as well, where the network reads a window: its
frames, and the weight of each for the answer at the moment, below 0 where it speaks against it (integrated
gradients; the weights are shares of all that frames add and take away, compared with frames of plain grey).
Blue speaks for an emotion, red against it. All figures are in explain.json, the maps in maps.npz.

Answers are those of `analyze --no-flip`. An input without a face doesn't stop the others.

The pictures show faces: keep them as you keep the videos. They say what a model looks at when it calls an
expression by a name; they don't say what a person feels."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "explain",
        help="which parts of a face, and which frames, an answer comes from",
        description="Pictures of why a model answers as it does: which parts of a face speak for an emotion, "
        "and which frames of a window.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT", help="pictures, videos, folders of them"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the pictures")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="a model's .safetensors (default: the packaged one)",
    )
    parser.add_argument(
        "--emotion",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="which of the model's emotions to explain, or all (default: the answer and the runner-up)",
    )
    parser.add_argument(
        "--method",
        nargs="+",
        action="extend",
        choices=("grad-cam", "occlusion"),
        help="what makes the maps (default: both)",
    )
    parser.add_argument(
        "--at",
        nargs="+",
        action="extend",
        type=float,
        metavar="SECONDS",
        help="moments of the videos (default: up to three with faces, spread over each)",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="take pictures for faces as they are (those of up to 100×100 pixels are, always)",
    )
    parser.set_defaults(run=run_explain, parser=parser)


def run_explain(options: argparse.Namespace) -> int:
    """Run the command `explain`."""
    if wrong := [time_s for time_s in options.at or () if not 0 <= time_s < math.inf]:
        raise ConfigError(f"--at is {wrong[0]:g}; allowed are seconds from 0")
    import torch

    from fer_batch.evaluation.explain.attribution import METHODS
    from fer_batch.evaluation.explain.explain import explain

    torch.set_num_threads(1)  # small batches gain nothing from more
    explanation = explain(
        options.inputs,
        options.out,
        checkpoint=options.checkpoint,
        emotions=options.emotion or (),
        methods=[method for method in METHODS if method in (options.method or METHODS)],
        at_s=options.at or (),
        whole=options.whole,
        on_line=lambda line: print(line, file=sys.stderr, flush=True),
        on_picture=lambda line: print(line, flush=True),
    )
    print(f"{options.out / 'explain.json'}, maps.npz beside it")
    for row in explanation.inputs:
        for problem in row.problems:
            print(f"{row.input} {problem}", file=sys.stderr)
    return 0
