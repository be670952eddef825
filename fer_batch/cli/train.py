"""`train`."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from fer_batch.cli.analyze import add_insecure_option
from fer_batch.config import BACKBONES, IMBALANCE, NETWORKS, OPTIMIZERS, SCHEDULES, TrainConfig
from fer_batch.errors import ConfigError
from fer_batch.schema import EMOTIONS
from fer_batch.training.progress import StatusMessage
from fer_batch.training.recipes import read_recipe

EXAMPLES = """\
examples:
  fer-batch train --data fer2013=fer2013.parquet --out runs/first
  fer-batch train --data fer2013=fer2013.csv --data ck48=CK+48/ --out runs/both --workers 2
  fer-batch train --data folder=faces/ --init default --epochs 5 --lr 0.01 --out runs/ours
  fer-batch train --data fer2013=fer2013.parquet --recipe default --out runs/default
  fer-batch train --recipe cnn4-fer2013 --data fer2013=fer2013.parquet --out runs/cnn4
  fer-batch train --data folder=faces/ --backbone resnet18 --backbone-weights r18.safetensors --out runs/r18

`fer-batch models` lists the recipes and the networks.

data sets: fer2013 (Parquet, Kaggle's folders, or the original CSV; with FER+ votes where they are present),
ck48 (folders or Parquet), folder (class/…images, any classes), clips (class/…videos, any classes). The images
of the first two are for research; bring your own copy. The same command again goes on from the last finished
epoch. The model is RUN/model.safetensors with its card RUN/model.json, for `fer-batch analyze --checkpoint`.
`tensorboard --logdir RUN/tensorboard` shows the curves, if you install tensorboard."""

PACKAGED = Path(__file__).parent.parent / "weights"
DEFAULTS = TrainConfig(data=(("", ""),))
TEXTS = {
    "the network": {
        "network": "by name; `fer-batch models` says what each is",
        "backbone": f"a network of torchvision as the encoder of cnn-bilstm: {', '.join(BACKBONES)}",
        "backbone_size": "pixels a side that crops are scaled to for it; 0: what suits it",
    },
    "length of the run": {
        "epochs": "passes over all images as stills (dcnn-bilstm: over all clips)",
        "sequence_epochs": "passes in which images move and change, for the LSTMs of cnn-bilstm",
        "early_stopping": "end the stills after so many epochs without a better accuracy; 0: never",
    },
    "optimization": {
        "batch_size": "clips in a step of one worker",
        "optimizer": "of the stills; sequences are trained with AdamW",
        "lr": "highest learning rate of the stills",
        "sequence_lr": "highest learning rate of the sequences",
        "weight_decay": "of the stills",
        "schedule": "of the learning rate",
        "plateau_factor": "by which plateau lowers the learning rate",
        "plateau_patience": "epochs without a better accuracy before it does",
        "min_lr": "where cosine and plateau end",
        "grad_clip": "largest norm of a gradient",
        "dropout": "before the heads of cnn-bilstm",
        "label_smoothing": "share of a label that is spread over all classes",
        "ema_decay": "of the moving average of the weights, which is what is saved",
    },
    "imbalance and labels": {
        "imbalance": "what is done for rare classes",
        "votes": "weight of a second head that learns FER+ votes, and is dropped after training",
    },
    "augmentation": {
        "flip": "share of the images that are mirrored",
        "rotation_deg": "standard deviation of the turn, degrees",
        "zoom": "standard deviation of the logarithm of the size",
        "shift": "standard deviation of the shift, of half the side",
        "lighting": "standard deviation of the logarithm of the contrast",
        "erasing": "share of the stills with a rectangle of noise",
        "mixup": "alpha of mixup; 0: none",
    },
    "the machine": {
        "seed": "a run with the same seed gives the same weights on the same machine",
        "workers": "training processes",
        "threads": "threads of each process on a CPU, no more than are really free",
    },
}
CHOICES = {
    "network": NETWORKS,
    "backbone": BACKBONES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "imbalance": IMBALANCE,
}


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "train",
        help="train the recognizer",
        description="Train the CNN-BiLSTM on labelled faces, under Ray Train.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_option(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="RUN", help="folder of the run: new, empty, or of this run"
    )
    add_settings(parser)
    parser.add_argument("--address", help="a Ray cluster (default: this machine)")
    add_insecure_option(parser)
    parser.add_argument("--verbose", action="store_true", help="show what Ray says")
    parser.set_defaults(run=run_train, parser=parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that `train_config` reads, but `--data`."""
    parser.add_argument(
        "--classes",
        type=_names,
        default=argparse.SUPPRESS,
        metavar="A,B,…",
        help="the model's classes, in this order (default: the seven emotions, or those of the data)",
    )
    parser.add_argument(
        "--init",
        default=argparse.SUPPRESS,
        metavar="CHECKPOINT",
        help="start from this checkpoint (the word default: from the packaged one), also with other classes",
    )
    parser.add_argument(
        "--leave-out",
        type=_some_names,
        default=argparse.SUPPRESS,
        metavar="A,B,…",
        help="leave the examples of these classes out",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="training settings: a packaged recipe (`fer-batch models` lists them), or a .toml file of "
        "options (names with _); options on the command line take precedence",
    )
    parser.add_argument(
        "--backbone-weights",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="weights for --backbone: torchvision's, as .safetensors (default: random)",
    )
    for title, texts in TEXTS.items():
        group = parser.add_argument_group(title)
        for name, text in texts.items():
            default = getattr(DEFAULTS, name)
            group.add_argument(
                "--" + name.replace("_", "-"),
                type=type(default),
                default=argparse.SUPPRESS,
                choices=CHOICES.get(name),
                metavar="NAME" if name == "backbone" else None,
                help=f"{text} (default {default or 'none' if name == 'backbone' else default})",
            )


def run_train(options: argparse.Namespace) -> int:
    """Run the command `train`."""
    config = train_config(options)
    from fer_batch.evaluation.curves import learning_curves
    from fer_batch.storage.atomic import write_bytes
    from fer_batch.training.run import train

    summary = train(
        config,
        options.out,
        on_progress=print_status,
        address=options.address,
        insecure=options.insecure,
        verbose=options.verbose,
    )
    chosen = {"accuracy": summary.accuracy, "macro_f1": summary.macro_f1, "n": summary.n}
    history = json.loads((options.out / "history.json").read_text())
    write_bytes(options.out / "learning_curves.png", learning_curves(history, chosen))
    print(
        f"{options.out / 'model.safetensors'}: accuracy {summary.accuracy:.4f}, "
        f"macro-F1 {summary.macro_f1:.4f} on {summary.n} selection images, {summary.seconds} s"
    )
    return 0


def print_status(message: StatusMessage) -> None:
    """Print a message of training to stderr; transient ones only on a terminal, on one line."""
    live = sys.stderr.isatty()
    if live or not message.transient:
        start, end = ("\r\x1b[K" if live else ""), ("" if message.transient else "\n")
        print(f"{start}{message.text}", end=end, file=sys.stderr, flush=True)


def train_config(options: argparse.Namespace) -> TrainConfig:
    """Build the configuration from the recipe's settings and the options, which take precedence."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    given = {k: v for k, v in vars(options).items() if k in names} | {"data": options.data}
    base = read_recipe(options.recipe).settings if options.recipe is not None else {}
    try:
        return TrainConfig.from_dict(_absolute(base | given))
    except ConfigError as error:
        if options.recipe is None or "--recipe" in str(error):
            raise
        raise ConfigError(f"{error} (with --recipe {options.recipe})") from error


def add_data_option(
    parser: argparse.ArgumentParser, metavar: str = "NAME=PATH", text: str = "a data set; may be repeated"
) -> None:
    """Add `--data`, as all commands take it that read labelled faces."""
    parser.add_argument("--data", action="append", type=named_path, required=True, metavar=metavar, help=text)


def named_path(text: str) -> tuple[str, str]:
    """NAME=PATH, as `--data` takes it, to the name and the absolute path; raises ArgumentTypeError."""
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, as in fer2013=fer2013.parquet")
    return name, str(Path(path).absolute())


def _some_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more names, as in {','.join(EMOTIONS)}")
    return names


def _absolute(given: dict[str, Any]) -> dict[str, Any]:
    """The options with paths as they are from anywhere."""
    paths = {
        option: str(Path(given[option]).absolute())
        for option in ("init", "backbone_weights")
        if isinstance(given.get(option), str)
    }
    if given.get("init") == "default":
        paths["init"] = str(PACKAGED / "default.safetensors")
    return given | paths
