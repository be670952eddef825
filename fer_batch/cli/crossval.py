"""Command `crossval`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fer_batch.cli.app import TRAIN, UsageError, add_command
from fer_batch.cli.arguments import DataSets, Gpus, RayOptions
from fer_batch.cli.evaluate import print_confusion
from fer_batch.cli.options import Settings
from fer_batch.cli.output import format_estimate, print_line, print_status, print_table
from fer_batch.cli.train import JobFolder, Recipe, build_train_config
from fer_batch.fields import Range

if TYPE_CHECKING:
    from fer_batch.evaluation.crossval.summary import CrossValidation, DivisionSummary

SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
MODEL_TITLES = {"cnn": "CNN, last frame", "cnn_bilstm": "CNN-BiLSTM, all frames"}
DIVISION_TITLES = {"random": "at random", "subject": "by subject"}


@add_command(TRAIN)
def crossval_command(
    *,
    data: DataSets,
    out: JobFolder,
    recipe: Recipe = None,
    init: str | None = None,
    epochs: Annotated[int | None, Range(at_least=1)] = None,
    seed: Annotated[int, Range(at_least=0)] = 0,
    by: Literal["subject", "random", "both"] = "subject",
    folds: Annotated[int | None, Range(at_least=2)] = None,
    test_share: Annotated[float | None, Range(above=0, below=1)] = None,
    repeats: Annotated[int, Range(at_least=1)] = 1,
    parallel: Annotated[int | None, Range(at_least=1)] = None,
    gpus: Gpus = "auto",
    ray: RayOptions,
) -> None:
    """Cross-validate a recipe on people that the model has not seen.

    Without --recipe, the command compares the CNN on the last frame of a sequence with the CNN-BiLSTM on all
    frames, on CK+48's seven classes and ten packaged folds by subject. With a recipe, it trains the recipe's
    network and classes once per fold. The tested fold selects nothing: `plateau` and early stopping use a
    tenth of the other folds. The split `test` of the data is left out.

    OUT gets crossval.json, folds.csv, predictions.csv, confusion.png, and a file per finished fold. The same
    command continues a stopped cross-validation.

    Args:
        init: Checkpoint that each fold starts from, a .safetensors file. By default random weights with a
            recipe, or else the packaged checkpoint.
        epochs: Passes over the training folds as stills; with dcnn-bilstm passes over all clips.
        seed: Seed of the training and of the folds.
        by: Divide by subject (examples without a subject by their image), at random as publications often do,
            or both to measure the difference.
        folds: Number of folds. By default 10.
        test_share: Test one part with this share of the data instead of folds.
        repeats: Repeat with this many seeds, from --seed on.
        parallel: Folds at the same time, with Ray. By default one per GPU, or as many as the CPUs allow;
            1 does not use Ray.

    Examples:
      fer-batch crossval --data ck48=CK+48/ --out runs/ck48
      fer-batch crossval --data ck48=ck48.parquet --init RUN/model.safetensors --out runs/ours
      fer-batch crossval --recipe dcnn-bilstm-ck48 --data ck48=CK+48/ --test-share 0.3 --out runs/dcnn
      fer-batch crossval --recipe dcnn-bilstm-ck48 --data ck48=CK+48/ --by both --out runs/leak
      fer-batch crossval --recipe cnn4bn-fer2013 --data fer2013=fer2013.csv --folds 5 --out runs/bn
    """
    if folds is not None and test_share is not None:
        raise UsageError("--folds and --test-share exclude each other")
    from fer_batch.evaluation.crossval.crossval import CK48_RECIPE, check_ck48_data, crossval
    from fer_batch.evaluation.crossval.folds import Protocol

    given = {"init": init, "epochs": epochs, "seed": seed}
    settings: Settings = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        check_ck48_data(data)
        settings = {**CK48_RECIPE, **settings}
    result = crossval(
        build_train_config(data, recipe, settings),
        out,
        protocol=Protocol(
            by=("random", "subject") if by == "both" else (by,),
            folds=folds or 10,
            test_share=test_share,
            repeats=repeats,
        ),
        parallel=parallel,
        gpus=gpus,
        **vars(ray),
        on_line=print_status,
    )
    title = recipe if recipe and not recipe.endswith(".toml") else "the model"
    _print_result(result, [name for name, _ in data], title)
    pictures = "confusion_random.png, confusion_subject.png" if result.leak else "confusion.png"
    print_line(f"{Path(out) / 'crossval.json'}; folds.csv, predictions.csv and {pictures} are beside it")


def _print_result(result: "CrossValidation", data: list[str], model_title: str) -> None:
    titles = {model: MODEL_TITLES.get(model, model_title) for model in result.settings["models"]}
    names = " and ".join("CK+48" if name == "ck48" else name for name in data)
    people = f" of {result.subjects} people" if result.subjects else ""
    print_line(f"{names}, {result.n} {result.unit}{people}, {_describe_protocol(result)}", style="bold")
    suffixes = {by: f", {DIVISION_TITLES[by]}" if result.leak else "" for by in result.divisions}
    columns = {
        title + suffixes[by]: _format_scores(division, model)
        for by, division in result.divisions.items()
        for model, title in titles.items()
    }
    all_names = next(iter(columns.values()))
    print_table(["", *columns], [[name, *(cells[name] for cells in columns.values())] for name in all_names])
    gains = []
    for by, division in result.divisions.items():
        if gain := division.difference:
            points = _format_points(gain.accuracy, gain.interval)
            p = "" if gain.p is None else f"{gain.p:.2g}"
            gains.append([f"sequence instead of last frame{suffixes[by]}", points, "", p])
    for model, leak in result.leak.items():
        accuracy, f1 = leak["accuracy"], leak["macro_f1"]
        scores = (
            _format_points(accuracy.value, accuracy.interval),
            format_estimate(f1.value, f1.interval, "+.3f"),
        )
        gains.append([f"leak: at random instead of by subject, {titles[model]}", *scores, ""])
    if gains:
        header = ("gain", "accuracy, points", "macro-F1", "McNemar p")
        print_table(header, gains, title="gains with 95 % intervals")
    model, title = list(titles.items())[-1]
    for by, division in result.divisions.items():
        print_confusion(division.metrics[model], f"{title}{suffixes[by]}: ")


def _describe_protocol(result: "CrossValidation") -> str:
    repeats, share = result.settings["repeats"], result.settings["test_share"]
    folds = len(next(iter(result.divisions.values())).folds) // repeats
    text = f"{folds} folds pooled" if share is None else f"{share:g} of them tested"
    return text + (f", {repeats} times" if repeats > 1 else "")


def _format_scores(division: "DivisionSummary", model: str) -> dict[str, str]:
    """Return a column of the table of scores."""
    from fer_batch.evaluation.crossval.summary import name_score

    metrics = division.metrics[model]
    over = "repeats" if len(division.repeats) > 1 else "folds"
    cells = {"predictions": str(metrics.n), "  also in training": str(division.folds["known"].sum())}
    for score, title in SCORES.items():
        mean, sd = division.spread[name_score(model, score)]
        cells[title] = format_estimate(getattr(metrics, score), metrics.intervals[score])
        cells[f"  mean of {over}, {title}"] = f"{mean:.3f} ± {sd:.3f}"
    return cells | {f"  F1 {name}": f"{metrics.per_class[name].f1:.3f}" for name in metrics.classes}


def _format_points(value: float, interval: Sequence[float]) -> str:
    return format_estimate(100 * value, [100 * end for end in interval], "+.1f")
