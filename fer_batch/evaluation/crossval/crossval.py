"""Cross-validation: how good a way of training is on people never seen, and what is gained by having seen
them.

By default, what a window of frames adds to the last frame alone, on CK+48 by subject. Nothing is chosen on a
test fold: the recipe is fixed beforehand, and the last epoch answers, or one chosen by a part of the training
folds.
"""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.config import TrainConfig, difference
from fer_batch.data.clips import Clips, count_classes
from fer_batch.data.datasets import load_datasets
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.evaluation.crossval.figures import Done, all_figures, fold_row, pool, predictions_csv, rows_csv
from fer_batch.evaluation.crossval.folds import (
    FOLDS,
    FROZEN,
    Fold,
    Protocol,
    groups_of,
    make_folds,
    read_folds,
)
from fer_batch.evaluation.crossval.grouped import worth
from fer_batch.evaluation.crossval.runs import (
    ALONE,
    PAIR,
    file_of,
    read_fold,
    run_folds,
    training_parts,
    write_whole,
)
from fer_batch.evaluation.pictures import confusion_plot
from fer_batch.model.weights import load_checkpoint
from fer_batch.plotting import render_figure
from fer_batch.storage.atomic import write_json
from fer_batch.storage.folder import check_folder_empty
from fer_batch.storage.lease import hold_lease

CLASSES = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
"""CK+'s own seven: contempt is among them, neutral is not."""
RECIPE: dict[str, Any] = {
    "epochs": 10,
    "sequence_epochs": 10,
    "batch_size": 32,
    "lr": 0.01,
    "imbalance": "sqrt",
    "window_length": 3,
}
"""How each fold is trained, unless another is asked for: a tenth of the learning rate of training from
scratch, until the loss on the training folds falls little more, and windows as long as the sequences."""
SETTINGS = "settings.json"
NAMES = {"cnn": "CNN", "cnn_bilstm": "CNN-BiLSTM"}


def crossval(
    config: TrainConfig,
    out: Path,
    *,
    protocol: Protocol | None = None,
    frozen: Path = FOLDS,
    pair: bool = True,
    parallel: int | None = 1,
    on_line: Callable[[str], None] = lambda line: None,
    address: str | None = None,
    insecure: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """Train as `config` says on all folds but one, answer that one, for each fold in turn, and write
    `crossval.json`, `folds.csv`, `predictions.csv` and a confusion matrix into `out`; returns what the first
    holds.

    That is `n`, `unit` (images or sequences), `subjects` (how many), the `settings`, and of the one way to
    divide the data (`protocol`) all figures of `measure` of the pooled answers under "model"; or, with `pair`
    and a CNN-BiLSTM, under "cnn" (the last frame alone) and "cnn_bilstm", with their `difference` (see
    `paired_difference`). With them stand `folds` (see `fold_row`), `repeats` (the same of each seed's folds
    together) and the `spread` over repeats, or with one over folds. With several repeats accuracy and
    macro-F1 are means over them, and as an example's answers are not independent, the intervals are those of
    `grouped_intervals`, and the difference has no p. Of two ways to divide, all that stands under their
    names, and `leak` says of each model what `worth` says of random against subject.

    `pair` is for CK+48's seven classes alone. Of these, ten folds by subject are those of `frozen`, whatever
    the seed. The split "test" of the data is left out. Folds without examples in the data are passed over.

    A fold that is done is a file there, and is not done again. `parallel`, `address`, `insecure` and
    `verbose` are as in `run_folds`. Raises ConfigError where `out` holds another configuration, InputError
    for data that can't be used, both before anything is written.
    """
    protocol = protocol or Protocol()
    network, init = _check(config, pair, parallel)
    models = PAIR if pair and network == "cnn-bilstm" else ALONE
    data, counts = load_datasets(
        config.data, classes=config.classes or None, leave_out=config.leave_out, for_training=False
    )
    kept = data.splits != "test"
    counts = Counter(counts) + Counter({"of_the_split_test_left_out": int((~kept).sum())})
    data = data.take(kept)
    if not pair:
        _check_classes(data)
    own = set(data.classes) == set(CLASSES) and [name for name, _ in config.data] == ["ck48"]
    known = read_folds(frozen) if own and protocol.folds == FROZEN and protocol.test_share is None else []
    folds = make_folds(data, protocol, config.seed, known)
    for fold in folds:
        training_parts(config, data, fold)
    settings = {
        **{k: v for k, v in config.to_dict().items() if k != "data"},
        **dataclasses.asdict(protocol),
        "by": list(protocol.by),
        "models": list(models),
        "init": init,
        "data_sha256": _digest(data),
        "folds_sha256": hashlib.sha256(b"".join(fold.tested.tobytes() for fold in folds)).hexdigest(),
    }
    out = out.absolute()
    if not (out / SETTINGS).exists():
        check_folder_empty(out, "a cross-validation")
    with hold_lease(out, "crossval"):
        _claim(out, settings)
        for name, count in sorted(counts.items()):
            on_line(f"data: {count} {name.replace('_', ' ')}")
        absent = sum(map(len, known)) - len(set(data.subjects.tolist()))
        if known and "subject" in protocol.by and absent:
            on_line(f"data: {absent} of the folds' subjects are not there")
        groups, unit = groups_of(data), "images" if (np.diff(data.starts) == 1).all() else "sequences"
        files = {file_of(out, f, len(protocol.by) > 1, protocol.repeats > 1): f for f in folds}
        todo = {file: fold for file, fold in files.items() if not file.exists()}
        done: dict[Path, Done] = {}
        for file in itertools.chain(
            (file for file in files if file not in todo),
            run_folds(
                config, data, todo, models,
                parallel=parallel, address=address, insecure=insecure, verbose=verbose, on_line=on_line,
            ),
        ):  # fmt: skip
            fold = files[file]
            shape = (int(fold.tested.sum()), len(data.classes))
            done[file] = (fold, read_fold(file, models, shape))
            on_line(_told(fold_row(data, groups, done[file], models), fold, models, protocol, unit))
        result: dict[str, Any] = {
            "n": len(data),
            "unit": unit,
            "subjects": len(set(data.subjects.tolist()) - {""}),
        }
        in_order = [done[file] for file in files]
        of_protocol = {by: [each for each in in_order if each[0].by == by] for by in protocol.by}
        result |= _said(data, groups, of_protocol, models)
        result["settings"] = settings
        several = len(protocol.by) > 1
        for by in protocol.by:
            figures = (result[by] if several else result)[models[-1]]
            picture = render_figure(confusion_plot(np.array(figures["confusion"]), data.classes))
            write_whole(out / (f"confusion_{by}.png" if several else "confusion.png"), picture)
        write_whole(out / "folds.csv", rows_csv([fold_row(data, groups, each, models) for each in in_order]))
        write_whole(out / "predictions.csv", predictions_csv(data, in_order, models))
        write_whole(out / "crossval.json", (json.dumps(result, indent=2) + "\n").encode())
        return result


def _said(
    data: Clips, groups: np.ndarray, folds: dict[str, list[Done]], models: Sequence[str]
) -> dict[str, Any]:
    """All figures of the folds of each way to divide, and what is between two."""
    figures = {by: all_figures(data, groups, done, models) for by, done in folds.items()}
    if len(figures) == 1:
        return next(iter(figures.values()))
    pooled = {by: pool(data, groups, done, models) for by, done in folds.items()}
    return figures | {"leak": {m: worth(pooled["random"][m], pooled["subject"][m]) for m in models}}


def _check(config: TrainConfig, pair: bool, parallel: int | None) -> tuple[str, str | None]:
    """Raise for what can't be asked for; returns the network's name, and the id of the model to start from,
    if any.
    """
    if pair and (config.classes != CLASSES or [name for name, _ in config.data] != ["ck48"]):
        raise ConfigError(
            "without --recipe, cross-validation is of CK+48's seven classes: "
            "give --data ck48=PATH, and no other"
        )
    if config.epochs < 1:
        raise ConfigError(f"--epochs is {config.epochs}; allowed is a whole number from 1")
    if parallel is not None and parallel < 1:
        raise ConfigError(f"--parallel is {parallel}; allowed is a whole number from 1")
    if not config.init:
        return config.network, None
    card = load_checkpoint(Path(config.init))[1]
    if config.network not in (card.network, "cnn-bilstm"):
        raise ConfigError(
            f"--init {config.init} is a {card.network}, but the settings are for a {config.network}: "
            "give another --init, or another --recipe"
        )
    return card.network, card.model_id


def _check_classes(data: Clips) -> None:
    there = count_classes(data)
    if absent := [name for name in data.classes if name not in there]:
        raise InputError(
            f"the data has nothing of the class {', '.join(absent)}: give data that has, or other --classes"
        )


def _told(row: dict[str, Any], fold: Fold, models: Sequence[str], protocol: Protocol, unit: str) -> str:
    where = ["at random" if fold.by == "random" else "by subject"] * (len(protocol.by) > 1) + [
        f"seed {fold.seed}"
    ] * (protocol.repeats > 1)
    if protocol.test_share is None:
        where.append(f"fold {fold.number} of {fold.folds}")
    if models == ALONE:
        said = f"accuracy {row['accuracy']:.3f}, macro-F1 {row['macro_f1']:.3f}"
    else:
        said = ", ".join(f"{NAMES[name]} {row[name]:.3f}" for name in models)
    return f"{', '.join(where) or 'test part'}: {row['n']} {unit}, {said}, {row['seconds']:.0f} s"


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make `out` the folder of this run; raises ConfigError or OutputError where it is something else's."""
    record = out / SETTINGS
    if record.exists():
        try:
            before = dict(json.loads(record.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{record} is not the record of a cross-validation: {error}") from error
        if changed := difference(before, settings):
            raise ConfigError(f"{out} holds a run of another configuration ({changed}): name another --out")
        return
    try:
        write_json(record, settings)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}") from error


def _digest(data: Clips) -> str:
    digest = hashlib.sha256()
    for part in (data.frames, data.starts, data.labels):
        digest.update(part.tobytes())
    digest.update(" ".join(data.subjects.tolist()).encode())
    return digest.hexdigest()
