"""Where the faces are at every moment, with the whole cascade run on key moments only.

Key moments are the first of every other `detect_every` seconds of the video's own time, and the first after a
shot cut. From each, its faces are followed to the next by O-Net alone; what the next key moment has and that
does not lead to is followed back. Halfway the cascade looks at what has changed since the key moment: where
nothing has, there is nobody new. So what is found at a moment depends on the moments from the key before it
to the key after it, and on nothing else, wherever the reading began.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from fer_batch.timing import StageTimer
from fer_batch.video.planes import Picture
from fer_batch.video.reader import TIME_TOLERANCE_S, Frame
from fer_batch.vision.detect import NO_FACES, Detections, FaceDetector, join_detections
from fer_batch.vision.track import compute_iou, is_shot_cut

HELD = 10
"""Moments that are looked at together, about: more fill the networks' batches, and memory, which then is not
in the processor's cache."""
LONGEST_SPAN = 30
"""Moments from one key moment to the next, at most, as all are held in memory."""
SAME_FACE = 0.4
"""Least overlap of two boxes at one moment that are of one face."""
STRAY = 0.3
"""Least overlap of a followed face with where it was expected."""
SECOND_LOOK = 0.9
"""Least score of a face that was looked at twice: a worse one is found better by the search around it."""
NEARBY = 0.1
"""Least overlap of a face with where it was expected that it is not lost at."""
STILL = 3.0
"""Grey levels that a cell of the thumbnail changes by at least where something happens."""
MARGIN = 2
"""Cells around what changed that are searched too."""
THUMBNAIL = (18, 32)
SAMPLES = 8
"""Pixels of the picture, down and across, that a cell of the thumbnail is the mean of."""


@dataclass(kw_only=True)
class SampledFrame:
    """A moment and its faces."""

    frame: Frame
    cut: bool
    """Whether a new shot begins here."""
    key: bool
    thumbnail: np.ndarray
    """`(18, 32) float32` grey."""
    motion_search: bool = False
    """Whether what has changed here since the key moment before is searched."""
    whole: Detections | None = None
    """What the whole cascade finds, on key moments."""
    followed: list[Detections] = field(default_factory=list)
    """What was followed to here."""
    lost: list[np.ndarray] = field(default_factory=list)
    """Boxes `(n, 4)` where faces were expected and are not."""

    @property
    def found(self) -> Detections:
        """Each face once, from left to right: as the whole cascade has it, else as it was followed."""
        faces = self.whole or NO_FACES
        for part in self.followed:
            faces = join_detections([faces, part.take(~_known(part, faces))])
        return faces.take(np.argsort(faces.boxes[:, 0], kind="stable"))


def detect_in_frames(
    frames: Iterable[Frame],
    detector: FaceDetector,
    detect_every: float,
    moment_s: float,
    pixel_aspect: float,
    timer: StageTimer,
) -> Iterator[SampledFrame]:
    """The moments of a video, in order, with their faces; a key moment each `detect_every` seconds.

    `moment_s` is the usual time from a moment to the next. Time goes to "decode" and "detect" of `timer`.
    """
    search_s = min(detect_every, LONGEST_SPAN * moment_s)
    searches = searches_per_key_frame(search_s, moment_s)
    held: list[SampledFrame] = []
    before: np.ndarray | None = None
    last_size = (0, 0)
    cell = -1
    for frame in frames:
        timer.record("decode")
        after, last = _thumbnail(frame.picture), cell
        size = frame.picture.y.size
        # Boxes are pixels of their picture: none can be followed into one of another size.
        cut = before is not None and (size != last_size or is_shot_cut(before, after))
        cell = math.floor((frame.time_s + TIME_TOLERANCE_S) / search_s)
        key = cut or cell // searches != last // searches or not held
        held.append(
            SampledFrame(
                frame=frame, cut=cut, key=key, thumbnail=after, motion_search=not key and cell != last
            )
        )
        before, last_size = after, size
        if held[-1].key and len(held) > HELD:
            _look(held, detector, pixel_aspect)
            timer.record("detect")
            yield from held[:-1]
            held = held[-1:]
        timer.record("detect")
    timer.record("decode")
    if held:
        _look(held, detector, pixel_aspect)
        timer.record("detect")
        yield from held


def searches_per_key_frame(search_s: float, moment_s: float) -> int:
    """How many searches there are from a key moment to the next, the others of what has changed only."""
    return 2 if 2 * search_s <= LONGEST_SPAN * moment_s else 1


def _look(held: list[SampledFrame], detector: FaceDetector, pixel_aspect: float) -> None:
    """Find the faces of moments of which the first is a key moment, and so is the last but at the end."""
    keys = [number for number, look in enumerate(held) if look.key]
    new = [held[key] for key in keys if held[key].whole is None]
    for look, found in zip(
        new, detector.search([look.frame.picture for look in new], pixel_aspect), strict=True
    ):
        look.whole = found
    spans = [held[key : end + 1] for key, end in zip(keys, [*keys[1:], len(held)], strict=True)]
    spans = [span[:-1] if span[-1].cut and len(span) > 1 else span for span in spans]
    _walk([(span[1:], span[0].whole or NO_FACES) for span in spans], detector, pixel_aspect)
    ends = [span for span in spans if len(span) > 1 and span[-1].whole is not None]
    _walk([(span[-2::-1], _not_reached(span[-1])) for span in ends], detector, pixel_aspect)
    glances = [
        (span, place, region)
        for span in spans
        for place, look in enumerate(span)
        if look.motion_search and (region := _changed(span[0], look, pixel_aspect)) is not None
    ]
    _search(glances, detector, pixel_aspect)
    for half in (0, 1):
        losses = [(span, place, None) for span in spans if (place := _first_loss(span, half)) is not None]
        _search(losses, detector, pixel_aspect)


def _search(
    places: Sequence[tuple[list[SampledFrame], int, np.ndarray | None]],
    detector: FaceDetector,
    pixel_aspect: float,
) -> None:
    """The cascade at moments between key moments, in a region or the whole picture; what it finds and is not
    known yet is followed forth and back.
    """
    pictures = [span[place].frame.picture for span, place, _ in places]
    found = detector.search(pictures, pixel_aspect, [region for *_, region in places])
    walks = []
    for (span, place, _), faces in zip(places, found, strict=True):
        look = span[place]
        look.followed.append(faces.take(~_known(faces, look.found)))
        walks += [(span[place + 1 :], look.followed[-1]), (span[place - 1 :: -1], look.followed[-1])]
    _walk(walks, detector, pixel_aspect)


def _changed(before: SampledFrame, look: SampledFrame, pixel_aspect: float) -> np.ndarray | None:
    """The box `(4,)` that holds what is another than at the key moment before, but for the faces of then.

    None where there is nothing.
    """
    picture = look.frame.picture
    high, wide = THUMBNAIL
    cells = np.array([picture.width * pixel_aspect / wide, picture.height / high] * 2)
    other = np.abs(look.thumbnail - before.thumbnail) >= STILL
    for x0, y0, x1, y1 in (before.whole or NO_FACES).boxes:
        reach = max(x1 - x0, y1 - y0)
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2] * 2)
        around = (centre + np.array([-reach, -reach, reach, reach])) / cells
        left, top = np.maximum(np.floor(around[:2]), 0).astype(int)
        right, bottom = np.maximum(np.ceil(around[2:]), 0).astype(int)
        other[top:bottom, left:right] = False
    rows, columns = np.nonzero(other)
    if not len(rows):
        return None
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    margin = np.array([-MARGIN, -MARGIN, MARGIN, MARGIN])
    return np.clip(box + margin, 0, [wide, high, wide, high]) * cells


def _first_loss(span: Sequence[SampledFrame], half: int) -> int | None:
    """The first moment between two key moments, before a glance (0) or from it on (1), that lacks a face that
    was to be there.
    """
    glance = next((place for place, look in enumerate(span) if look.motion_search), len(span))
    for place in range(*((0, glance), (glance, len(span)))[half]):
        look = span[place]
        if not look.key and look.lost:
            lost = np.concatenate(look.lost)
            if (compute_iou(lost, look.found.boxes) < NEARBY).all(axis=1).any():
                return place
    return None


def _not_reached(look: SampledFrame) -> Detections:
    """The faces of a key moment that were not followed to it."""
    faces = look.whole or NO_FACES
    return faces.take(~_known(faces, join_detections(look.followed)))


def _walk(
    walks: Sequence[tuple[list[SampledFrame], Detections]], detector: FaceDetector, pixel_aspect: float
) -> None:
    """Follow faces from moment to moment, each walk along its own, until they are lost or meet a known one.

    A step of all walks is one batch. A face is expected to move on as in the step before; where it is not
    seen there, O-Net looks again from where it pointed, and then the cascade around it.
    """
    walks = [(steps, faces) for steps, faces in walks if steps and len(faces)]
    shifts = [np.zeros_like(faces.boxes) for _, faces in walks]
    while walks:
        expected = [faces.boxes + shift for (_, faces), shift in zip(walks, shifts, strict=True)]
        pictures = [steps[0].frame.picture for steps, _ in walks]
        there = detector.refine(pictures, expected, pixel_aspect)
        sure = [_sure(boxes, found, detector.min_score) for boxes, found in zip(expected, there, strict=True)]
        unsure = [boxes[~kept] for boxes, kept in zip(expected, sure, strict=True)]
        nearly = [found.boxes[~kept] for found, kept in zip(there, sure, strict=True)]
        second = detector.refine(pictures, nearly, pixel_aspect)
        found_again = [
            _sure(boxes, found, max(detector.min_score, SECOND_LOOK))
            for boxes, found in zip(unsure, second, strict=True)
        ]
        lost = [boxes[~kept] for boxes, kept in zip(unsure, found_again, strict=True)]
        around = detector.search_near(pictures, lost, pixel_aspect)
        further, shifts_on = [], []
        for number, (steps, faces) in enumerate(walks):
            boxes = expected[number]
            found = join_detections(
                [
                    there[number].take(sure[number]),
                    second[number].take(found_again[number]),
                    around[number],
                ]
            )
            missed = boxes[(compute_iou(boxes, found.boxes) < NEARBY).all(axis=1)]
            if len(missed):
                steps[0].lost.append(missed)
            found = found.take(~_known(found, join_detections(steps[0].followed)))
            found = found.take(_best(found))
            if len(found):
                steps[0].followed.append(found)
                if len(steps) > 1:
                    further.append((steps[1:], found))
                    shifts_on.append(_shifts(faces.boxes, found.boxes))
        walks, shifts = further, shifts_on


def _sure(expected: np.ndarray, found: Detections, min_score: float) -> np.ndarray:
    """Which refined faces `(n,) bool` are faces, and where they were expected."""
    return (found.scores >= min_score) & (compute_iou(expected, found.boxes).diagonal() >= STRAY)


def _shifts(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far `(n, 4)` the middles of boxes are from those of the nearest ones before.

    Not how they grew: expecting that, O-Net takes ever more of the picture for a face.
    """
    far = np.abs(after[:, None] - before[None]).sum(axis=2)  # (n, m)
    moved = after - before[far.argmin(axis=1)]
    return np.tile((moved[:, :2] + moved[:, 2:]) / 2, 2)


def _known(faces: Detections, others: Detections) -> np.ndarray:
    """Which of some faces `(n,) bool` are among others of the same moment."""
    return (compute_iou(faces.boxes, others.boxes) >= SAME_FACE).sum(axis=1) > 0


def _best(faces: Detections) -> np.ndarray:
    """Which of some faces `(n,) bool` are not another one again that scores higher."""
    same = compute_iou(faces.boxes, faces.boxes) >= SAME_FACE
    rank = np.lexsort((np.arange(len(faces)), -faces.scores)).argsort()
    return (same & (rank[None] < rank[:, None])).sum(axis=1) == 0


def _thumbnail(picture: Picture) -> np.ndarray:
    high, wide = THUMBNAIL
    points = picture.y.resize((wide * SAMPLES, high * SAMPLES), Image.Resampling.NEAREST)
    grey = picture.to_grey(points).astype(np.float32)
    return grey.reshape(high, SAMPLES, wide, SAMPLES).mean(axis=(1, 3))
