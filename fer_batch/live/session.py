"""Recognize the faces of a live stream, frame by frame, from the frames so far."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import InputError
from fer_batch.model.recognize import Prediction, Recognizer
from fer_batch.video.changes import ChangeMeter, FrameChanges, sample_plane
from fer_batch.video.container import find_size_problem
from fer_batch.video.planes import MAX_LINES, Frame, Picture
from fer_batch.vision.continuity import FrameView
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import NO_FACES, Detections
from fer_batch.vision.follow import SampledFrame, follow_faces
from fer_batch.vision.images import ImageInput, load_image
from fer_batch.vision.jumps import MIN_OTHER_STEPS, is_shot_cut
from fer_batch.vision.track import Tracker

BATCH_SIZE = 2
"""Images per batch: a face and its mirror image. The batches of `analyze` would be mostly empty."""


@dataclass(frozen=True)
class LiveFace:
    """A face in a frame of a live stream."""

    track: int
    """Number of the face, from 0. It stays the same as long as the face is followed."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom as shares of the frame's width and height, 0–1."""
    score: float
    """Detector score, 0–1."""
    prediction: Prediction

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        place = {"track": self.track, "box": list(self.box), "score": self.score}
        return {**place, **self.prediction.to_dict()}


class LiveSession:
    """Detect, track and recognize the faces of one stream, as `analyze` does for videos.

    Detector, tracker and model are those of `analyze`, but each frame is analyzed before the next ones are
    known: the window of a prediction ends with the current frame, and no face is followed back in time. The
    whole frame is searched while no face is known, every `config.search_s` seconds, and when a face is lost.
    O-Net follows faces in between. Nothing is stored on disk.

    By default, a session creates a detector and a recognizer on the CPU. Sessions can share them within one
    thread. Raises CheckpointError and ConfigError as `Recognizer` does.

        session = fer_batch.LiveSession()
        for face in session.analyze("frame.jpg", time_s=0.0):
            print(face.track, face.box, face.prediction.emotion)
    """

    def __init__(
        self,
        config: AnalyzeConfig | None = None,
        *,
        detector: FaceDetector | None = None,
        recognizer: Recognizer | None = None,
    ) -> None:
        self.config = config = config or AnalyzeConfig()
        self.detector = detector or FaceDetector(config.min_face, config.min_score)
        self.recognizer = recognizer or load_recognizer(config)
        self._tracker = Tracker(max(config.max_gap_s, 1.5 / config.fps), 1 / config.fps)
        self._meter = ChangeMeter()
        self._changes: list[FrameChanges] = []
        """Changes of the last frames."""
        self._faces: Detections = NO_FACES
        """Faces of the last frame, in pixels of it."""
        self._size = (0, 0)
        self._time_s, self._search = -math.inf, -1
        self._windows: dict[int, list[tuple[float, Tensor]]] = {}
        """Times and embeddings `(D,)` of the last frames of each track."""

    def analyze(self, image: ImageInput, time_s: float) -> list[LiveFace]:
        """Return the faces of the next frame, from left to right.

        `image` is given as in `FaceDetector.detect`, and `time_s` is its time in seconds on any clock. Frames
        of more than `MAX_LINES` lines are scaled down, as in videos. Raises InputError for an image that is
        unreadable, too large or too narrow, and for a time that is not after that of the frame before.
        """
        if not self._time_s < time_s < math.inf:
            raise InputError(
                f"time_s must be above {self._time_s}, the time of the frame before, got {time_s}"
            )
        picture = _load_picture(image)
        self._time_s = time_s
        frame, is_cut = self._compare_with_last(picture, time_s)
        self._faces = faces = self._detect(frame, is_cut)
        view = FrameView.from_frame(frame, faces.boxes, 1.0)
        tracks = self._tracker.update(time_s, faces.boxes / picture.height, view)
        probs = self._recognize(crop_faces(picture, faces.boxes, self.recognizer.card.crop_scale), tracks)
        shares = np.clip(faces.boxes / np.array([*picture.size, *picture.size]), 0, 1)
        columns = (column.tolist() for column in (tracks, shares, faces.scores, probs))
        classes = self.recognizer.card.classes
        return [
            LiveFace(track, tuple(box), score, Prediction(dict(zip(classes, row, strict=True))))
            for track, box, score, row in zip(*columns, strict=True)
        ]

    def _compare_with_last(self, picture: Picture, time_s: float) -> tuple[Frame, bool]:
        """Return the frame with its changes, and whether a new shot or another size begins with it."""
        self._meter.record_points(sample_plane(picture.y))
        changes = self._meter.take_changes(turns=0, mirrored=False)
        self._changes = [*self._changes[-MIN_OTHER_STEPS:], changes]
        is_cut = picture.size != self._size or is_shot_cut(self._changes)
        self._size = picture.size
        return Frame(time_s=time_s, picture=picture, changes=changes), is_cut

    def _detect(self, frame: Frame, is_cut: bool) -> Detections:
        """Return the faces of a frame. O-Net confirms each face that was followed or found."""
        known = NO_FACES if is_cut else self._faces
        search = math.floor(frame.time_s / self.config.search_s)
        sampled = SampledFrame(frame=frame, cut=is_cut, key=not len(known) or search != self._search)
        follow_faces([([sampled], known)], self.detector, 1.0)
        if sampled.key or sampled.lost:
            sampled.detected = self.detector.search([frame.picture])[0]
        self._search = search
        return sampled.faces

    @torch.inference_mode()
    def _recognize(self, crops: np.ndarray, tracks: np.ndarray) -> np.ndarray:
        """Return the probabilities `(n, classes)` of the crops of the current frame."""
        card = self.recognizer.card
        for track, embedding in zip(tracks.tolist(), self.recognizer.encode(crops), strict=True):
            self._windows.setdefault(track, []).append((self._time_s, embedding))
        start_s = self._time_s - card.half_window_s - 1 / card.window_rate_hz
        recent = {t: [row for row in rows if row[0] >= start_s] for t, rows in self._windows.items()}
        self._windows = {track: rows for track, rows in recent.items() if rows}
        if not len(tracks):
            return np.zeros((0, len(card.classes)), np.float32)
        rows = [(track, *row) for track in tracks.tolist() for row in self._windows[track]]
        times = np.array([time_s for _, time_s, _ in rows])
        is_current = times == self._time_s
        embeddings = torch.stack([embedding for *_, embedding in rows])
        owners = np.array([track for track, *_ in rows])
        return self.recognizer.classify_tracks(embeddings, owners, times, is_current)[is_current]


def load_recognizer(config: AnalyzeConfig) -> Recognizer:
    """Return the recognizer of live streams, on the CPU. Raises errors as `Recognizer` does."""
    recognizer = Recognizer(config.checkpoint, "cpu", config.flip, config.precision)
    recognizer.batch_size = min(recognizer.batch_size, BATCH_SIZE)
    return recognizer


def _load_picture(image: ImageInput) -> Picture:
    loaded = load_image(image, "RGB")
    problem = find_size_problem(*loaded.size)
    if problem:
        raise InputError(f"Cannot analyze this image: {problem}")
    if loaded.height > MAX_LINES:
        width = max(round(loaded.width * MAX_LINES / loaded.height), 1)
        loaded = loaded.resize((width, MAX_LINES), Image.Resampling.BOX, reducing_gap=1.0)
    return Picture.from_rgb(np.asarray(loaded))
