"""Checkpoints as ONNX files: each checked before it is there, those in int8 measured too."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_batch.data.clips import Clips
from fer_batch.data.datasets import load_datasets
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.evaluation.evaluate import predict
from fer_batch.evaluation.metrics import confusion, per_class
from fer_batch.model.onnx.export import (
    CALIBRATION_CROPS,
    check_against_torch,
    export_network,
    join_graphs,
    quantize_encoder,
)
from fer_batch.model.recognize import Recognizer
from fer_batch.model.weights import load_checkpoint
from fer_batch.storage.atomic import write_bytes

REAL = 500
"""Crops of data that are compared, at most."""
MEASURED_ON = ("select", "test")
"""The splits that tell what int8 costs: the first that the data has. For data without either, a tenth of it
becomes "select", as in training."""


def export_model(
    checkpoint: Path | None,
    target: Path,
    *,
    crops: Callable[[float], np.ndarray],
    data: Sequence[tuple[str, str]] = (),
    int8: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a checkpoint, the packaged one where it is None, as the ONNX file `target`.

    Returns its `model_id` and that of what it was made of (`made_of`), `bytes`, how many real crops it was
    compared on (`crops`), and the largest `difference` of a probability from PyTorch's. Those crops are some
    of `data`, (name, path) of data sets; without any, what `crops` returns, given the card's crop_scale, as
    `(n, 48, 48) uint8`.

    With `int8` the encoder computes in int8, `difference` is that of the float32 network it was made from,
    and there are `split` and `n` of the data that both were measured on, their `accuracy` and `macro_f1`,
    `{"float32": …, "int8": …}`, and the share of examples with the same answer, `agreement`. Faces are read
    with their mirror images, as in `analyze`.

    Raises FerBatchError, and writes nothing, where the checkpoint, the data or `target` can't be used, or
    where the answers differ.
    """
    _check_target(target)
    if int8 and not data:
        raise ConfigError(
            "--int8 needs --data NAME=PATH: labelled faces, some to set the ranges by, others to measure on"
        )
    network, card = load_checkpoint(checkpoint)
    clips = load_datasets(data, classes=card.classes, for_training=int8)[0] if data else None
    parts = _divided(clips, data) if clips and int8 else None
    real = _some(clips.frames, REAL) if clips else crops(card.crop_scale)
    on_line("exporting …")
    exported = export_network(network, card)
    model = join_graphs(exported)
    on_line(f"comparing with PyTorch on random crops and {len(real)} real ones …")
    figures = {
        "made_of": card.model_id,
        "crops": len(real),
        "difference": check_against_torch(model, network, card, real),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {"float32": Path(folder) / "float32.onnx", "int8": Path(folder) / "int8.onnx"}
        files["float32"].write_bytes(model)
        if parts:
            training, measured = parts
            ranges = _some(training.frames, CALIBRATION_CROPS)
            on_line(f"int8: setting ranges by {len(ranges)} crops of the split train …")
            model = join_graphs(quantize_encoder(exported, ranges))
            files["int8"].write_bytes(model)
            on_line(f"int8: measuring on {len(measured)} examples of the split {measured.splits[0]} …")
            both = {name: Recognizer(path, "cpu") for name, path in files.items()}
            figures |= compared(both, measured)
        made = Recognizer(files["int8" if parts else "float32"], "cpu").card
    try:
        write_bytes(target, model)
    except OSError as error:
        raise OutputError(f"{target} can't be written: {error.strerror or error}") from error
    return figures | {"model_id": made.model_id, "bytes": len(model)}


def compared(recognizers: dict[str, Recognizer], clips: Clips) -> dict[str, Any]:
    """`split`, `n`, `accuracy` and `macro_f1` of each of two recognizers by its name, and their `agreement`,
    on clips of one split.
    """
    probs = {name: predict(recognizer, clips) for name, recognizer in recognizers.items()}
    occurring = np.bincount(clips.labels, minlength=len(clips.classes)) > 0
    one, other = (values.argmax(axis=1) for values in probs.values())
    return {
        "split": str(clips.splits[0]),
        "n": len(clips),
        "accuracy": {n: float(np.trace(confusion(p, clips.labels)) / len(clips)) for n, p in probs.items()},
        "macro_f1": {n: float(per_class(p, clips.labels)["f1"][occurring].mean()) for n, p in probs.items()},
        "agreement": float((one == other).mean()),
    }


def _check_target(target: Path) -> None:
    if target.suffix.lower() != ".onnx":
        raise ConfigError(f"-o is {target}; a checkpoint is exported to a file that ends in .onnx")
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file that ends in .onnx")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"{target} can't be written: there is no folder {target.absolute().parent}")


def _divided(clips: Clips, data: Sequence[tuple[str, str]]) -> tuple[Clips, Clips]:
    """The clips that int8 ranges are set by, and those that its answers are measured on."""
    there = set(clips.splits.tolist())
    split = next((name for name in MEASURED_ON if name in there), None)
    if "train" not in there or split is None:
        named = ", ".join(f"--data {name}={path}" for name, path in data)
        raise InputError(
            f"{named}: --int8 needs the split train, and select or test beside it; "
            f"there is {', '.join(sorted(there))}"
        )
    return clips.take(clips.splits == "train"), clips.take(clips.splits == split)


def _some(frames: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of the crops, drawn evenly, always the same."""
    return frames[np.random.default_rng(0).permutation(len(frames))[:count]]
