"""Extract the faces of a segment: decode, detect, track and crop. This module does not use Ray."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from fer_batch.config import CROP_SIZE_PX, AnalyzeConfig
from fer_batch.errors import DecodeError, NoVideoError
from fer_batch.faults import fault_point
from fer_batch.timing import StageTimer
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import Frame
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.vision.continuity import FrameView
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import Detections
from fer_batch.vision.quality import estimate_pose_deg, measure_sharpness
from fer_batch.vision.schedule import detect_in_frames
from fer_batch.vision.track import Tracker

MIN_MISSING_S = 1.0
"""A segment without frames is damaged if its container promises more than this."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A sampled frame of the core, as in `schema.MOMENT_TYPE`."""

    time_s: float
    frame_index: int
    faces: int


@dataclass(frozen=True, kw_only=True)
class TrackedFace:
    """A face in a sampled frame, as in `schema.FACE_TYPE`."""

    time_s: float
    frame_index: int
    """Counts from the first frame of the core; -1 outside the core."""
    track: int
    box_x0: float
    box_y0: float
    box_x1: float
    box_y1: float
    """The box in shares of the frame's width and height, 0–1."""
    face_score: float
    face_px: float
    """Height of the face in pixels of the stored frame."""
    blur: float
    """Sharpness of the crop, see `quality.measure_sharpness`."""
    roll_deg: float
    yaw_deg: float
    pitch_deg: float
    """The pose of the head in degrees, see `quality.estimate_pose_deg`."""


@dataclass(frozen=True, kw_only=True)
class SegmentFaces:
    """The faces of a segment, core and padding."""

    status: str
    """"ok", "partial", "failed" or "no_video"."""
    error: str | None
    info: VideoInfo | None
    """None if the video could not be opened."""
    read_s: float
    """End of the last frame that could be read, in seconds of the video."""
    frames: int
    """Decoded frames in the core."""
    moments: list[Moment]
    """Sampled frames in the core, in order of time."""
    faces: list[TrackedFace]
    """In order of time, and from left to right in each frame."""
    crops: np.ndarray
    """`(len(faces), 48, 48) uint8` grey."""
    timer: StageTimer
    """Times of "decode", "detect", "track" and "crop"."""


def extract_faces(
    segment: Segment,
    config: AnalyzeConfig,
    detector: FaceDetector,
    crop_scale: float,
    prefetch: int = 0,
    heartbeat: Callable[[float], None] = lambda time_s: None,
    on_packet: Callable[[], None] = lambda: None,
    gpu: int | None = None,
) -> SegmentFaces:
    """Decode a segment, and detect, track and crop its faces.

    `crop_scale` is the height of a crop over the height of its face box. With `prefetch`, a thread decodes up
    to this many frames in advance. `heartbeat` is called with the time of each sampled frame, and `on_packet`
    for each packet of the file, by the thread that reads it. A file that cannot be read is reported in
    `status` and `error`, never as an exception. With the number of a `gpu`, it decodes, and only a segment
    that is not "ok" with it is read again in software: the error may be the GPU's.
    """
    fps = None if config.every_frame else config.fps
    reader = SegmentReader(segment, fps, fast=config.fast, prefetch=prefetch, on_packet=on_packet, gpu=gpu)
    report = reader.report
    moments: list[Moment] = []
    faces: list[TrackedFace] = []
    crops = [np.zeros((0, CROP_SIZE_PX, CROP_SIZE_PX), np.uint8)]
    timer = StageTimer()
    info = None
    tracker = Tracker(config.max_gap_s)
    empty_status = "failed"
    try:
        info = reader.open()
        aspect = info.pixel_aspect
        frames = _send_heartbeats(iter(reader), heartbeat)
        interval_s = 1 / min(info.fps, fps or math.inf)
        step_s = 1 / (fps or info.fps)
        tracker = Tracker(max(config.max_gap_s, 1.5 * step_s), step_s)
        for sampled in detect_in_frames(frames, detector, config.search_s, interval_s, aspect, timer):
            frame, found = sampled.frame, sampled.faces
            boxes = found.boxes / np.array([aspect, 1, aspect, 1], np.float32)
            view = FrameView.from_frame(frame, boxes, aspect)
            tracks = tracker.update(frame.time_s, found.boxes / frame.picture.height, view)
            timer.record("track")
            if config.max_faces is not None:
                areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
                largest = np.sort(np.argsort(-areas, kind="stable")[: config.max_faces])
                found, tracks, boxes = found.take(largest), tracks[largest], boxes[largest]
            frame_crops = crop_faces(frame.picture, boxes, crop_scale, aspect)
            if frame.index >= 0:
                moments.append(Moment(time_s=frame.time_s, frame_index=frame.index, faces=len(tracks)))
            faces += _describe_faces(frame, tracks, boxes, found, frame_crops)
            crops.append(frame_crops)
            timer.record("crop")
    except NoVideoError:
        empty_status = "no_video"
    except DecodeError:
        pass  # the report has the reason
    info = reader.info or info  # whether the clock breaks is known only now
    problem = report.error
    if not report.frames and not problem and _compute_promised_s(segment, info) > MIN_MISSING_S:
        problem = "the file has no frames where its container promises some"
    if problem and gpu is not None:
        return extract_faces(segment, config, detector, crop_scale, prefetch, heartbeat, on_packet)
    return SegmentFaces(
        status="ok" if not problem else "partial" if report.frames else empty_status,
        error=problem,
        info=info,
        read_s=report.read_s,
        frames=report.frames,
        moments=moments,
        faces=[replace(face, track=tracker.correct_track(face.track, face.time_s)) for face in faces],
        crops=np.concatenate(crops),
        timer=timer,
    )


def _send_heartbeats(frames: Iterator[Frame], heartbeat: Callable[[float], None]) -> Iterator[Frame]:
    for frame in frames:
        fault_point("faces.moment")
        heartbeat(frame.time_s)
        yield frame


def _describe_faces(
    frame: Frame, tracks: np.ndarray, boxes: np.ndarray, found: Detections, crops: np.ndarray
) -> list[TrackedFace]:
    """Return the faces of a frame; `boxes` are those of `found` in pixels of the picture."""
    width, height = frame.picture.width, frame.picture.height
    columns = (
        tracks,
        *np.clip(boxes / np.array([width, height, width, height]), 0, 1).T,
        found.scores,
        (boxes[:, 3] - boxes[:, 1]) * frame.picture.shrink,
        measure_sharpness(crops),
        *estimate_pose_deg(found.landmarks).T,
    )
    names = list(TrackedFace.__dataclass_fields__)[2:]
    return [
        TrackedFace(time_s=frame.time_s, frame_index=frame.index, **dict(zip(names, values, strict=True)))
        for values in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _compute_promised_s(segment: Segment, info: VideoInfo | None) -> float:
    """Return the seconds of the core that the container promises. A manifest's duration may be wrong."""
    end_s = segment.core_end_s
    if segment.first_pts is None:
        end_s = min(end_s, (info.duration_s if info else None) or 0)
    return end_s - segment.core_start_s
