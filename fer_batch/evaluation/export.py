"""Export checkpoints as ONNX files: each is compared with PyTorch first, and int8 is measured too."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_batch.config import CROP_SIZE_PX
from fer_batch.data.clips import Clips
from fer_batch.data.datasets import load_datasets
from fer_batch.errors import ConfigError, InputError, OutputError
from fer_batch.evaluation.evaluate import predict
from fer_batch.evaluation.metrics import count_confusions, score_confusions
from fer_batch.model.onnx.export import (
    CALIBRATION_CROPS,
    check_against_torch,
    export_network,
    join_graphs,
    quantize_encoder,
)
from fer_batch.model.recognize import Recognizer
from fer_batch.model.weights import load_checkpoint
from fer_batch.storage.atomic import convert_write_error, write_bytes

MAX_COMPARED_CROPS = 500
MEASURED_SPLITS = ("select", "test")
"""int8 is measured on the first of these splits that the data has. Data without either gets a split "select"
of a tenth, as in training."""


@dataclass(frozen=True, kw_only=True)
class PrecisionComparison:
    """float32 and int8 on the same examples; dicts are by "float32" and "int8"."""

    split: str
    n: int
    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    agreement: float
    """Share of examples with the same prediction, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The result of an export."""

    model_id: str
    source_id: str
    """Model id of the checkpoint."""
    size_bytes: int
    compared_crops: int
    """Number of real crops on which the float32 network was compared with PyTorch."""
    difference: float
    """Largest difference of a float32 probability from PyTorch's."""
    precision: PrecisionComparison | None
    """None without int8."""


def export_model(
    checkpoint: Path | None,
    target: Path,
    *,
    crops: Callable[[float], np.ndarray] | None = None,
    data: Sequence[tuple[str, str]] = (),
    int8: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> ExportSummary:
    """Export a checkpoint, or the packaged one if None, to the ONNX file `target`.

    The export is compared with PyTorch on random crops and on those of `data`, (name, path) of data sets.
    Without data, `crops` returns real ones for the card's crop_scale, `(n, 48, 48) uint8`. With `int8` the
    encoder computes in int8, and both precisions are measured on the data. As in `analyze`, predictions
    average over the mirror image.

    Raises FerBatchError, and writes nothing, if the checkpoint, the data or `target` cannot be used, or if
    the predictions differ.
    """
    _check_target(target)
    if int8 and not data:
        raise ConfigError(
            "--int8 needs --data NAME=PATH: labelled faces to set the ranges on and to measure accuracy on"
        )
    network, card = load_checkpoint(checkpoint)
    clips = load_datasets(data, classes=card.classes, for_training=int8)[0] if data else None
    calibration, measured = _split_data(clips, data) if clips and int8 else (None, None)
    compared = np.zeros((0, CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)
    if clips:
        compared = _sample(clips.frames, MAX_COMPARED_CROPS)
    elif crops:
        compared = crops(card.crop_scale)
    on_line("exporting …")
    exported = export_network(network, card)
    model = join_graphs(exported)
    on_line(f"comparing with PyTorch on random crops and {len(compared)} real ones …")
    difference = check_against_torch(model, network, card, compared)
    precision = None
    with tempfile.TemporaryDirectory() as folder:
        files = {"float32": Path(folder) / "float32.onnx", "int8": Path(folder) / "int8.onnx"}
        files["float32"].write_bytes(model)
        if calibration and measured:
            ranges = _sample(calibration.frames, CALIBRATION_CROPS)
            on_line(f"int8: setting ranges by {len(ranges)} crops of the split train …")
            model = join_graphs(quantize_encoder(exported, ranges))
            files["int8"].write_bytes(model)
            on_line(f"int8: measuring on {len(measured)} examples of the split {measured.splits[0]} …")
            recognizers = {name: Recognizer(path, "cpu") for name, path in files.items()}
            precision = compare_precisions(recognizers, measured)
        model_id = Recognizer(files["int8" if int8 else "float32"], "cpu").card.model_id
    with convert_write_error(target):
        write_bytes(target, model)
    return ExportSummary(
        model_id=model_id,
        source_id=card.model_id,
        size_bytes=len(model),
        compared_crops=len(compared),
        difference=difference,
        precision=precision,
    )


def compare_precisions(recognizers: dict[str, Recognizer], clips: Clips) -> PrecisionComparison:
    """Measure two recognizers, by their names, on clips of one split."""
    probs = {name: predict(recognizer, clips) for name, recognizer in recognizers.items()}
    scores = {name: score_confusions(count_confusions(p, clips.labels)[None]) for name, p in probs.items()}
    first, second = (values.argmax(axis=1) for values in probs.values())
    return PrecisionComparison(
        split=str(clips.splits[0]),
        n=len(clips),
        accuracy={name: float(values["accuracy"][0]) for name, values in scores.items()},
        macro_f1={name: float(values["macro_f1"][0]) for name, values in scores.items()},
        agreement=float((first == second).mean()),
    )


def _check_target(target: Path) -> None:
    if target.suffix.lower() != ".onnx":
        raise ConfigError(f"-o must be a file that ends in .onnx to export a checkpoint, got {target}")
    if target.is_dir():
        raise OutputError(f"{target} is a folder; give a file that ends in .onnx")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.absolute().parent}")


def _split_data(clips: Clips, data: Sequence[tuple[str, str]]) -> tuple[Clips, Clips]:
    """Return the clips to set the int8 ranges on, and those to measure it on."""
    present = set(clips.splits.tolist())
    split = next((name for name in MEASURED_SPLITS if name in present), None)
    if "train" not in present or split is None:
        options = ", ".join(f"--data {name}={path}" for name, path in data)
        raise InputError(
            f"{options}: --int8 needs the split train, and select or test; found {', '.join(sorted(present))}"
        )
    return clips.take(clips.splits == "train"), clips.take(clips.splits == split)


def _sample(frames: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` crops, drawn evenly and always the same."""
    return frames[np.random.default_rng(0).permutation(len(frames))[:count]]
