"""Cross-validation: how well a recipe works on people it has never seen, and how much seeing them helps.

No choice is made on a test fold. The recipe is fixed, and the last epoch is used, or an epoch that is
selected on a part of the training folds.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from fer_batch.config import difference
from fer_batch.data.clips import Clips, count_classes
from fer_batch.data.datasets import load_datasets
from fer_batch.errors import ConfigError, InputError
from fer_batch.evaluation.crossval.folds import (
    FROZEN_FOLDS,
    FROZEN_FOLDS_FILE,
    Fold,
    Protocol,
    group_clips,
    make_folds,
    read_frozen_folds,
)
from fer_batch.evaluation.crossval.runs import name_fold_file, read_fold, run_folds
from fer_batch.evaluation.crossval.summary import (
    CrossValidation,
    name_unit,
    summarize,
    tabulate_folds,
    tabulate_predictions,
)
from fer_batch.evaluation.crossval.train_fold import ONE_MODEL, PAIR, FoldResult, split_training
from fer_batch.evaluation.plots import plot_confusion
from fer_batch.model.weights import load_checkpoint
from fer_batch.plotting import render_figure
from fer_batch.storage.atomic import convert_write_error, encode_json, write_files, write_json
from fer_batch.storage.folder import parse_local_folder, read_folder_record
from fer_batch.storage.lease import hold_lease
from fer_batch.train_config import TrainConfig
from fer_batch.training.distill import check_teachers
from fer_batch.training.recipes import Settings
from fer_batch.training.resources import GpuCount, check_gpus

CK48_CLASSES = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
"""CK+'s own seven classes: contempt is one of them, neutral is not."""
CK48_RECIPE: Settings = {
    "classes": CK48_CLASSES,
    "init": "default",
    "epochs": 10,
    "sequence_epochs": 10,
    "batch_size": 32,
    "lr": 0.01,
    "imbalance": "sqrt",
    "window_length": 3,
}
"""The default recipe, which fine-tunes the packaged checkpoint on CK+48. The learning rate is a tenth of the
rate from scratch, the loss on the training folds has settled after ten epochs, and windows are as long as the
sequences."""
SETTINGS_FILE = "settings.json"
MODEL_TITLES = {"cnn": "CNN", "cnn_bilstm": "CNN-BiLSTM"}


def crossval(
    config: TrainConfig,
    out: str | Path,
    *,
    protocol: Protocol | None = None,
    frozen: Path = FROZEN_FOLDS_FILE,
    parallel: int | None = 1,
    gpus: GpuCount = "auto",
    on_line: Callable[[str], None] = lambda line: None,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> CrossValidation:
    """Train on all folds but one, test on that one, for each fold in turn.

    A CNN-BiLSTM that learns from stills and from sequences is measured twice: "cnn" is its encoder on the
    last frame alone, after the stills; "cnn_bilstm" is the whole network on all frames. Any other network is
    "model". The split "test" of the data is left out. For CK+48's seven classes, ten folds by subject are
    those of `frozen`, for every seed.

    The folder `out` gets `crossval.json`, `folds.csv`, `predictions.csv`, a confusion matrix for each
    division, and a file for each fold. A finished fold is not repeated. `parallel`, `gpus`, `address`,
    `insecure` and `verbose` are those of `run_folds`.

    Raises ConfigError if `out` holds another configuration, InputError if the data cannot be used, both
    before any file is written.
    """
    protocol, out = protocol or Protocol(), parse_local_folder(out).absolute()
    network, init = _check_config(config, parallel)
    check_gpus(gpus)
    if parallel == 1 and gpus != "auto" and gpus > 1:
        raise ConfigError(f"--parallel 1 uses one GPU, got --gpus {gpus}: give --parallel {gpus}")
    data, counts = load_datasets(
        config.data, classes=config.classes or None, leave_out=config.leave_out, for_training=False
    )
    kept = data.splits != "test"
    counts = Counter(counts) + Counter({"of_the_split_test_left_out": int((~kept).sum())})
    data = data.take(kept)
    check_teachers(config, data.classes)
    models = _choose_models(network, config, data)
    is_ck48 = set(data.classes) == set(CK48_CLASSES) and [name for name, _ in config.data] == ["ck48"]
    frozen_folds: list[list[str]] = []
    if is_ck48 and protocol.folds == FROZEN_FOLDS and protocol.test_share is None:
        frozen_folds = read_frozen_folds(frozen)
    if not is_ck48:
        _check_classes(data)
    folds = make_folds(data, protocol, config.seed, frozen_folds)
    for fold in folds:
        split_training(config, data, fold)  # raises InputError before anything is written
    settings: Settings = {
        **{name: value for name, value in config.to_dict().items() if name != "data"},
        **dataclasses.asdict(protocol),
        "by": list(protocol.by),
        "models": list(models),
        "init": init,
        "data_sha256": _hash_clips(data),
        "folds_sha256": hashlib.sha256(b"".join(fold.tested.tobytes() for fold in folds)).hexdigest(),
    }
    _check_settings(out, settings)
    with hold_lease(out, "crossval"):
        if not _check_settings(out, settings):
            with convert_write_error(out):
                write_json(out / SETTINGS_FILE, settings)
        for name, count in sorted(counts.items()):
            on_line(f"data: {count} {name.replace('_', ' ')}")
        absent = sum(map(len, frozen_folds)) - len(set(data.subjects.tolist()))
        if frozen_folds and "subject" in protocol.by and absent:
            on_line(f"data: {absent} subjects of the folds are missing")
        files = {
            name_fold_file(out, fold, len(protocol.by) > 1, protocol.repeats > 1): fold for fold in folds
        }
        groups = group_clips(data)

        def finish_folds() -> Iterator[Path]:
            pending = {file: fold for file, fold in files.items() if not file.exists()}
            yield from (file for file in files if file not in pending)
            yield from run_folds(
                config, data, pending, models,
                parallel=parallel, gpus=gpus, address=address, insecure=insecure, verbose=verbose,
                on_line=on_line,
            )  # fmt: skip

        results: dict[Path, FoldResult] = {}
        for file in finish_folds():
            fold = files[file]
            results[file] = read_fold(file, fold, models, len(data.classes))
            row = tabulate_folds(data, groups, [results[file]], models).iloc[0]
            on_line(_describe_fold(row, fold, models, protocol, name_unit(data)))
        ordered = [results[file] for file in files]
        divisions = {by: [result for result in ordered if result.fold.by == by] for by in protocol.by}
        summary = summarize(data, groups, divisions, models, settings)
        _write_results(out, summary, data, ordered, models)
        return summary


def check_ck48_data(data: Sequence[tuple[str, str]]) -> None:
    """Raise ConfigError unless the data is CK+48 alone, as `CK48_RECIPE` needs it."""
    if [name for name, _ in data] != ["ck48"]:
        raise ConfigError(
            "without --recipe, cross-validation needs CK+48 with its seven classes: "
            "give --data ck48=PATH, and no other"
        )


def _check_config(config: TrainConfig, parallel: int | None) -> tuple[str, str | None]:
    """Return the network's name, and the id of the checkpoint to start from; raises ConfigError."""
    if config.epochs < 1:
        raise ConfigError(f"--epochs must be a whole number from 1, got {config.epochs}")
    if parallel is not None and parallel < 1:
        raise ConfigError(f"--parallel must be a whole number from 1, got {parallel}")
    if not config.init:
        return config.network, None
    card = load_checkpoint(Path(config.init))[1]
    if config.network not in (card.network, TrainConfig.network):  # a recipe has chosen its network
        raise ConfigError(
            f"--init {config.init} is a {card.network}, but the settings are for a {config.network}: "
            "give another --init, or another --recipe"
        )
    return card.network, card.model_id


def _choose_models(network: str, config: TrainConfig, data: Clips) -> tuple[str, ...]:
    """Return the models to measure: both halves of a CNN-BiLSTM if it learns from sequences."""
    both_phases = network == "cnn-bilstm" and config.sequence_epochs > 0
    return PAIR if both_phases and name_unit(data) == "sequences" else ONE_MODEL


def _check_classes(data: Clips) -> None:
    occurring = count_classes(data)
    if absent := [name for name in data.classes if name not in occurring]:
        raise InputError(
            f"the data has no examples of the class {', '.join(absent)}: give other data or other --classes"
        )


def _describe_fold(row: pd.Series, fold: Fold, models: Sequence[str], protocol: Protocol, unit: str) -> str:
    parts = ["at random" if fold.by == "random" else "by subject"] if len(protocol.by) > 1 else []
    parts += [f"seed {fold.seed}"] if protocol.repeats > 1 else []
    if protocol.test_share is None:
        parts.append(f"fold {fold.number} of {fold.folds}")
    if tuple(models) == ONE_MODEL:
        scores = f"accuracy {row['accuracy']:.3f}, macro-F1 {row['macro_f1']:.3f}"
    else:
        scores = ", ".join(f"{MODEL_TITLES[model]} {row[model]:.3f}" for model in models)
    return f"{', '.join(parts) or 'test part'}: {row['n']} {unit}, {scores}, {row['seconds']:.0f} s"


def _write_results(
    out: Path, summary: CrossValidation, data: Clips, results: Sequence[FoldResult], models: Sequence[str]
) -> None:
    files = {}
    for by, division in summary.divisions.items():
        name = f"confusion_{by}.png" if len(summary.divisions) > 1 else "confusion.png"
        files[name] = render_figure(plot_confusion(division.metrics[models[-1]].confusion, data.classes))
    folds = pd.concat([division.folds for division in summary.divisions.values()])
    files["folds.csv"] = folds.sort_values("seed", kind="stable").to_csv(index=False).encode()
    files["predictions.csv"] = tabulate_predictions(data, results, models).to_csv(index=False).encode()
    files["crossval.json"] = encode_json(summary.to_dict())
    write_files(out, files)


def _check_settings(out: Path, settings: Settings) -> bool:
    """Return whether `out` has settings; raises ConfigError if they are others."""
    before = read_folder_record(out, SETTINGS_FILE, "a cross-validation")
    if before and (changed := difference(before, settings)):
        raise ConfigError(f"{out} holds a run of another configuration ({changed}): give another --out")
    return before is not None


def _hash_clips(data: Clips) -> str:
    digest = hashlib.sha256()
    for part in (data.frames, data.starts, data.labels):
        digest.update(part.tobytes())
    digest.update(" ".join(data.subjects.tolist()).encode())
    return digest.hexdigest()
