"""The faces of pictures, and of single frames of videos with their windows.

Faces are detected, tracked and cropped with the settings and code of `analyze`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer_batch.config import AnalyzeConfig
from fer_batch.data.images import IMAGE_SUFFIXES, open_image, read_image
from fer_batch.errors import DecodeError
from fer_batch.inputs.segments import compute_padding
from fer_batch.model.card import Card
from fer_batch.model.window import build_windows
from fer_batch.video.formats import VIDEO_SUFFIXES
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import Picture
from fer_batch.video.reader import read_info
from fer_batch.video.segment import Segment
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import SegmentFaces, extract_faces

ANALYZE_CONFIG = AnalyzeConfig()
MAX_FACE_PICTURE_PX = 100
"""A picture with no longer side is treated as a face crop."""
VIDEO_PARTS = 3
"""Parts of a video, each with one explained frame, unless times are given."""
TRIED_POSITIONS = (1 / 2, 1 / 4, 3 / 4, 1 / 8, 7 / 8)
"""Positions in a part at which faces are searched, in this order."""


@dataclass(frozen=True, kw_only=True)
class WindowedFace:
    """A face at one time, with its window."""

    crops: np.ndarray
    """`(T, 48, 48) uint8` grey: the window, T from 1."""
    times_s: np.ndarray
    """`(T,) float64`: times of the crops in the video; 0 for a picture."""
    centre: int
    """Position of the explained frame in the window."""
    box: tuple[float, float, float, float] | None
    """The box in shares of the picture's width and height, xyxy; None if the whole picture is the face."""
    moment_s: float | None = None
    """Time of the explained frame; None for a picture."""


@dataclass(frozen=True, kw_only=True)
class InputFaces:
    """The faces of an input, from left to right at each time, and the problems with it."""

    faces: list[WindowedFace] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def list_files(inputs: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """List files, and recursively the pictures and videos of folders, each with its problem or None.

    Hidden files and folders inside folders are skipped.
    """
    for path in inputs:
        if path.is_dir():
            files = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and file.is_file()
            ]
            yield from ((file, None) for file in files)
            if not files:
                yield path, "holds no pictures and no videos"
        else:
            problem = None if path.is_file() else "is not a file" if path.exists() else "does not exist"
            yield path, problem


def is_picture(path: Path) -> bool:
    """Return whether the suffix of a file is that of a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def find_picture_faces(
    path: Path, detector: FaceDetector, crop_scale: float, whole: bool = False
) -> InputFaces:
    """Find the faces of a picture. With `whole`, or if it is small, the picture is the face."""
    image = open_image(path, "RGB")
    if image is None:
        return InputFaces(problems=["is not a readable picture"])
    if whole or max(image.size) <= MAX_FACE_PICTURE_PX:
        crop = read_image(path)
        assert crop is not None
        return InputFaces(faces=[_make_still(crop, None)])
    boxes = np.array([face.box for face in detector.detect(image)], np.float32).reshape(-1, 4)
    if not len(boxes):
        return InputFaces(problems=["has no detectable face; give --whole if the picture is a face crop"])
    shares = np.clip(boxes / np.array([*image.size, *image.size]), 0, 1)
    crops = crop_faces(Picture.from_rgb(np.asarray(image)), boxes, crop_scale)
    return InputFaces(faces=[_make_still(crop, box) for crop, box in zip(crops, shares, strict=True)])


def find_video_faces(path: Path, at_s: Sequence[float], detector: FaceDetector, card: Card) -> InputFaces:
    """Find the faces in the frames nearest to the times `at_s` of a video.

    Without times, up to `VIDEO_PARTS` frames with faces are chosen, spread over the video.
    """
    try:
        info = read_info(path)
    except DecodeError as error:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        return InputFaces(problems=[f"is not a picture ({suffixes}) and not a readable video: {error}"])
    if at_s:
        results = [_find_faces_at(path, info, time_s, detector, card) for time_s in at_s]
        by_time = {result.faces[0].moment_s or 0.0: result.faces for result in results if result.faces}
        return InputFaces(
            faces=[face for moment_s in sorted(by_time) for face in by_time[moment_s]],
            problems=[problem for result in results for problem in result.problems],
        )
    if not info.duration_s:
        return InputFaces(problems=["has no known duration; give times with --at"])
    faces: list[WindowedFace] = []
    for part in range(VIDEO_PARTS):
        for position in TRIED_POSITIONS:
            time_s = (part + position) / VIDEO_PARTS * info.duration_s
            part_faces = _find_faces_at(path, info, time_s, detector, card).faces
            if part_faces and part_faces[0].moment_s not in {face.moment_s for face in faces}:
                faces += part_faces
                break
    problem = f"has no face at {VIDEO_PARTS * len(TRIED_POSITIONS)} tried times; give a time with --at"
    return InputFaces(faces=faces, problems=[] if faces else [problem])


def _find_faces_at(
    path: Path, info: VideoInfo, time_s: float, detector: FaceDetector, card: Card
) -> InputFaces:
    """Find the faces in the sampled frame nearest to `time_s`."""
    if info.duration_s is not None and time_s > info.duration_s:
        return InputFaces(problems=[f"has no frame at {time_s:g} s: it ends at {info.duration_s:.2f} s"])
    interval_s = 1 / min(info.fps, ANALYZE_CONFIG.fps)
    before_s, after_s = (
        float(padding[0])
        for padding in compute_padding(ANALYZE_CONFIG, card.half_window_s, np.array([info.fps]))
    )
    segment = Segment(
        uri=str(path),
        segments=2,  # the last segment would be read to the end of the file
        start_s=max(time_s - before_s, 0.0),
        end_s=time_s + after_s,
        core_start_s=max(time_s - interval_s, 0.0),
        core_end_s=time_s + interval_s + 2 * TIME_TOLERANCE_S,
        first_pts=info.first_pts,
    )
    extracted = extract_faces(segment, ANALYZE_CONFIG, detector, card.crop_scale)
    if not extracted.moments:
        ended = extracted.read_s <= time_s
        reason = extracted.error or (f"it ends at {extracted.read_s:.2f} s" if ended else "no frame is near")
        return InputFaces(problems=[f"has no frame at {time_s:g} s: {reason}"])
    nearest_s = min((moment.time_s for moment in extracted.moments), key=lambda t: abs(t - time_s))
    faces = [
        _cut_window(extracted, number, card)
        for number, face in enumerate(extracted.faces)
        if face.time_s == nearest_s
    ]
    return InputFaces(faces=faces, problems=[] if faces else [f"has no face at {nearest_s:g} s"])


def _cut_window(extracted: SegmentFaces, number: int, card: Card) -> WindowedFace:
    """Return face `number` with the crops of its track that stand in its window."""
    face = extracted.faces[number]
    track = np.array([n for n, other in enumerate(extracted.faces) if other.track == face.track])
    times_s = np.array([extracted.faces[n].time_s for n in track])
    indices, lengths, centres = build_windows(times_s, card.window_rate_hz, card.window_length)
    row = int(np.flatnonzero(track == number)[0])
    window = indices[row, : lengths[row]]
    return WindowedFace(
        crops=extracted.crops[track[window]],
        times_s=times_s[window],
        centre=int(centres[row]),
        box=(face.box_x0, face.box_y0, face.box_x1, face.box_y1),
        moment_s=face.time_s,
    )


def _make_still(crop: np.ndarray, box: np.ndarray | None) -> WindowedFace:
    return WindowedFace(
        crops=crop[None],
        times_s=np.zeros(1),
        centre=0,
        box=None if box is None else tuple(box.tolist()),
    )
