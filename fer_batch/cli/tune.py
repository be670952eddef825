"""Command `tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import fer_batch
from fer_batch.cli.app import TRAIN, add_command
from fer_batch.cli.arguments import DataSets, Gpus, RayOptions
from fer_batch.cli.options import Settings
from fer_batch.cli.output import print_line, print_table
from fer_batch.cli.train import JobFolder, Recipe, build_train_config, show_status
from fer_batch.fields import Range
from fer_batch.train_config import TrainConfig

if TYPE_CHECKING:
    from fer_batch.training.tune.study import Study

COLUMNS = {
    "trial": ("trial", ""),
    "lr": ("lr", ".3g"),
    "width": ("width ×", ".2f"),
    "dropout": ("dropout ×", ".2f"),
    "augmentation": ("augment ×", ".2f"),
    "imbalance": ("imbalance", ""),
    "epochs": ("epochs", ""),
    "accuracy": ("accuracy", ".4f"),
    "macro_f1": ("macro-F1", ".4f"),
    "seconds": ("seconds", ".0f"),
}
"""Heading and format of each value of a trial."""


@add_command(TRAIN)
def tune_command(
    *,
    data: DataSets,
    out: JobFolder,
    trials: Annotated[int, Range(at_least=1)] = 20,
    metric: Literal["accuracy", "macro_f1"] = "accuracy",
    parallel: Annotated[int | None, Range(at_least=1)] = None,
    gpus: Gpus = "auto",
    recipe: Recipe = None,
    settings: Annotated[Settings, TrainConfig],
    ray: RayOptions,
) -> None:
    """Search for better training settings, with Ray Tune and Optuna.

    The first trial has the given settings. The search varies the learning rate (a tenth to three times), the
    width (0.5, 0.75, 1 or 1.5 times the channels), the dropout (0 to 1.5 times), the augmentation (0 to 2
    times) and the method against rare classes. With cnn-bilstm it trains the stills. ASHA stops trials that
    fall behind. The selection split decides, never a test split.

    The same command continues a stopped study, and a larger --trials extends it. OUT gets trials.csv,
    trials.json (with the curves), best.toml (a recipe for `train`), study.json and plots.

    Args:
        trials: Number of trials.
        metric: Metric on the selection split that decides.
        parallel: Trials that run at the same time. By default one per GPU, or one per CPU.

    Examples:
      fer-batch tune --data fer2013=fer2013.parquet --epochs 12 --trials 20 --out studies/first
      fer-batch tune --recipe cnn4bn-fer2013 --data fer2013=fer2013.csv --epochs 15 --out studies/bn
      fer-batch tune --data folder=faces/ --init default --epochs 5 --parallel 4 --out studies/ours
      fer-batch train --recipe studies/first/best.toml --data fer2013=fer2013.parquet --out runs/best
    """
    config = build_train_config(data, recipe, settings)
    from fer_batch.training.tune.plots import write_plots

    study = fer_batch.tune(
        config,
        out,
        trials,
        metric=metric,
        parallel=parallel,
        gpus=gpus,
        on_progress=show_status(),
        **vars(ray),
    )
    pictures = write_plots(study.out, study)
    _print_study(study, Path(out), pictures)


def _print_study(study: "Study", out: Path, pictures: list[str]) -> None:
    table = study.trials.sort_values(study.metric, ascending=False, kind="stable")
    names = [name for name in COLUMNS if table[name].notna().any()]
    rows = []
    for trial in table.astype(object).where(table.notna(), None).to_dict("records"):
        values = [(trial[name], COLUMNS[name][1]) for name in names]
        status = "stopped early" if trial["stopped_early"] else f"{trial['status']} {trial['reason']}".strip()
        rows.append([*("" if value is None else f"{value:{spec}}" for value, spec in values), status])
    header = [*(COLUMNS[name][0] for name in names), "status"]
    left = [number for number, heading in enumerate(header) if heading in ("imbalance", "status")]
    print_table(header, rows, title="best first; trial 1 has the given settings", left=left)
    if study.importance:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in study.importance.items())
        print_line(f"fraction of the variance explained by each parameter: {shares}")
    best = table.iloc[0]
    print_line(
        f"{out / 'best.toml'}: trial {best.trial}, selection accuracy {best.accuracy:.4f}, macro-F1 "
        f"{best.macro_f1:.4f}; beside it trials.csv, trials.json, {', '.join(pictures)}"
    )
