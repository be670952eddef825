"""`train`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fer_batch.config import CLASS_WEIGHTS, SCHEDULES, TrainConfig

EXAMPLES = """\
examples:
  fer-batch train --data fer2013=fer2013.parquet --data ck48=CK+48/ --out runs/first
  fer-batch train --data fer2013=fer2013.csv --out runs/short --epochs 12 --sequence-epochs 2

data sets: fer2013 (Parquet, Kaggle's folders, or the original CSV), ck48 (folders or Parquet). The images are
for research; bring your own copy. The same command again goes on from the last finished epoch. The model is
RUN/model.safetensors with its card RUN/model.json, for `fer-batch analyze --checkpoint`."""

DEFAULTS = TrainConfig(data=(("", ""),))


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "train",
        help="train the recognizer",
        description="Train the CNN-BiLSTM on labelled faces, under Ray Train.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        action="append",
        type=named_path,
        required=True,
        metavar="NAME=PATH",
        help="a data set; may be repeated",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="RUN", help="folder of the run: new, empty, or of this run"
    )
    texts = {
        "epochs": "passes over all images as stills",
        "sequence_epochs": "passes in which images move, for the LSTMs",
        "batch_size": "clips in a batch",
        "lr": "highest learning rate of the stills",
        "dropout": "before the heads",
        "ema_decay": "of the moving average of the weights, which is what is saved",
        "seed": "a run with the same seed gives the same weights on the same machine",
        "workers": "training processes",
        "threads": "threads of each process on a CPU, no more than are really free",
    }
    for name, text in texts.items():
        default = getattr(DEFAULTS, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(default), default=default, help=f"{text} (default %(default)s)")
    parser.add_argument(
        "--schedule", choices=SCHEDULES, default=DEFAULTS.schedule, help="default %(default)s"
    )
    parser.add_argument(
        "--class-weights", choices=CLASS_WEIGHTS, default=DEFAULTS.class_weights, help="default %(default)s"
    )
    parser.add_argument("--address", help="a Ray cluster (default: this machine)")
    parser.add_argument("--verbose", action="store_true", help="show what Ray says")
    parser.set_defaults(run=run_train, parser=parser)


def run_train(options: argparse.Namespace) -> int:
    """Run the command `train`."""
    settings = {
        k: v
        for k, v in vars(options).items()
        if k not in ("run", "parser", "out", "address", "verbose", "data")
    }
    config = TrainConfig(data=tuple(options.data), **settings)
    from fer_batch.training.loop import train

    record = train(
        config,
        options.out,
        on_epoch=lambda line: print(line, file=sys.stderr, flush=True),
        address=options.address,
        verbose=options.verbose,
    )
    chosen = record["selection"]
    print(
        f"{options.out / 'model.safetensors'}: accuracy {chosen['accuracy']:.4f}, "
        f"macro-F1 {chosen['macro_f1']:.4f} on {chosen['n']} selection images, {record['seconds']} s"
    )
    return 0


def named_path(text: str) -> tuple[str, str]:
    """NAME=PATH, as `--data` takes it, to the name and the absolute path; raises ArgumentTypeError."""
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, as in fer2013=fer2013.parquet")
    return name, str(Path(path).absolute())
