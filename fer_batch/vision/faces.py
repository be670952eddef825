"""A segment of a video in, its faces and their crops out: decode, detect, track, crop. Knows nothing of
Ray.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import DecodeError
from fer_batch.vision.crop import CROP_SIZE, crop_faces
from fer_batch.vision.decode import SAME_TIME_S, Frame, Reading, read_info, sampled_frames
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.quality import roll_degrees, sharpness, yaw
from fer_batch.vision.track import Tracker, is_cut

THUMBNAIL = (18, 32)


@dataclass(frozen=True, kw_only=True)
class SegmentFaces:
    """What was seen in a segment, core and overlap."""

    status: str
    """"ok", "partial" or "failed"."""
    error: str | None
    read_s: float
    frames: int
    moments: list[dict[str, Any]]
    """Of the core only, as in `schema.MOMENT`."""
    faces: list[dict[str, Any]]
    """As in `schema.FACE`, in order of time."""
    crops: np.ndarray
    """`(len(faces), 48, 48) uint8` grey."""
    timings: dict[str, float]
    """Seconds of decoding, detection and cropping."""


def segment_faces(
    segment: dict[str, Any], config: AnalyzeConfig, detector: FaceDetector, crop_scale: float
) -> SegmentFaces:
    """Look at one segment, a row of `schema.PLAN`. Trouble with the file ends in `status` and `error`."""
    last = segment["index"] == segment["segments"] - 1
    core_end = math.inf if last else segment["core_end_s"]
    reading = Reading(core_start_s=segment["core_start_s"] - SAME_TIME_S, core_end_s=core_end - SAME_TIME_S)
    timings = dict.fromkeys(("decode_s", "detect_s", "crop_s"), 0.0)
    moments: list[dict[str, Any]] = []
    faces: list[dict[str, Any]] = []
    crops: list[np.ndarray] = []
    try:
        info = read_info(segment["uri"])
        gap_s = max(config.max_gap_s, 1.5 / min(info.fps, math.inf if config.every_frame else config.fps))
        tracker = Tracker(gap_s)
        frames = sampled_frames(
            segment["uri"],
            segment["start_s"],
            math.inf if last else segment["end_s"],
            None if config.every_frame else config.fps,
            None if segment["segments"] == 1 else segment["first_pts"],
            reading,
        )
        before: np.ndarray | None = None
        clock = time.perf_counter()
        for frame in frames:
            clock = _lap(timings, "decode_s", clock)
            thumbnail = _thumbnail(frame.image)
            if before is not None and is_cut(before, thumbnail):
                tracker.cut()
            before = thumbnail
            found = detector.detect(frame.image, info.pixel_aspect)
            square = np.array([info.pixel_aspect, 1, info.pixel_aspect, 1])
            tracks = tracker.update(frame.time_s, found.boxes * square)
            clock = _lap(timings, "detect_s", clock)
            cut = crop_faces(frame.image, found.boxes, crop_scale, info.pixel_aspect)
            landmarks = found.landmarks * square[:2]
            if frame.index >= 0:
                moments.append({"time_s": frame.time_s, "frame_index": frame.index, "faces": len(tracks)})
            faces += _rows(frame, tracks, found.boxes, found.scores, landmarks, cut)
            crops.append(cut)
            clock = _lap(timings, "crop_s", clock)
    except DecodeError as error:
        reading.problem = str(error)
    expected_s = segment["core_end_s"] - segment["core_start_s"]
    problem = reading.error
    if not reading.frames and not problem and expected_s > 1.0:
        problem = f"nothing to read from {segment['core_start_s']:.1f} s on"
    return SegmentFaces(
        status="ok" if not problem else "partial" if reading.frames else "failed",
        error=problem,
        read_s=reading.read_s,
        frames=reading.frames,
        moments=moments,
        faces=faces,
        crops=np.concatenate(crops) if crops else np.zeros((0, CROP_SIZE, CROP_SIZE), np.uint8),
        timings=timings,
    )


def _rows(
    frame: Frame,
    tracks: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    landmarks: np.ndarray,
    crops: np.ndarray,
) -> list[dict[str, Any]]:
    height, width = frame.image.shape[:2]
    shares = np.clip(boxes / np.array([width, height, width, height]), 0, 1)
    columns = {
        "track": tracks,
        "box_x0": shares[:, 0],
        "box_y0": shares[:, 1],
        "box_x1": shares[:, 2],
        "box_y1": shares[:, 3],
        "face_score": scores,
        "face_px": boxes[:, 3] - boxes[:, 1],
        "blur": sharpness(crops),
        "roll_deg": roll_degrees(landmarks),
        "yaw": yaw(landmarks),
    }
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {
            "time_s": frame.time_s,
            "frame_index": frame.index,
            **{name: column[i] for name, column in values.items()},
        }
        for i in range(len(tracks))
    ]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    green = torch.from_numpy(image[::2, ::2, 1].copy())[None, None]
    return F.adaptive_avg_pool2d(green.float(), THUMBNAIL)[0, 0].numpy()


def _lap(timings: dict[str, float], name: str, since: float) -> float:
    now = time.perf_counter()
    timings[name] += now - since
    return now
