"""Detect the faces of all sampled frames, with the whole cascade on key frames only.

Key frames are the first frames of every other `detect_every` seconds of the video's own time, and the first
frames of shots. O-Net follows the faces of a key frame to the next one. Faces of the next key frame that were
not reached are followed back. Halfway, the cascade searches the region that changed since the key frame.

So the faces of a frame depend only on the frames from the key frame before to the key frame after it, and not
on where the reading began.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from fer_batch.timing import StageTimer
from fer_batch.video.changes import FrameChanges
from fer_batch.video.planes import Frame
from fer_batch.video.timestamps import TIME_TOLERANCE_S
from fer_batch.vision.detect import FaceDetector
from fer_batch.vision.detections import NO_FACES, join_detections
from fer_batch.vision.follow import LOST_MAX_IOU, SampledFrame, find_known_faces, follow_faces
from fer_batch.vision.jumps import MIN_OTHER_STEPS, is_shot_cut
from fer_batch.vision.motion import find_changed_region
from fer_batch.vision.track import compute_iou

MIN_GROUP_FRAMES = 10
"""Frames that are processed together at least, about. More of them, up to `FaceDetector.group_bytes`, fill
the batches of the networks better, but need more memory."""
MAX_SPAN_FRAMES = 30
"""Most frames from one key frame to the next. All are held in memory."""


def detect_in_frames(
    frames: Iterable[Frame],
    detector: FaceDetector,
    detect_every: float,
    frame_interval_s: float,
    pixel_aspect: float,
    timer: StageTimer,
) -> Iterator[SampledFrame]:
    """Yield the frames of a video in their order, with their faces.

    A search of the whole picture or of its changes takes place every `detect_every` seconds.
    `frame_interval_s` is the usual time between two frames. `timer` records "decode" and "detect".
    """
    search_s = min(detect_every, MAX_SPAN_FRAMES * frame_interval_s)
    searches = count_searches_per_span(search_s, frame_interval_s)
    group: list[SampledFrame] = []
    last_size: tuple[int, ...] = ()
    recent: list[FrameChanges] = []
    cell = -1
    for frame in frames:
        timer.record("decode")
        last_cell = cell
        size = frame.picture.y.size
        # Boxes are in pixels of their picture, so no face can be followed into a picture of another size.
        recent = [*recent[-MIN_OTHER_STEPS:], *([frame.changes] if frame.changes else [])]
        cut = bool(last_size) and (size != last_size or is_shot_cut(recent))
        cell = math.floor((frame.time_s + TIME_TOLERANCE_S) / search_s)
        key = cut or cell // searches != last_cell // searches or not group
        motion = not key and cell != last_cell
        group.append(SampledFrame(frame=frame, cut=cut, key=key, motion_search=motion))
        last_size = size
        group_frames = max(MIN_GROUP_FRAMES, detector.group_bytes // frame.picture.nbytes)
        if key and len(group) > group_frames:
            _detect_group(group, detector, pixel_aspect)
            timer.record("detect")
            yield from group[:-1]
            group = group[-1:]
        timer.record("detect")
    timer.record("decode")
    if group:
        _detect_group(group, detector, pixel_aspect)
        timer.record("detect")
        yield from group


def count_searches_per_span(search_s: float, frame_interval_s: float) -> int:
    """Return the number of searches from a key frame to the next. The second one covers changes only."""
    return 2 if 2 * search_s <= MAX_SPAN_FRAMES * frame_interval_s else 1


def _detect_group(group: list[SampledFrame], detector: FaceDetector, pixel_aspect: float) -> None:
    """Detect the faces of frames that begin with a key frame and, except at the end, end with one."""
    keys = [index for index, frame in enumerate(group) if frame.key]
    new = [group[key] for key in keys if group[key].detected is None]
    found = detector.search([frame.frame.picture for frame in new], pixel_aspect)
    for frame, faces in zip(new, found, strict=True):
        frame.detected = faces
    spans = [group[key : end + 1] for key, end in zip(keys, [*keys[1:], len(group)], strict=True)]
    spans = [span[:-1] if span[-1].cut and len(span) > 1 else span for span in spans]
    follow_faces([(span[1:], span[0].detected or NO_FACES) for span in spans], detector, pixel_aspect)
    closed = [span for span in spans if len(span) > 1 and span[-1].detected is not None]
    walks = []
    for span in closed:
        faces = span[-1].detected or NO_FACES
        unreached = faces.take(~find_known_faces(faces, join_detections(span[-1].followed)))
        walks.append((span[-2::-1], unreached))
    follow_faces(walks, detector, pixel_aspect)
    motion_searches: list[SearchPlace] = []
    for span in spans:
        for index, frame in enumerate(span):
            if frame.motion_search:
                known = (span[0].detected or NO_FACES).boxes
                size = frame.frame.picture.width * pixel_aspect, frame.frame.picture.height
                region = find_changed_region(span[0].thumbnail, frame.thumbnail, known, size)
                motion_searches += [] if region is None else [(span, index, region)]
    _search_and_follow(motion_searches, detector, pixel_aspect)
    for after_motion_search in (False, True):
        losses = [(span, _find_first_loss(span, after_motion_search)) for span in spans]
        places = [(span, index, None) for span, index in losses if index is not None]
        _search_and_follow(places, detector, pixel_aspect)


SearchPlace = tuple[list[SampledFrame], int, np.ndarray | None]
"""A span, an index in it, and the region to search, None for the whole picture."""


def _search_and_follow(places: Sequence[SearchPlace], detector: FaceDetector, pixel_aspect: float) -> None:
    """Run the cascade on frames between key frames, and follow new faces forwards and backwards."""
    pictures = [span[index].frame.picture for span, index, _ in places]
    found = detector.search(pictures, pixel_aspect, [region for *_, region in places])
    walks = []
    for (span, index, _), faces in zip(places, found, strict=True):
        frame = span[index]
        new = faces.take(~find_known_faces(faces, frame.faces))
        frame.followed.append(new)
        walks += [(span[index + 1 :], new), (span[index - 1 :: -1], new)]
    follow_faces(walks, detector, pixel_aspect)


def _find_first_loss(span: Sequence[SampledFrame], after_motion_search: bool) -> int | None:
    """Return the first frame that lacks an expected face, before the motion search or from it on."""
    middle = next((index for index, frame in enumerate(span) if frame.motion_search), len(span))
    for index in range(middle, len(span)) if after_motion_search else range(middle):
        frame = span[index]
        if not frame.key and frame.lost:
            lost = np.concatenate(frame.lost)
            if (compute_iou(lost, frame.faces.boxes) < LOST_MAX_IOU).all(axis=1).any():
                return index
    return None
