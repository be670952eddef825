"""CK+48 by cross-validation: what a window of frames adds to the last frame alone, on people never seen.

The folds are of subjects and frozen in `ck48_folds.json`: ten lists of their ids. They were made once by
scikit-learn's `StratifiedGroupKFold(10, shuffle=True, random_state=0)`, its groups the subjects and its
strata the seven classes, of the 327 sequences in order of their name; so each fold holds 31 to 38
sequences of 10 to 13 people, and a tenth of each class. Nothing is chosen on a test fold: the recipe is fixed
beforehand, and the last epoch answers.
"""

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_batch.config import TrainConfig, difference
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.evaluation.metrics import measure, paired_difference
from fer_batch.files import write_bytes, write_json
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import load_checkpoint
from fer_batch.training.datasets import Clips, load_datasets
from fer_batch.training.loop import Place, learn, normalise, to_grey

CLASSES = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
"""CK+'s own seven: contempt is among them, neutral is not."""
FOLDS = Path(__file__).parent / "ck48_folds.json"
MODELS = ("cnn", "cnn_bilstm")
"""What answers: the encoder and its head on the last frame, after the stills; and all of the network on all
frames of the sequence, at the last."""
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


def read_folds(path: Path = FOLDS) -> list[list[str]]:
    """The subjects of each fold; raises InputError where the file is no list of lists of ids, each in one
    fold only.
    """
    try:
        folds = json.loads(path.read_text())
        subjects = [subject for fold in folds for subject in fold]
        valid = all(isinstance(fold, list) for fold in folds) and all(isinstance(s, str) for s in subjects)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a readable file of folds: {error}") from error
    if not valid or len(folds) < 2 or len(set(subjects)) < len(subjects):
        raise InputError(f"{path}: folds are two or more lists of subjects' ids, each id in one of them")
    return folds


def fold_of(subjects: np.ndarray, folds: Sequence[Sequence[str]]) -> np.ndarray:
    """`(N,) int64`: the fold, from 0, of each of `(N,) str` subjects; raises InputError for one in none."""
    number = {subject: index for index, fold in enumerate(folds) for subject in fold}
    unknown = sorted(set(subjects.tolist()) - number.keys())
    if unknown:
        raise InputError(
            f"{len(unknown)} of the data's subjects are in no fold ({', '.join(map(repr, unknown[:3]))}…); "
            f"the folds know CK+'s {len(number)} subjects, as in S010_004_00000017.png: use CK+48 as it is"
        )
    return np.array([number[subject] for subject in subjects.tolist()], np.int64)


def crossval(
    config: TrainConfig,
    out: Path,
    *,
    folds: Path = FOLDS,
    on_line: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train as `config` says on all folds but one, answer that one, for each fold in turn, and write
    `crossval.json` and `predictions.csv` into `out`; returns what the former holds.

    That is `n`, `subjects` (how many), `folds` (`n`, accuracies and seconds of each), the `settings`, all
    figures of `measure` of the pooled answers under "cnn" and "cnn_bilstm", and their `difference` (see
    `paired_difference`). A row of the CSV is a sequence: its subject, its number among the subject's, in
    order of their names, its fold, and its classes. Folds without sequences in the data are passed over.

    A fold that is done is a file there, and is not done again. Raises ConfigError where `out` holds another
    configuration, InputError for data that can't be used, both before anything is written.
    """
    if config.classes != CLASSES or [name for name, _ in config.data] != ["ck48"]:
        raise ConfigError("cross-validation is of CK+48's seven classes: give --data ck48=PATH, and no other")
    if config.epochs < 1:
        raise ConfigError(f"--epochs is {config.epochs}; allowed is a whole number from 1")
    init = load_checkpoint(Path(config.init))[1].model_id if config.init else None
    data, counts = load_datasets(config.data, classes=CLASSES, for_training=False)
    known = read_folds(folds)
    fold = fold_of(data.subjects, known)
    _check_training(data, fold)
    settings = {
        **{k: v for k, v in config.to_dict().items() if k != "data"},
        "init": init,
        "data_sha256": _digest(data),
        "folds_sha256": hashlib.sha256(json.dumps(known).encode()).hexdigest(),
    }
    _claim(out, settings)
    for name, count in sorted(counts.items()):
        on_line(f"data: {count} {name.replace('_', ' ')}")
    if absent := sum(map(len, known)) - len(set(data.subjects.tolist())):
        on_line(f"data: {absent} of the folds' subjects are not there")
    pooled = {name: np.zeros((len(data), len(CLASSES))) for name in MODELS}
    rows = []
    for number in np.unique(fold).tolist():
        file, tested = out / f"fold_{number + 1:02d}.json", np.flatnonzero(fold == number)
        if not file.exists():
            _write(file, json.dumps(_one_fold(config, data, fold == number)).encode())
        done = _read_fold(file, len(tested))
        row = {"fold": number + 1, "n": len(tested), "seconds": done["seconds"]}
        for name in MODELS:
            pooled[name][tested] = done[name]
            row[name] = float((pooled[name][tested].argmax(axis=1) == data.labels[tested]).mean())
        rows.append(row)
        on_line(
            f"fold {number + 1} of {len(known)}: {len(tested)} sequences, CNN {row['cnn']:.3f}, "
            f"CNN-BiLSTM {row['cnn_bilstm']:.3f}, {row['seconds']:.0f} s"
        )
    cnn_right, both_right = (pooled[name].argmax(axis=1) == data.labels for name in MODELS)
    result = {
        "n": len(data),
        "subjects": len(set(data.subjects.tolist())),
        **{name: measure(pooled[name], data.labels, CLASSES) for name in MODELS},
        "difference": paired_difference(cnn_right, both_right, data.subjects),
        "folds": rows,
        "settings": settings,
    }
    _write(out / "predictions.csv", _csv(data, fold, pooled))
    _write(out / "crossval.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def _one_fold(config: TrainConfig, data: Clips, tested: np.ndarray) -> dict[str, Any]:
    """Probabilities of both models for the clips of the fold, and how long it took, in seconds."""
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stills: dict[str, torch.Tensor] = {}

    def epoch_done(state: dict[str, Any]) -> None:
        if state["history"][-1]["phase"] == "stills":
            stills.update({name: value.clone() for name, value in state["ema"].items()})

    nothing = data.take(np.zeros(len(data), bool))  # no selection: the last epoch answers
    state = learn(config, data.take(~tested), nothing, Place(device=device), epoch_done=epoch_done)
    model = CnnBiLstm(**state["architecture"]).to(device).eval()
    chosen = data.take(tested)
    model.load_state_dict(stills)
    cnn = last_frame_probs(model, chosen, device)
    model.load_state_dict(state["ema"])
    return {
        "cnn": cnn.tolist(),
        "cnn_bilstm": sequence_probs(model, chosen, device).tolist(),
        "seconds": round(time.monotonic() - began, 1),
    }


@torch.inference_mode()
def last_frame_probs(model: CnnBiLstm, clips: Clips, device: torch.device) -> np.ndarray:
    """Probabilities `(N, C) float64` by the encoder and its head of each clip's last frame alone."""
    if not len(clips):
        return np.zeros((0, model.crop_head.out_features))
    crops = normalise(to_grey(clips.frames[clips.starts[1:] - 1], device))  # (N, 1, 48, 48)
    return model.classify_crops(model.encode(crops)).double().softmax(dim=1).cpu().numpy()


@torch.inference_mode()
def sequence_probs(model: CnnBiLstm, clips: Clips, device: torch.device) -> np.ndarray:
    """Probabilities `(N, C) float64` by the whole network of all frames of each clip, at the last."""
    if not len(clips):
        return np.zeros((0, model.crop_head.out_features))
    lengths = np.diff(clips.starts)
    steps = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)  # (N, T), its last frame as padding
    crops = normalise(to_grey(clips.frames[clips.starts[:-1, None] + steps], device))  # (N, T, 1, 48, 48)
    logits = model(crops, torch.from_numpy(lengths))  # (N, T, C)
    last = logits[torch.arange(len(clips)), torch.from_numpy(lengths - 1)]
    return last.double().softmax(dim=1).cpu().numpy()


def _check_training(data: Clips, fold: np.ndarray) -> None:
    for number in np.unique(fold):
        if len(np.unique(data.labels[fold != number])) < 2:
            raise InputError(
                f"without the {(fold == number).sum()} sequences of fold {number + 1} the data has no two "
                "classes left to train on; cross-validation takes subjects of several folds"
            )


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make `out` the folder of this run; raises ConfigError or OutputError where it is something else's."""
    record = out / "settings.json"
    if record.exists():
        try:
            before = dict(json.loads(record.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{record} is not the record of a cross-validation: {error}") from error
        if changed := difference(before, settings):
            raise ConfigError(f"{out} holds a run of another configuration ({changed}): name another --out")
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out} holds something else than a cross-validation: name a new or empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(record, settings)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}") from error


def _read_fold(file: Path, count: int) -> dict[str, Any]:
    try:
        done = json.loads(file.read_text())
        shapes = {np.shape(done[name]) for name in MODELS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{file} is not a fold's answers ({error}): delete it to have it done again"
        ) from error
    if shapes != {(count, len(CLASSES))}:
        raise OutputError(f"{file} does not answer {count} sequences: delete it to have it done again")
    return done


def _write(file: Path, content: bytes) -> None:
    try:
        write_bytes(file, content)
    except OSError as error:
        raise OutputError(f"{file} can't be written: {error.strerror}") from error


def _digest(data: Clips) -> str:
    digest = hashlib.sha256()
    for part in (data.frames, data.starts, data.labels):
        digest.update(part.tobytes())
    digest.update(" ".join(data.subjects.tolist()).encode())
    return digest.hexdigest()


def _csv(data: Clips, fold: np.ndarray, pooled: dict[str, np.ndarray]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "sequence", "fold", "true", *MODELS])
    seen: dict[str, int] = {}
    answers = [pooled[name].argmax(axis=1) for name in MODELS]
    for index, subject in enumerate(data.subjects.tolist()):
        seen[subject] = seen.get(subject, 0) + 1
        classes = [CLASSES[i] for i in (data.labels[index], *(a[index] for a in answers))]
        writer.writerow([subject, seen[subject], fold[index] + 1, *classes])
    return text.getvalue().encode()
