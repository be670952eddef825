"""`export` of a checkpoint: a network as ONNX."""

import argparse
import sys
from typing import TYPE_CHECKING

from fer_batch.cli.analyze import SAMPLE
from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from fer_batch.evaluation.export import ExportSummary


def is_of_a_model(options: argparse.Namespace) -> bool:
    """Whether `export` is asked for a network, by where it goes; raises ConfigError where its source says
    something else.
    """
    out, packaged = options.out.path, str(options.out) == "default"
    is_run = out is not None and (out / "run.json").exists()
    if options.format == "onnx" or options.output.suffix.lower() == ".onnx":
        if is_run and not packaged:
            raise ConfigError(
                f"{out} is a run of `analyze`, which holds no model: name a checkpoint (.safetensors), a "
                "training run, or default"
            )
        return True
    is_checkpoint = out is not None and (out.suffix == ".safetensors" or (out / "model.safetensors").exists())
    if (packaged or is_checkpoint) and not is_run:
        raise ConfigError(f"-o is {options.output}; a checkpoint is exported to a file that ends in .onnx")
    if options.int8 or options.data:
        raise ConfigError("--int8 and --data are for checkpoints, which are exported to .onnx")
    return False


def run_export_model(options: argparse.Namespace) -> int:
    """Run the command `export` for a checkpoint."""
    if options.format not in (None, "onnx"):
        raise ConfigError(f"{options.output} is a file of onnx, not of {options.format}")
    if options.videos or options.threshold or options.min_s:
        raise ConfigError("VIDEO, --threshold and --min-s are for runs of `analyze`, not for checkpoints")
    if options.out.path is None:
        raise ConfigError(f"{options.out} is in a store; checkpoints are read from this machine alone")
    from fer_batch.evaluation.export import export_model

    summary = export_model(
        None if str(options.out) == "default" else options.out.path,
        options.output,
        crops=_sample_crops,
        data=options.data or (),
        int8=options.int8,
        on_line=lambda line: print(line, file=sys.stderr, flush=True),
    )
    _print_summary(summary, options)
    return 0


def _print_summary(summary: "ExportSummary", options: argparse.Namespace) -> None:
    source = "of the data" if options.data else "of the packaged sample video"
    print(f"{options.output}: {summary.model_id}, of {summary.source_id}, {summary.size_bytes / 1e6:.1f} MB")
    print(
        f"  largest difference of a probability from PyTorch's{', before int8' * options.int8}: "
        f"{summary.difference:.1e}, on random crops and {summary.compared_crops} {source}"
    )
    if summary.precision is None:
        return
    precision = summary.precision
    print(f"  on {precision.n:,} examples of the split {precision.split}, float32 → int8:")
    for values, name in ((precision.accuracy, "accuracy"), (precision.macro_f1, "macro-F1")):
        before, after = values["float32"], values["int8"]
        print(f"    {name} {before:.4f} → {after:.4f} ({after - before:+.4f})")
    print(f"    the same answer in {precision.agreement:.2%}")


def _sample_crops(crop_scale: float) -> "np.ndarray":
    """The faces of the packaged sample video, `(n, 48, 48) uint8`."""
    import numpy as np

    from fer_batch.config import CROP_SIZE_PX
    from fer_batch.inputs.listing import list_videos
    from fer_batch.inputs.probe import probe_videos
    from fer_batch.inputs.segments import plan_segments
    from fer_batch.pipeline.stages import FacesStage

    config = AnalyzeConfig()
    plan = plan_segments(probe_videos(list_videos([str(SAMPLE)]).sources), config, 0.0, "", 1)
    stage = FacesStage(config, crop_scale, gpu=False)
    seen = b"".join(stage.extract_faces(segment).column("crops")[0].as_py() for segment in plan.to_pylist())
    return np.frombuffer(seen, np.uint8).reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX)
