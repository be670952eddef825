"""Evaluate checkpoints on labelled faces as a Ray job.

ray job submit --working-dir . -- python jobs/evaluate.py fer2013=PATH --out OUT
"""

import argparse
from pathlib import Path

import fer_batch

parser = argparse.ArgumentParser(description="Measure checkpoints on labelled faces.")
parser.add_argument("data", nargs="+", metavar="NAME=PATH", help="data sets, for example fer2013=FILE")
parser.add_argument("--out", required=True, help="folder for metrics, tables and plots")
parser.add_argument("--split", help="test, select or train (default: the first that the data has)")
parser.add_argument("--checkpoint", type=Path, action="append", help="a checkpoint; may be repeated")


def main() -> None:
    args = parser.parse_args()
    try:
        evaluation = fer_batch.evaluate(
            [tuple(word.partition("=")[::2]) for word in args.data],
            split=args.split,
            checkpoints=args.checkpoint or [None],
            on_progress=print,
        )
        evaluation.write(args.out)
    except fer_batch.FerBatchError as error:
        parser.error(str(error))
    print(evaluation)


if __name__ == "__main__":
    main()
