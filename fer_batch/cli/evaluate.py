"""Command `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

import fer_batch
from fer_batch.cli.app import TRAIN, UsageError, add_command
from fer_batch.cli.arguments import DataSets, OutputFolder, check_data_exists
from fer_batch.cli.output import ProgressLine, format_estimate, print_line, print_status, print_table

if TYPE_CHECKING:
    import pandas as pd

    from fer_batch.evaluation.evaluate import CheckpointResult
    from fer_batch.evaluation.examples import Examples
    from fer_batch.evaluation.metrics import Metrics

Averaging = Literal["none", "flip", "ten-crop"]

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "ece": "ECE, 15 bins",
    "ece_expected": "  expected by chance",
    "ece_debiased": "  above chance",
    "nll": "NLL",
}


@add_command(TRAIN)
def evaluate_command(
    *,
    data: DataSets,
    output: OutputFolder,
    split: str | None = None,
    checkpoint: tuple[str, ...] = ("default",),
    averaging: Annotated[tuple[Averaging, ...], Parameter(consume_multiple=True)] = (),
    flip: bool | None = None,
    ensemble: bool = False,
    common_classes: bool = False,
    samples: bool = True,
) -> None:
    """Measure checkpoints on labelled faces: accuracy, F1, confusions, calibration.

    The data sets are those of `fer-batch train`; only unreadable images are left out. The folder gets
    metrics.json, tables (.csv), plots, pictures of right and wrong predictions, and for a checkpoint in a
    run's folder the learning curves. With several checkpoints, each has a folder. If there is something to
    compare, comparison.csv, .json and .png have the gain of each result over the first one, with its 95 %
    interval and McNemar's p.

    samples_right.png, samples_wrong.png and mistakes.png show faces of the data set. Such data sets are for
    research only: do not publish these pictures, or use --no-samples.

    Args:
        split: Training, PublicTest, PrivateTest, or train, select (or val), test. By default the first of
            test, select and train that the data has.
        checkpoint: Model, a .safetensors file, an .onnx file of `export-model`, the folder of a training run,
            or `default` (the packaged one); may be repeated.
        averaging: Views of a face whose predictions are averaged. none: the face alone; flip: with its mirror
            image, as in `analyze` (default); ten-crop: four corners and the centre with their mirror images.
            Several are compared.
        flip: Short for --averaging flip, and --no-flip for --averaging none.
        ensemble: Measure the mean of all checkpoints' probabilities too. They must have the same classes.
        common_classes: Leave out examples of classes that the checkpoint lacks, and predict only classes of
            the data.
        samples: Write pictures of faces with right and wrong predictions.

    Examples:
      fer-batch evaluate --data fer2013=fer2013.parquet --split PublicTest -o report
      fer-batch evaluate --checkpoint RUN --data fer2013=fer2013.csv --no-flip -o report
      fer-batch evaluate --data ck48=CK+48/ --common-classes -o report
      fer-batch evaluate --data fer2013=fer2013.csv --averaging none flip ten-crop -o report
      fer-batch evaluate --checkpoint default --checkpoint RUN --ensemble --data folder=faces/ -o out
    """
    if averaging and flip is not None:
        raise UsageError("--averaging and --flip exclude each other")
    check_data_exists(data)
    from fer_batch.evaluation.compare import compare
    from fer_batch.storage.folder import check_folder

    check_folder(output)
    line = ProgressLine(is_logged=False)
    evaluation = fer_batch.evaluate(
        data,
        split=split,
        checkpoints=[None if name == "default" else Path(name) for name in checkpoint],
        averaging=averaging or ("none" if flip is False else "flip",),
        ensemble=ensemble,
        common_classes=common_classes,
        on_loaded=_print_examples,
        on_progress=line.show,
    )
    line.close()
    evaluation.write(output, samples=samples)
    first, examples = evaluation.first_results, evaluation.examples
    if common_classes:
        left_out = ", ".join(f"{number} {name}" for name, number in examples.left_out.items())
        unused = ", ".join(dict.fromkeys(name for result in first for name in result.unused_classes))
        print_line(
            f"common classes: {', '.join(examples.classes)}; examples left out: {left_out or 'none'}; "
            f"classes that are not predicted: {unused or 'none'}"
        )
    if len(first) == 1:
        _print_result(first[0], examples)
    if len(evaluation.results) > 1:
        _print_comparison(compare(evaluation), evaluation.examples)
    if len(first) == 1:
        print_line(f"{output / 'metrics.json'}; tables and plots are beside it")
    else:
        print_line(f"{output / 'comparison.json'}; a folder for each checkpoint is beside it")


def _print_examples(examples: "Examples") -> None:
    for part in examples.data:
        left_out = ", ".join(f"{number} {reason}" for reason, number in part.left_out.items() if number)
        note = f" (left out: {left_out})" if left_out else ""
        print_status(f"{part.name}: {part.n} faces or clips of the split {examples.split}{note}")
    if examples.split == "train":
        print_status(
            "Models learn from the split train; metrics of a model that learned from it show its memory"
        )


def _print_result(result: "CheckpointResult", examples: "Examples") -> None:
    metrics = result.metrics
    names = ", ".join(part.name for part in examples.data)
    view = {"none": ", without flip", "flip": ""}.get(result.averaging, f", {result.averaging}")
    print_line(f"{result.model_id}{view} on {names}, {examples.split}, n = {metrics.n:,}", style="bold")
    rows = [
        (name, format_estimate(getattr(metrics, key), metrics.intervals.get(key)))
        for key, name in METRICS.items()
    ]
    print_table(("", "value (95 % interval)"), rows)
    by_class = [
        (name, f"{scores.precision:.3f}", f"{scores.recall:.3f}", f"{scores.f1:.3f}", str(scores.support))
        for name, scores in metrics.per_class.items()
    ]
    print_table(("class", "precision", "recall", "F1", "support"), by_class, title="by class")
    print_confusion(metrics, "")


def print_confusion(metrics: "Metrics", title: str) -> None:
    """Print the confusion matrix of a set of predictions."""
    rows = [(name, *map(str, row)) for name, row in zip(metrics.classes, metrics.confusion, strict=True)]
    title += "a row for each true class, a column for each predicted class"
    print_table(("true", *metrics.classes), rows, title=title)


def _print_comparison(table: "pd.DataFrame", examples: "Examples") -> None:
    rows: list[list[str]] = []
    for row in table.to_dict("records"):
        scores = [
            format_estimate(row[key], (row[f"{key}_low"], row[f"{key}_high"]), ".3f")
            for key in ("accuracy", "macro_f1")
        ]
        gain = format_estimate(row["gain_points"], (row["gain_low"], row["gain_high"]), "+.1f")
        gains = [gain, f"{row['p']:.2g}"] if rows else ["", ""]  # the first row has no gain
        rows.append([row["checkpoint"], row["averaging"], *scores, *gains])
    title = f"compared on {examples.split}, n = {len(examples.labels):,}, 95 % intervals; gains in points"
    header = ("checkpoint", "averaging", "accuracy", "macro-F1", "gain", "p")
    print_table(header, rows, title=title, left=(0, 1))
