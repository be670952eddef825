"""The pipeline's stages: callables from Arrow table to Arrow table, each a bundle to a bundle. Nothing of
Ray here.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fer_batch.archive.listing import Source
from fer_batch.archive.probe import probe_video
from fer_batch.config import AnalyzeConfig
from fer_batch.model.recognize import Recognizer
from fer_batch.schema import FACES, PLAN, PROBED, RESULTS, from_bundle, to_bundle
from fer_batch.vision.crop import CROP_SIZE
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import segment_faces


def probe_stage(sources: pa.Table) -> pa.Table:
    """Listed files (`video_id`, `version`, `uri`, `size_bytes`, `error`) to rows of `schema.PROBED`."""
    return pa.Table.from_pylist([probe_video(Source(**row)) for row in sources.to_pylist()], schema=PROBED)


class FacesStage:
    """Planned segments to faces and crops: `bundled(PLAN)` to `bundled(FACES)`, on the CPU or a share of a
    GPU.
    """

    def __init__(self, config: AnalyzeConfig, crop_scale: float) -> None:
        device = _device()
        self.config, self.crop_scale = config, crop_scale
        self.detector = FaceDetector(config.min_face, config.min_score, device)

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return _each_segment(bundles, PLAN, FACES, self._faces)

    def _faces(self, segment: dict[str, Any]) -> dict[str, Any]:
        seen = segment_faces(segment, self.config, self.detector, self.crop_scale)
        return {
            **{name: segment[name] for name in FACES.names if name in segment},
            "status": seen.status,
            "error": seen.error,
            "read_s": seen.read_s,
            "frames": seen.frames,
            "moments": seen.moments,
            "faces": seen.faces,
            "crops": seen.crops.tobytes(),
            **seen.timings,
        }


class RecognizeStage:
    """Faces and crops to answers: `bundled(FACES)` to `bundled(RESULTS)`, on the CPU or a share of a GPU."""

    def __init__(self, checkpoint: Path | None, flip: bool) -> None:
        self.recognizer = Recognizer(checkpoint, _device(), flip)

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return _each_segment(bundles, FACES, RESULTS, self._answers)

    def _answers(self, segment: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        crops = np.frombuffer(segment.pop("crops"), np.uint8).reshape(-1, CROP_SIZE, CROP_SIZE)
        faces = segment["faces"]
        tracks = np.array([f["track"] for f in faces], np.int64)
        times = np.array([f["time_s"] for f in faces], np.float64)
        in_core = np.array([f["frame_index"] >= 0 for f in faces], bool)
        probs = self.recognizer.recognize(crops, tracks, times, in_core)
        for face, inside, values in zip(faces, in_core, probs, strict=True):
            face["probs"] = values.tolist() if inside else []
        model_id = self.recognizer.card.model_id
        return {**segment, "model_id": model_id, "recognize_s": time.perf_counter() - began}


class AnalyzeStage:
    """From files to answers in one process, so that nothing but answers crosses: what runs where there is
    no GPU.
    """

    def __init__(self, config: AnalyzeConfig, crop_scale: float, checkpoint: Path | None) -> None:
        self.faces = FacesStage(config, crop_scale)
        self.recognize = RecognizeStage(checkpoint, config.flip)

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return self.recognize(self.faces(bundles))


def _each_segment(bundles: pa.Table, given: pa.Schema, made: pa.Schema, work: Any) -> pa.Table:
    parts = []
    for number in range(bundles.num_rows):
        bundle = bundles.slice(number, 1)
        rows = [work(segment) for segment in from_bundle(bundle, given).to_pylist()]
        parts.append(
            to_bundle(bundle.column("bundle_id")[0].as_py(), pa.Table.from_pylist(rows, schema=made))
        )
    return pa.concat_tables(parts)


def _device() -> str:
    """The GPU that Ray gave this worker, else the CPU, on one thread: workers share the cores between
    them.
    """
    if torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"
