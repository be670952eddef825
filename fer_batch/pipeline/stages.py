"""The stages of the pipeline: callables from one Arrow table of bundles to another. They do not use Ray."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from fer_batch.config import CROP_SIZE_PX, AnalyzeConfig
from fer_batch.faults import fault_point
from fer_batch.model.recognize import Recognizer
from fer_batch.pipeline.offload import OffloadingDetector
from fer_batch.schema import (
    CONTAINER_COLUMNS,
    FACES_SCHEMA,
    PLAN_SCHEMA,
    RESULTS_SCHEMA,
    map_bundles,
)
from fer_batch.timing import StageTimer
from fer_batch.video.segment import Segment
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import extract_faces

MEASURED_BATCHES = 8
"""Batches with which the rate of recognition is measured."""
CHECK_SIDE_PX = 64
"""Side of the black picture with which a stage checks its networks."""


class FacesStage:
    """Decode segments, detect and track their faces, and crop them.

    It maps `bundle_schema(PLAN_SCHEMA)` to `bundle_schema(FACES_SCHEMA)`, on a GPU if this process sees one.
    With `prefetch`, a second thread decodes up to that number of sampled frames ahead. With `offload`, the
    stage requests the results of the networks from the process that holds it. With the number of a `gpu`,
    that GPU decodes.
    """

    def __init__(
        self,
        config: AnalyzeConfig,
        crop_scale: float,
        prefetch: int = 0,
        offload: bool = False,
        gpu: int | None = None,
    ) -> None:
        self.config, self.crop_scale, self.prefetch, self.gpu = config, crop_scale, prefetch, gpu
        self.request: Callable[[pa.Table], pa.Table] = lambda views: pa.table({})
        """Callback that answers views with the boxes in them, see `offload.OffloadingDetector`."""
        if offload:
            torch.set_num_threads(1)
            self.detector: FaceDetector = OffloadingDetector(config, self._request)
        else:
            self.detector = FaceDetector(config.min_face, config.min_score, _select_device())
        self.timer = StageTimer()
        """Total time of "decode", "detect", "track" and "crop"."""
        self.heartbeat: Callable[[float], None] = lambda time_s: None
        """Callback that receives the time of each sampled frame after it is decoded."""
        self.keep_alive: Callable[[], None] = lambda: None
        """Callback for each packet of a file, from the thread that reads it."""

    def _request(self, views: pa.Table) -> pa.Table:
        return self.request(views)

    def check(self) -> None:
        """Run the networks once; raises where the device cannot."""
        fault_point("faces.check")
        self.detector.detect(np.zeros((CHECK_SIDE_PX, CHECK_SIDE_PX), np.uint8))

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return map_bundles(bundles, PLAN_SCHEMA, FACES_SCHEMA, self._find_faces)

    def _find_faces(self, plan: pa.Table) -> pa.Table:
        tables = map(self.extract_faces, Segment.from_table(plan))
        return pa.concat_tables([FACES_SCHEMA.empty_table(), *tables])

    def extract_faces(self, segment: Segment, on_gpu: bool = True) -> pa.Table:
        """Map one segment to a table with one row of FACES_SCHEMA. Without `on_gpu`, software decodes it."""
        fault_point("faces.segment")
        self.detector.searched_on.clear()
        faces = extract_faces(
            segment,
            self.config,
            self.detector,
            self.crop_scale,
            self.prefetch,
            self.heartbeat,
            self.keep_alive,
            self.gpu if on_gpu else None,
        )
        self.timer.add(faces.timer)
        row = {
            **segment.to_row(),
            "status": faces.status,
            "error": faces.error,
            "read_s": faces.read_s,
            "frames": faces.frames,
            "moments": [vars(moment) for moment in faces.moments],
            "faces": [vars(face) for face in faces.faces],
            "crops": faces.crops.tobytes(),
            "decode_s": faces.timer.wall_s["decode"],
            "detect_s": faces.timer.wall_s["detect"] + faces.timer.wall_s["track"],
            "crop_s": faces.timer.wall_s["crop"],
            "detected_on": ", ".join(sorted(self.detector.searched_on)) or None,
            **{name: getattr(faces.info, name, None) for name in CONTAINER_COLUMNS},
        }
        return pa.Table.from_pylist([row], schema=FACES_SCHEMA)


class RecognizeStage:
    """Encode the crops of faces and classify each face.

    It maps `bundle_schema(FACES_SCHEMA)` to `bundle_schema(RESULTS_SCHEMA)`, on a GPU if this process sees
    one. The segments of a bundle share the model's batches, which does not change any prediction.
    """

    def __init__(self, checkpoint: Path | None, flip: bool, precision: str = "auto") -> None:
        self.recognizer = Recognizer(checkpoint, _select_device(), flip, precision)
        self.keep_alive: Callable[[], None] = lambda: None
        """Callback for each batch."""
        self.recognizer.on_batch = self._report_batch

    def check(self) -> None:
        """Run the network once; raises where the device cannot."""
        fault_point("recognize.check")
        self.recognizer.predict(np.zeros((CROP_SIZE_PX, CROP_SIZE_PX), np.uint8))

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return map_bundles(bundles, FACES_SCHEMA, RESULTS_SCHEMA, self._recognize)

    def measure_rate(self) -> pa.Table:
        """Measure how many faces per second are recognized: a table with one row and `faces_per_s`."""
        faces = MEASURED_BATCHES * self.recognizer.batch_size
        crops = np.zeros((faces, CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)
        track, times_s, selected = np.zeros(faces, np.int64), np.arange(faces) / 5, np.ones(faces, bool)
        for _ in range(2):  # a GPU chooses its algorithms in the first pass
            began = time.perf_counter()
            self.recognizer.predict_tracks(crops, track, times_s, selected)
        return pa.table({"faces_per_s": [faces / (time.perf_counter() - began)]})

    def _report_batch(self) -> None:
        self.keep_alive()

    def _recognize(self, rows: pa.Table) -> pa.Table:
        fault_point("recognize.faces")
        began = time.perf_counter()
        segments = rows.to_pylist()
        crops = np.frombuffer(b"".join(segment.pop("crops") for segment in segments), np.uint8)
        faces = [face for segment in segments for face in segment["faces"]]
        counts = np.array([len(segment["faces"]) for segment in segments], np.int64)
        times_s = np.array([face["time_s"] for face in faces], np.float64)
        in_core = np.array([face["frame_index"] >= 0 for face in faces], bool)
        probs = self.recognizer.predict_tracks(
            crops.reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX), _number_tracks(faces, counts), times_s, in_core
        )
        for face, is_in_core, face_probs in zip(faces, in_core.tolist(), probs.tolist(), strict=True):
            face["probs"] = face_probs if is_in_core else []
        shares_s = (time.perf_counter() - began) * counts / max(counts.sum(), 1)
        for segment, share_s in zip(segments, shares_s.tolist(), strict=True):
            segment |= {"model_id": self.recognizer.card.model_id, "recognize_s": share_s}
            segment["precision"] = self.recognizer.precision
        return pa.Table.from_pylist(segments, schema=RESULTS_SCHEMA)


class AnalyzeStage(FacesStage):
    """Both stages in one process, so that no crops cross between processes.

    It maps `bundle_schema(PLAN_SCHEMA)` to `bundle_schema(RESULTS_SCHEMA)`.
    """

    def __init__(
        self,
        config: AnalyzeConfig,
        crop_scale: float,
        checkpoint: Path | None,
        prefetch: int = 0,
        offload: bool = False,
    ) -> None:
        super().__init__(config, crop_scale, prefetch, offload)
        self.recognize = RecognizeStage(checkpoint, config.flip, config.precision)
        self.recognize.keep_alive = self._report_batch

    def check(self) -> None:
        """Run all networks once; raises where the device cannot."""
        super().check()
        self.recognize.check()

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return self.recognize(super().__call__(bundles))

    def _report_batch(self) -> None:
        self.keep_alive()


def _number_tracks(faces: list[dict[str, Any]], counts: np.ndarray) -> np.ndarray:
    """Return track numbers `(n,) int64` that are unique across segments, which have `counts` faces each."""
    segment = np.repeat(np.arange(len(counts)), counts)
    track = np.array([face["track"] for face in faces], np.int64)
    return segment * (track.max(initial=0) + 1) + track


def _select_device() -> str:
    """Return "cuda" if this process sees a GPU, else "cpu" with one thread: workers share the cores."""
    if torch.cuda.is_available():
        # TF32 would make rows depend on the GPU: older ones and CPUs do not have it.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"
