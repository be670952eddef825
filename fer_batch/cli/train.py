"""Command `train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import fer_batch
from fer_batch.cli.app import TRAIN, add_command
from fer_batch.cli.arguments import DataSets, Gpus, NewRunFolder, RayOptions, check_data_exists, keep_text
from fer_batch.cli.options import Settings
from fer_batch.cli.output import ProgressLine, print_line
from fer_batch.errors import ConfigError
from fer_batch.train_config import TrainConfig

if TYPE_CHECKING:
    from fer_batch.training.status import StatusCallback

DEFAULT_CHECKPOINT = Path(__file__).parent.parent / "weights" / "default.safetensors"

if TYPE_CHECKING:
    JobFolder = str
else:
    JobFolder = Annotated[
        Path, Parameter(converter=keep_text, help="Folder of the run: new, empty or of this run.")
    ]
Recipe = Annotated[
    str | None,
    Parameter(
        help="Training settings: a packaged recipe (`fer-batch models` lists them) or a .toml file of "
        "options (names with _). Options on the command line take precedence.",
        metavar="NAME|FILE",
    ),
]


@add_command(TRAIN)
def train_command(
    *,
    data: DataSets,
    out: NewRunFolder,
    recipe: Recipe = None,
    gpus: Gpus = "auto",
    settings: Annotated[Settings, TrainConfig],
    ray: RayOptions,
) -> None:
    """Train a recognizer on labelled faces, with Ray Train.

    Data sets are fer2013 (Parquet, Kaggle's folders or the original CSV, with FER+ votes if present), ck48
    (folders or Parquet), muxspace (Parquet), rafdb and affectnet (the original files or Kaggle's folders),
    folder (class/…images, any classes) and clips (class/…videos, any classes). The images of the first five
    are for research; bring your own copy. Contempt is left out unless --classes names it.

    The same command continues after the last finished epoch. The model is OUT/model.safetensors with its card
    OUT/model.json, for `fer-batch analyze --checkpoint`. `tensorboard --logdir OUT/tensorboard` shows the
    curves, if you install tensorboard.

    Examples:
      fer-batch train --data fer2013=fer2013.parquet --out runs/first
      fer-batch train --data fer2013=fer2013.csv --data ck48=CK+48/ --out runs/both --workers 2
      fer-batch train --data rafdb=RAF-DB/ --data affectnet=AffectNet/ --heads per-dataset --out runs/two
      fer-batch train --data fer2013=fer2013.parquet --gpus 4 --out s3://bucket/runs/four
      fer-batch train --data folder=faces/ --init default --epochs 5 --lr 0.01 --out runs/ours
      fer-batch train --data fer2013=fer2013.parquet --recipe cnn-bilstm-fer2013 --out runs/first
      fer-batch train --recipe cnn4-fer2013 --data fer2013=fer2013.parquet --out runs/cnn4
      fer-batch train --data folder=faces/ --backbone resnet18 --out runs/resnet18
      fer-batch train --data fer2013=fer2013.parquet --teacher runs/a runs/b --out runs/student
    """
    if gpus != "auto" and "workers" not in settings:
        settings = {"workers": max(1, gpus), **settings}
    config = build_train_config(data, recipe, settings)
    summary = fer_batch.train(config, out, gpus=gpus, on_progress=show_status(), **vars(ray))
    print_line(
        f"{summary.checkpoint}: accuracy {summary.accuracy:.4f}, macro-F1 {summary.macro_f1:.4f} on "
        f"{summary.n} selection images, {summary.seconds} s"
    )


def build_train_config(data: DataSets, recipe: str | None, settings: Settings) -> TrainConfig:
    """Combine a recipe with the settings that take precedence over it; raises ConfigError or InputError."""
    values: dict[str, Any] = {}
    if recipe is not None:
        from fer_batch.training.recipes import read_recipe

        values = read_recipe(recipe).settings
    values = values | dict(settings) | {"data": data}
    for name in ("init", "backbone_weights"):
        if isinstance(values.get(name), str):
            values[name] = _resolve_checkpoint(values[name])
    if isinstance(values.get("teacher"), list | tuple):
        values["teacher"] = tuple(_resolve_checkpoint(str(path)) for path in values["teacher"])
    try:
        config = TrainConfig.from_dict(values)
    except ConfigError as error:
        if recipe is None:
            raise
        raise ConfigError(f"{error} (with --recipe {recipe})") from error
    check_data_exists(data)
    return config


def _resolve_checkpoint(given: str) -> str:
    """Return an absolute path; the word "default" names the packaged checkpoint."""
    return str(DEFAULT_CHECKPOINT if given == "default" else Path(given).absolute())


def show_status() -> "StatusCallback":
    """Return a callback that prints messages to stderr; transient ones to a terminal only."""
    line = ProgressLine(is_logged=False)
    return lambda message: (line.show if message.transient else line.print)(message.text)
