"""The pipeline's stages: callables from Arrow table to Arrow table, each a bundle to a bundle. Nothing of
Ray here.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.model.recognize import Recognizer
from fer_batch.schema import (
    CONTAINER_COLUMNS,
    FACES_SCHEMA,
    PLAN_SCHEMA,
    RESULTS_SCHEMA,
    bundle_schema,
    pack_bundle,
    unpack_bundles,
)
from fer_batch.timing import StageTimer
from fer_batch.video.segment import Segment
from fer_batch.vision.crop import CROP_SIZE
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import extract_faces


class FacesStage:
    """Planned segments to faces and crops: `bundle_schema(PLAN_SCHEMA)` to `bundle_schema(FACES_SCHEMA)`,
    on the CPU or a share of a GPU, which it has if there is one, unless `gpu` is False. With `ahead`, a
    second thread decodes up to so many moments ahead of the detector.
    """

    def __init__(self, config: AnalyzeConfig, crop_scale: float, ahead: int = 0, gpu: bool = True) -> None:
        self.config, self.crop_scale, self.ahead = config, crop_scale, ahead
        self.detector = FaceDetector(config.min_face, config.min_score, _device(gpu))
        self.timer = StageTimer()
        """Of all that it has done: "decode", "detect", "track" and "crop"."""
        self.heartbeat: Callable[[float], None] = lambda time_s: None
        """Called with the time of each moment that was decoded."""

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return _segments_through(
            bundles, PLAN_SCHEMA, FACES_SCHEMA, lambda segments: [self._faces(s) for s in segments]
        )

    def extract_faces(self, segment: dict[str, Any]) -> pa.Table:
        """One planned segment, a row of PLAN_SCHEMA, to a row of FACES."""
        return pa.Table.from_pylist([self._faces(segment)], schema=FACES_SCHEMA)

    def _faces(self, segment: dict[str, Any]) -> dict[str, Any]:
        seen = extract_faces(
            Segment.from_row(segment),
            self.config,
            self.detector,
            self.crop_scale,
            self.ahead,
            self.heartbeat,
        )
        self.timer.add(seen.timer)
        return {
            **{name: segment[name] for name in FACES_SCHEMA.names if name in segment},
            "status": seen.status,
            "error": seen.error,
            "read_s": seen.read_s,
            "frames": seen.frames,
            "moments": [moment.to_dict() for moment in seen.moments],
            "faces": [face.to_dict() for face in seen.faces],
            "crops": seen.crops.tobytes(),
            "decode_s": seen.timer.wall_s["decode"],
            "detect_s": seen.timer.wall_s["detect"] + seen.timer.wall_s["track"],
            "crop_s": seen.timer.wall_s["crop"],
            **{name: getattr(seen.info, name, None) for name in CONTAINER_COLUMNS},
        }


class RecognizeStage:
    """Faces and crops to answers: `bundle_schema(FACES_SCHEMA)` to `bundle_schema(RESULTS_SCHEMA)`, on the
    CPU or a share of a GPU.

    All segments that come together, of however many videos, share the batches of the model.
    """

    def __init__(self, checkpoint: Path | None, flip: bool) -> None:
        self.recognizer = Recognizer(checkpoint, _device(), flip)

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return _segments_through(bundles, FACES_SCHEMA, RESULTS_SCHEMA, self._answers)

    def _answers(self, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        crops = np.frombuffer(b"".join(s.pop("crops") for s in segments), np.uint8)
        faces = [face for segment in segments for face in segment["faces"]]
        counts = np.array([len(segment["faces"]) for segment in segments], np.int64)
        times = np.array([face["time_s"] for face in faces], np.float64)
        in_core = np.array([face["frame_index"] >= 0 for face in faces], bool)
        probs = self.recognizer.predict_tracks(
            crops.reshape(-1, CROP_SIZE, CROP_SIZE), _tracks_apart(faces, counts), times, in_core
        )
        for face, inside, values in zip(faces, in_core.tolist(), probs.tolist(), strict=True):
            face["probs"] = values if inside else []
        recognize_s = (time.perf_counter() - began) * counts / max(counts.sum(), 1)
        answer = {"model_id": self.recognizer.card.model_id}
        return [
            {**segment, **answer, "recognize_s": share}
            for segment, share in zip(segments, recognize_s.tolist(), strict=True)
        ]


class AnalyzeStage:
    """From files to answers in one process, so that nothing but answers crosses: what runs where there is
    no GPU.
    """

    def __init__(
        self, config: AnalyzeConfig, crop_scale: float, checkpoint: Path | None, ahead: int = 0
    ) -> None:
        self.faces = FacesStage(config, crop_scale, ahead)
        self.recognize = RecognizeStage(checkpoint, config.flip)

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return self.recognize(self.faces(bundles))

    def extract_faces(self, segment: dict[str, Any]) -> pa.Table:
        """As `FacesStage.extract_faces`."""
        return self.faces.extract_faces(segment)

    @property
    def heartbeat(self) -> Callable[[float], None]:
        """As that of `FacesStage`."""
        return self.faces.heartbeat

    @heartbeat.setter
    def heartbeat(self, sign: Callable[[float], None]) -> None:
        self.faces.heartbeat = sign


def _tracks_apart(faces: list[dict[str, Any]], counts: np.ndarray) -> np.ndarray:
    """Track numbers `(n,) int64` of the faces of segments, `counts` each, that no two segments share."""
    segment = np.repeat(np.arange(len(counts)), counts)
    track = np.array([face["track"] for face in faces], np.int64)
    return segment * (track.max(initial=0) + 1) + track


def _segments_through(
    bundles: pa.Table,
    given: pa.Schema,
    made: pa.Schema,
    work: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
) -> pa.Table:
    """The segments of all bundles through `work`, a row a segment, and back into their bundles."""
    rows = iter(work(unpack_bundles(bundles, given).to_pylist()))
    counts = pc.list_value_length(bundles.column("segments")).to_pylist()
    parts = [
        pack_bundle(bundle_id, pa.Table.from_pylist(list(itertools.islice(rows, count)), schema=made))
        for bundle_id, count in zip(bundles.column("bundle_id").to_pylist(), counts, strict=True)
    ]
    return pa.concat_tables([bundle_schema(made).empty_table(), *parts])


def _device(gpu: bool = True) -> str:
    """The GPU that Ray gave this worker, else the CPU, on one thread: workers share the cores between
    them.
    """
    if gpu and torch.cuda.is_available():
        return "cuda"
    torch.set_num_threads(1)
    return "cpu"
