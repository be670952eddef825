"""Faces of pictures, and of moments of videos with what stands in their windows: what can be explained.

They are found, followed and cut by the pipeline's own code, as `analyze` does it by default.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer_batch.config import AnalyzeConfig
from fer_batch.data.images import IMAGE_SUFFIXES, open_image, read_image
from fer_batch.errors import DecodeError
from fer_batch.inputs.listing import VIDEO_SUFFIXES
from fer_batch.inputs.segments import compute_padding
from fer_batch.model.weights import Card
from fer_batch.model.window import build_windows
from fer_batch.video.container import MAX_ASPECT_RATIO
from fer_batch.video.metadata import VideoInfo
from fer_batch.video.planes import Picture
from fer_batch.video.reader import read_info
from fer_batch.video.segment import Segment
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from fer_batch.vision.crop import crop_faces
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.faces import SegmentFaces, extract_faces

SETTINGS = AnalyzeConfig()
WHOLE_PX = 100
"""A picture whose sides are no longer is a face already."""
PARTS = 3
"""Of a video, with a moment from each where none is asked for."""
PLACES = (1 / 2, 1 / 4, 3 / 4, 1 / 8, 7 / 8)
"""Where in a part a face is looked for, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face at a moment."""

    crops: np.ndarray
    """`(T, 48, 48) uint8` grey: its window, T from 1."""
    times_s: np.ndarray
    """`(T,) float64`: their seconds in the video; 0 for a picture's."""
    centre: int
    """Where in its window the moment stands."""
    box: tuple[float, float, float, float] | None
    """Shares of the picture's width and height, xyxy; None where the whole picture was taken."""
    moment_s: float | None = None
    """None for a picture's."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is in an input; faces of one moment from left to right."""

    faces: list[Face] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def files_of(inputs: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """The files that are named, and the pictures and videos of the folders that are, at any depth but for
    hidden ones; with each what is wrong with it, where it is none.
    """
    for path in inputs:
        if path.is_dir():
            inside = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
                and file.is_file()
            ]
            yield from ((file, None) for file in inside)
            if not inside:
                yield path, "holds no pictures and no videos"
        else:
            problem = None if path.is_file() else "is no file" if path.exists() else "does not exist"
            yield path, problem


def is_picture(path: Path) -> bool:
    """Whether a file is read as a picture, and not as a video: its name says it."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def faces_of_picture(path: Path, detector: FaceDetector, crop_scale: float, whole: bool = False) -> Found:
    """The faces of a picture, or the picture itself where it is `whole` a face, or as small as one."""
    image = open_image(path, "RGB")
    if image is None:
        return Found(problems=["is no picture that can be read"])
    if whole or max(image.size) <= WHOLE_PX:
        crop = read_image(path)
        assert crop is not None
        return Found(faces=[_still(crop, None)])
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        return Found(problems=[f"has {width}×{height} pixels: no face fits in"])
    picture = Picture.from_rgb(np.asarray(image))
    boxes = detector.search([picture])[0].boxes
    if not len(boxes):
        return Found(problems=["no face was found; give --whole where the picture is a face and no more"])
    boxes = boxes[np.argsort(boxes[:, 0], kind="stable")]
    shares = np.clip(boxes / np.array([width, height, width, height]), 0, 1)
    crops = crop_faces(picture, boxes, crop_scale)
    return Found(faces=[_still(crop, box) for crop, box in zip(crops, shares, strict=True)])


def faces_of_video(path: Path, at_s: Sequence[float], detector: FaceDetector, card: Card) -> Found:
    """The faces at the moments nearest to these seconds of a video; where there are none, at up to `PARTS`
    moments that have faces, spread over it.
    """
    try:
        info = read_info(path)
    except DecodeError as error:
        kinds = f"no picture ({', '.join(sorted(IMAGE_SUFFIXES))})"
        return Found(problems=[f"is {kinds}, and no video that can be read: {error}"])
    if at_s:
        found = [_faces_at(path, info, time_s, detector, card) for time_s in at_s]
        moments = {part.faces[0].moment_s or 0.0: part.faces for part in found if part.faces}
        return Found(
            faces=[face for moment_s in sorted(moments) for face in moments[moment_s]],
            problems=[problem for part in found for problem in part.problems],
        )
    if not info.duration_s:
        return Found(problems=["doesn't say how long it is; name moments with --at"])
    faces: list[Face] = []
    for part in range(PARTS):
        for place in PLACES:
            time_s = (part + place) / PARTS * info.duration_s
            seen = _faces_at(path, info, time_s, detector, card).faces
            if seen and seen[0].moment_s not in {face.moment_s for face in faces}:
                faces += seen
                break
    tried = f"has no face at {PARTS * len(PLACES)} moments that were tried; name one with --at"
    return Found(faces=faces, problems=[] if faces else [tried])


def _faces_at(path: Path, info: VideoInfo, time_s: float, detector: FaceDetector, card: Card) -> Found:
    """The faces at the moment nearest to `time_s`."""
    if info.duration_s is not None and time_s > info.duration_s:
        return Found(problems=[f"has no moment {time_s:g} s: it ends at {info.duration_s:.2f} s"])
    moment_s = 1 / min(info.fps, SETTINGS.fps)
    before_s, after_s = (
        float(overlap[0]) for overlap in compute_padding(SETTINGS, card.half_window_s, np.array([info.fps]))
    )
    segment = Segment(
        uri=str(path),
        segments=2,  # the last segment would be read to the end of the file
        start_s=max(time_s - before_s, 0.0),
        end_s=time_s + after_s,
        core_start_s=max(time_s - moment_s, 0.0),
        core_end_s=time_s + moment_s + 2 * TIME_TOLERANCE_S,
        first_pts=info.first_pts,
    )
    seen = extract_faces(segment, SETTINGS, detector, card.crop_scale)
    if not seen.moments:
        late = seen.read_s <= time_s
        reason = seen.error or (f"it ends at {seen.read_s:.2f} s" if late else "no frame is near it")
        return Found(problems=[f"has no moment {time_s:g} s: {reason}"])
    nearest = min((moment.time_s for moment in seen.moments), key=lambda t: abs(t - time_s))
    faces = [
        _in_window(seen, number, card) for number, face in enumerate(seen.faces) if face.time_s == nearest
    ]
    return Found(faces=faces, problems=[] if faces else [f"has no face at {nearest:g} s"])


def _in_window(seen: SegmentFaces, number: int, card: Card) -> Face:
    face = seen.faces[number]
    track = np.array([n for n, other in enumerate(seen.faces) if other.track == face.track])
    times_s = np.array([seen.faces[n].time_s for n in track])
    places, lengths, centres = build_windows(times_s, card.window_rate_hz, card.window_length)
    row = int(np.flatnonzero(track == number)[0])
    window = places[row, : lengths[row]]
    return Face(
        crops=seen.crops[track[window]],
        times_s=times_s[window],
        centre=int(centres[row]),
        box=(face.box_x0, face.box_y0, face.box_x1, face.box_y1),
        moment_s=face.time_s,
    )


def _still(crop: np.ndarray, box: np.ndarray | None) -> Face:
    return Face(
        crops=crop[None],
        times_s=np.zeros(1),
        centre=0,
        box=None if box is None else tuple(box.tolist()),
    )
