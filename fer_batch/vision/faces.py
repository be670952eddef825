"""A segment of a video in, its faces and their crops out: decode, detect, track, crop. Knows nothing of
Ray.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.faults import fault_point
from fer_batch.timing import StageTimer
from fer_batch.video.reader import TIME_TOLERANCE_S, Frame, Reading, VideoInfo, read_segment
from fer_batch.vision.crop import CROP_SIZE, crop_faces
from fer_batch.vision.detect import Detections, FaceDetector
from fer_batch.vision.follow import detect_in_frames
from fer_batch.vision.quality import estimate_roll_deg, estimate_yaw, measure_sharpness
from fer_batch.vision.track import Tracker


@dataclass(frozen=True, kw_only=True)
class SegmentFaces:
    """What was seen in a segment, core and overlap."""

    status: str
    """"ok", "partial", "failed" or "no_video"."""
    error: str | None
    info: VideoInfo | None
    """What the container says, where it could be opened."""
    read_s: float
    frames: int
    moments: list[dict[str, Any]]
    """Of the core only, as in `schema.MOMENT_TYPE`."""
    faces: list[dict[str, Any]]
    """As in `schema.FACE_TYPE`, in order of time."""
    crops: np.ndarray
    """`(len(faces), 48, 48) uint8` grey."""
    timer: StageTimer
    """Of "decode", "detect", "track" and "crop"."""


def extract_faces(
    segment: dict[str, Any],
    config: AnalyzeConfig,
    detector: FaceDetector,
    crop_scale: float,
    ahead: int = 0,
    heartbeat: Callable[[float], None] = lambda time_s: None,
) -> SegmentFaces:
    """Look at one segment, a row of `schema.PLAN_SCHEMA`. Trouble with the file ends in `status` and `error`.

    With `ahead`, a thread decodes up to so many moments before they are looked at. `heartbeat` is called with
    the time of each moment that was decoded.
    """
    last = segment["index"] == segment["segments"] - 1
    core_end = math.inf if last else segment["core_end_s"]
    reading = Reading(
        core_start_s=segment["core_start_s"] - TIME_TOLERANCE_S, core_end_s=core_end - TIME_TOLERANCE_S
    )
    moments: list[dict[str, Any]] = []
    faces: list[dict[str, Any]] = []
    crops: list[np.ndarray] = []
    timer = StageTimer()
    info = None
    state = "failed"
    try:
        info, frames = read_segment(
            segment["uri"],
            segment["start_s"],
            math.inf if last else segment["end_s"],
            None if config.every_frame else config.fps,
            None if segment["segments"] == 1 else segment["first_pts"],
            reading,
            fast=config.fast,
            ahead=ahead,
            offset=segment["offset"],
        )
        frames = _with_heartbeats(frames, heartbeat)
        moment_s = 1 / min(info.fps, math.inf if config.every_frame else config.fps)
        tracker = Tracker(max(config.max_gap_s, 1.5 * moment_s))
        for look in detect_in_frames(frames, detector, config.search_s, moment_s, info.pixel_aspect, timer):
            frame, found = look.frame, look.found
            if look.cut:
                tracker.cut()
            tracks = tracker.update(frame.time_s, found.boxes)
            timer.record("track")
            if config.max_faces is not None:
                largest = _largest(found.boxes, config.max_faces)
                found, tracks = found.take(largest), tracks[largest]
            boxes = found.boxes / np.array([info.pixel_aspect, 1, info.pixel_aspect, 1], np.float32)
            cut = crop_faces(frame.picture, boxes, crop_scale, info.pixel_aspect)
            if frame.index >= 0:
                moments.append({"time_s": frame.time_s, "frame_index": frame.index, "faces": len(tracks)})
            faces += _rows(frame, tracks, boxes, found, cut)
            crops.append(cut)
            timer.record("crop")
    except NoVideoError as error:
        reading.problem, state = str(error), "no_video"
    except DecodeError as error:
        reading.problem = str(error)
    problem = reading.error
    if not reading.frames and not problem and _promised_s(segment, info) > 1.0:
        problem = "the file has no frames where its container promises some"
    return SegmentFaces(
        status="ok" if not problem else "partial" if reading.frames else state,
        error=problem,
        info=info,
        read_s=reading.read_s,
        frames=reading.frames,
        moments=moments,
        faces=faces,
        crops=np.concatenate(crops) if crops else np.zeros((0, CROP_SIZE, CROP_SIZE), np.uint8),
        timer=timer,
    )


def _largest(boxes: np.ndarray, most: int) -> np.ndarray:
    """Which of the boxes `(n, 4)` xyxy are the `most` largest by area, in their order, the first of equal
    ones.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.sort(np.argsort(-areas, kind="stable")[:most])


def _promised_s(segment: dict[str, Any], info: VideoInfo | None) -> float:
    """Seconds of a segment's core that the container says there are; a manifest's owner may be mistaken."""
    end_s: float = segment["core_end_s"]
    if segment["first_pts"] is None:
        end_s = min(end_s, (info.duration_s if info else None) or 0)
    return end_s - float(segment["core_start_s"])


def _with_heartbeats(frames: Iterator[Frame], heartbeat: Callable[[float], None]) -> Iterator[Frame]:
    for frame in frames:
        fault_point("faces.moment")
        heartbeat(frame.time_s)
        yield frame


def _rows(
    frame: Frame, tracks: np.ndarray, boxes: np.ndarray, found: Detections, crops: np.ndarray
) -> list[dict[str, Any]]:
    """Faces of a moment as in `schema.FACE_TYPE`; `boxes` are those found, in pixels of the picture."""
    width, height = frame.picture.width, frame.picture.height
    shares = np.clip(boxes / np.array([width, height, width, height]), 0, 1)
    columns = {
        "track": tracks,
        "box_x0": shares[:, 0],
        "box_y0": shares[:, 1],
        "box_x1": shares[:, 2],
        "box_y1": shares[:, 3],
        "face_score": found.scores,
        "face_px": (boxes[:, 3] - boxes[:, 1]) * frame.picture.shrink,
        "blur": measure_sharpness(crops),
        "roll_deg": estimate_roll_deg(found.landmarks),
        "yaw": estimate_yaw(found.landmarks),
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
