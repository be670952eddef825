"""Command `export-model`."""

from pathlib import Path
from typing import TYPE_CHECKING

from fer_batch.cli.analyze import SAMPLE
from fer_batch.cli.app import TRAIN, add_command
from fer_batch.cli.arguments import DataSets, FileName, OutputFile, check_data_exists
from fer_batch.cli.default_names import choose_free_name
from fer_batch.cli.output import print_line, print_status
from fer_batch.config import CROP_SIZE_PX, AnalyzeConfig

if TYPE_CHECKING:
    import numpy as np


@add_command(TRAIN)
def export_model_command(
    checkpoint: FileName, /, *, output: OutputFile | None = None, int8: bool = False, data: DataSets = ()
) -> None:
    """Write a checkpoint as an ONNX file.

    The file takes grey face crops and returns calibrated probabilities; its metadata has the card. Any ONNX
    runtime runs it, and so does --checkpoint of `analyze`, `evaluate` and `bench`. It is written only if
    onnxruntime's probabilities differ from PyTorch's by at most 0.0001, on random crops and on real ones: of
    --data, or else of the packaged sample video.

    Args:
        checkpoint: A .safetensors file, the folder of a training run, or `default`.
        output: File to write: .onnx. An existing file is replaced. By default CHECKPOINT.onnx in the current
            folder, with a number if there is such a file.
        int8: Quantize the encoder, which makes it smaller and faster. The ranges come from the training split
            of --data; accuracy is measured on its selection split, or else on its test split.

    Examples:
      fer-batch export-model default -o model.onnx                          the packaged checkpoint
      fer-batch export-model runs/first/model.safetensors -o model.onnx     your own checkpoint
      fer-batch export-model default -o small.onnx --int8 --data fer2013=fer2013.parquet
    """
    check_data_exists(data)
    from fer_batch.evaluation.export import export_model

    target = output or choose_free_name(Path(checkpoint).resolve().stem, ".onnx")
    summary = export_model(
        None if checkpoint == "default" else Path(checkpoint),
        target,
        crops=_sample_crops,
        data=data,
        int8=int8,
        on_line=print_status,
    )
    source = "of the data" if data else "of the packaged sample video"
    print_line(f"{target}: {summary.model_id}, from {summary.source_id}, {summary.size_bytes / 1e6:.1f} MB")
    print_line(
        f"  largest difference of a probability from PyTorch's{', before int8' * int8}: "
        f"{summary.difference:.1e}, on random crops and {summary.compared_crops} {source}"
    )
    if summary.precision is None:
        return
    precision = summary.precision
    print_line(f"  on {precision.n:,} examples of the split {precision.split}, float32 → int8:")
    for values, name in ((precision.accuracy, "accuracy"), (precision.macro_f1, "macro-F1")):
        before, after = values["float32"], values["int8"]
        print_line(f"    {name} {before:.4f} → {after:.4f} ({after - before:+.4f})")
    print_line(f"    the same prediction for {precision.agreement:.2%}")


def _sample_crops(crop_scale: float) -> "np.ndarray":
    """Return the faces of the packaged sample video, `(n, 48, 48) uint8`."""
    import numpy as np

    from fer_batch.pipeline.stages import FacesStage
    from fer_batch.video.segment import Segment

    stage = FacesStage(AnalyzeConfig(), crop_scale)
    crops = stage.extract_faces(Segment.whole(SAMPLE)).column("crops")[0].as_py()
    return np.frombuffer(crops, np.uint8).reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX)
