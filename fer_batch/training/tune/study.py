"""What a study's folder holds: a file a trial, and the tables that are made of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from fer_batch.config import TrainConfig, difference
from fer_batch.errors import ConfigError, FerBatchError, OutputError
from fer_batch.storage.atomic import format_csv, write_bytes, write_json
from fer_batch.storage.folder import check_folder_empty
from fer_batch.training.recipes import recipe_of
from fer_batch.training.tune.space import derived, space

METRICS = ("accuracy", "macro_f1")
PARAMETERS = ("lr", "width", "dropout", "augmentation", "imbalance")
COLUMNS = (
    "trial", *PARAMETERS, "epochs", "stopped_early", "accuracy", "macro_f1", "seconds", "status", "reason"
)  # fmt: skip
"""Of `trials.csv`."""
RUNNING, DONE, FAILED = "running", "done", "failed"
IMPORTANCE_LEAST = 4
"""Trials below which it can't be told what a parameter does."""


def new_record(number: int, values: dict[str, Any], status: str) -> dict[str, Any]:
    """What a trial's file holds: its number, from 1, its point of the space, "running", "done" or "failed"
    for a reason, and its epochs, as in `loop.HISTORY`.
    """
    return {"number": number, "values": values, "status": status, "reason": "", "history": []}


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Write a trial's file into the study's folder."""
    write_json(out / "trials" / f"{record['number']:04d}.json", record, "trial")


def read_records(out: Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The trials that stand in `out`, by number; none where it is new or empty.

    Raises ConfigError where it is the folder of a study of other settings, OutputError where it holds
    something else.
    """
    file = out / "study.json"
    if not file.exists():
        check_folder_empty(out, "a study")
        return {}
    try:
        before = dict(json.loads(file.read_text())["settings"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{file} is not the record of a study: {error}") from error
    if changed := difference(before, settings):
        raise ConfigError(f"{out} holds a study of other settings ({changed}): name another --out")
    found = {}
    for path in sorted((out / "trials").glob("[0-9]*.json")):
        try:
            record = json.loads(path.read_text())
            found[int(record["number"])] = record
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OutputError(f"{path} is not a trial ({error}): delete it to have it tried again") from error
    return found


def standing(config: TrainConfig, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The epoch whose weights `train` would keep if it ended here."""
    if config.early_stopping:
        return max(history, key=lambda row: row["accuracy"])
    return history[-1]


def row_of(record: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """A trial as a row of the table, with `COLUMNS`; what it does not have is None."""
    history, done = record["history"], record["status"] == DONE
    chosen = standing(config, history) if done else {}
    return {
        "trial": record["number"],
        **{name: record["values"].get(name) for name in PARAMETERS},
        "epochs": len(history),
        "stopped_early": done and len(history) < config.epochs,
        "accuracy": chosen.get("accuracy"),
        "macro_f1": chosen.get("macro_f1"),
        "seconds": round(sum(epoch["seconds"] for epoch in history), 1),
        "status": record["status"],
        "reason": record["reason"],
    }


def best_of(rows: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The first of the best rows that are done, None where none is."""
    return max((row for row in rows if row["status"] == DONE), key=lambda row: row[metric], default=None)


def importance(rows: Sequence[dict[str, Any]], config: TrainConfig, metric: str) -> dict[str, float]:
    """How much of what the trials' results differ by is due to each parameter: shares of sum 1, highest
    first, or nothing where too few trials are done or all are alike.

    By functional ANOVA over a random forest (Hutter et al. 2014, "An Efficient Approach for Assessing
    Hyperparameter Importance"). Rough where trials are few.
    """
    done = [row for row in rows if row["status"] == DONE]
    if len(done) < IMPORTANCE_LEAST or len({row[metric] for row in done}) == 1:
        return {}
    searched = space(config)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for row in done:
        point = {name: row[name] for name in searched}
        study.add_trial(optuna.create_trial(params=point, distributions=searched, value=row[metric]))
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=forest)
    except RuntimeError:  # no tree of the forest sees a difference
        return {}
    return {name: float(share) for name, share in shares.items()}


def write_results(
    config: TrainConfig, out: Path, settings: dict[str, Any], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write `trials.csv`, `trials.json`, `best.toml` and `study.json`; returns what `tune` does.

    A trial in `trials.json` is its row, the `settings` in which it is not the base, and its `history`.
    Raises OutputError where they can't be written, FerBatchError where no trial came to an end.
    """
    metric, base = settings["metric"], config.to_dict()
    rows = [row_of(record, config) for record in records]
    best = best_of(rows, metric)
    trials = []
    for row, record in zip(rows, records, strict=True):
        changed = derived(config, record["values"])
        own = {name: value for name, value in changed.to_dict().items() if value != base[name]}
        trials.append({**row, "settings": own, "history": record["history"]})
        if row is best:
            said = f"# trial {best['trial']} of {len(rows)}: {metric} {best[metric]:.4f} for selection\n"
            recipe = (said + recipe_of(changed)).encode()
    found = {
        "settings": settings,
        "best": best["trial"] if best else None,
        "importance": importance(rows, config, metric),
    }
    try:
        write_bytes(
            out / "trials.csv", format_csv(COLUMNS, ([row[name] for name in COLUMNS] for row in rows))
        )
        write_json(out / "trials.json", trials)
        if best:
            write_bytes(out / "best.toml", recipe)
        write_json(out / "study.json", found)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}") from error
    if best is None:
        raise FerBatchError(
            f"no trial of {out} came to an end; of the first: {rows[0]['reason']}; give other settings and "
            "another --out"
        )
    return {**found, "trials": trials}
