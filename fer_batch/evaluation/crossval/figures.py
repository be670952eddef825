"""What folds that are done say together: figures of each, of each seed's, and of all answers pooled."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fer_batch.data.clips import Clips
from fer_batch.evaluation.crossval.folds import Fold
from fer_batch.evaluation.crossval.grouped import FIGURES, Answers, grouped_intervals, means, spread
from fer_batch.evaluation.crossval.runs import ALONE
from fer_batch.evaluation.metrics import measure, paired_difference

Done = tuple[Fold, dict[str, Any]]
"""A fold and what stands in its file; see `fold_runs.read_fold`."""


def fold_row(data: Clips, groups: np.ndarray, done: Done, models: Sequence[str]) -> dict[str, Any]:
    """A fold in figures: `by`, `seed`, `fold`, `n`, `known` (how many of these show people, or are images,
    that stand outside it too), the figures of `key_of`, `train_accuracy` (of the last epoch, on what it saw),
    `trained_on` and `held_out` (clips), and `seconds`.

    `groups` `(N,) str` are those of `groups_of`.
    """
    fold, answers = done
    known = np.isin(groups[fold.tested], groups[~fold.tested])
    return {
        "by": fold.by,
        "seed": fold.seed,
        "fold": fold.number,
        **_scores(pool(data, groups, [done], models)),
        "known": int(known.sum()),
        **{k: answers[k] for k in ("train_accuracy", "trained_on", "held_out", "seconds")},
    }


def key_of(model: str, figure: str) -> str:
    """Under which name a row has a figure of a model: "accuracy" and "macro_f1" of one alone; of a pair "cnn"
    for its accuracy, "cnn_macro_f1", and so on.
    """
    if model in ALONE:
        return figure
    return model if figure == "accuracy" else f"{model}_{figure}"


def pool(data: Clips, groups: np.ndarray, folds: Sequence[Done], models: Sequence[str]) -> dict[str, Answers]:
    """What each model answered in these folds, in order of their seeds and of the data."""
    asked = np.concatenate([np.flatnonzero(fold.tested) for fold, _ in folds])
    seeds = np.concatenate([np.full(fold.tested.sum(), fold.seed) for fold, _ in folds])
    order = np.lexsort((asked, seeds))
    return {
        name: Answers(
            probs=np.concatenate([np.array(answers[name]) for _, answers in folds])[order],
            labels=data.labels[asked[order]],
            groups=groups[asked[order]],
            runs=seeds[order],
        )
        for name in models
    }


def all_figures(
    data: Clips, groups: np.ndarray, folds: Sequence[Done], models: Sequence[str]
) -> dict[str, Any]:
    """All figures of the folds of one protocol, as `crossval` gives them."""
    pooled, seeds = pool(data, groups, folds, models), sorted({fold.seed for fold, _ in folds})
    result: dict[str, Any] = {
        name: measure(answers.probs, answers.labels, data.classes) for name, answers in pooled.items()
    }
    if len(pooled) > 1:
        first, second = (answers.probs.argmax(axis=1) == answers.labels for answers in pooled.values())
        result["difference"] = paired_difference(first, second, pooled[models[0]].groups)
    if len(seeds) > 1:  # each example is answered several times
        for name, answers in pooled.items():
            result[name] |= {**means(answers), "intervals": grouped_intervals(answers)}
        if "difference" in result:
            result["difference"]["p"] = None
    of_folds = [fold_row(data, groups, done, models) for done in folds]
    repeats = [
        {"seed": seed, **_scores(pool(data, groups, [d for d in folds if d[0].seed == seed], models))}
        for seed in seeds
    ]
    over = repeats if len(seeds) > 1 else of_folds
    keys = [key_of(name, figure) for name in models for figure in FIGURES]
    return {
        **result,
        "spread": {
            "over": "repeats" if len(seeds) > 1 else "folds",
            "count": len(over),
            **{key: spread([row[key] for row in over]) for key in keys},
        },
        "repeats": repeats,
        "folds": of_folds,
    }


def rows_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of the same keys as CSV."""
    return _csv(list(rows[0]), (row.values() for row in rows))


def predictions_csv(data: Clips, folds: Sequence[Done], models: Sequence[str]) -> bytes:
    """A row for each answer: the subject, the number of the example among the subject's, in order of the
    data, its fold and classes, and how the fold was made.
    """
    seen: dict[str, int] = {}
    numbers = []
    for subject in data.subjects.tolist():
        seen[subject] = seen.get(subject, 0) + 1
        numbers.append(seen[subject])
    rows = []
    for fold, answers in folds:
        chosen = [np.array(answers[name]).argmax(axis=1) for name in models]
        for place, index in enumerate(np.flatnonzero(fold.tested).tolist()):
            classes = [data.classes[i] for i in (data.labels[index], *(c[place] for c in chosen))]
            row = [data.subjects[index], numbers[index], fold.number, *classes, fold.by, fold.seed]
            rows.append((fold.by, fold.seed, index, row))
    ordered = [row for *_, row in sorted(rows, key=lambda each: each[:3])]
    return _csv(["subject", "sequence", "fold", "true", *models, "by", "seed"], ordered)


def _scores(pooled: dict[str, Answers]) -> dict[str, Any]:
    row: dict[str, Any] = {"n": len(next(iter(pooled.values())).labels)}
    for name, answers in pooled.items():
        row |= {key_of(name, figure): value for figure, value in means(answers).items()}
    return row


def _csv(header: list[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
