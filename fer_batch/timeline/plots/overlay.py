"""A video with what the timeline says of it drawn on each frame: boxes, names, emotions; or with its faces
hidden.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from fer_batch.errors import DecodeError, InputError, OutputError, QueryError
from fer_batch.plotting import abbreviate_classes, pick_colour, pick_text_colour, shorten_name
from fer_batch.run.plan import read_planned_videos
from fer_batch.schema import probability_column
from fer_batch.storage.archives import split_member
from fer_batch.storage.folder import check_outside_run
from fer_batch.storage.media import uri_to_path
from fer_batch.timeline.database import Database
from fer_batch.timeline.plots.bins import bin_videos
from fer_batch.timeline.sql import FACE, MAX_GAP_STEPS, STEP_S
from fer_batch.video.canvas import Box, Canvas, render_text
from fer_batch.video.redraw import OUTPUT_FORMATS, RedrawResult, redraw_video

MARGIN = 0.3
"""Of a face's box, on each side, that is hidden with it."""
BLOCKS = 6
"""Of a hidden face, along each side: about four over the face itself."""
LINES = 36
"""Heights of a letter in the frame's shorter side."""
SMALLEST = 10
"""Pixels of a letter."""
LONGEST_NAME = 24
SAME_TIME_S = 1e-6


def write_overlay(
    timeline: Database,
    video: str | Path,
    target: Path,
    *,
    blur_faces: bool = False,
    on_progress: Callable[[float], None] = lambda time_s: None,
) -> RedrawResult:
    """Write a video (by its video_id) with what was seen in it to `target`, .mp4 or .mkv, as `redraw` does.

    A face has its box, who it is, its emotion with the confidence, and the probabilities of all. Between
    moments of a track no more than 1.5 steps apart, its box moves evenly; else it stays for a step.
    `blur_faces` leaves of each face a few large squares: from a step before its track begins to a step after
    it ends, gaps included; of frames that were not looked at, all is hidden. Faces that were not found are
    not.

    Raises QueryError where nothing of the video was looked at, InputError where its file is not what it was
    then, OutputError for a target that can't be written, is the video itself or lies in the run, and
    DecodeError where the video can't be read.
    """
    if target.suffix.lower() not in OUTPUT_FORMATS:
        raise OutputError(f"{target} is no kind of video that is made here: name a .mp4 or a .mkv")
    check_outside_run(target, timeline.out)
    video = timeline.video_id(video)
    uri, size_bytes, moments, reason = timeline.sql(
        "SELECT uri, size_bytes, coalesce(moments, 0), coalesce(error, status) FROM videos "
        "WHERE video_id = $video",
        {"video": video},
    ).fetchall()[0]
    if not moments:
        raise QueryError(f"{uri} has no moment that was looked at ({reason}): there is nothing to draw")
    _check_source(uri, size_bytes, target)
    offset = None
    if split_member(uri_to_path(uri)):
        planned = read_planned_videos(timeline.out)
        offset = planned.filter(pc.equal(planned.column("video_id"), video)).column("offset")[0].as_py()
    try:
        return redraw_video(
            uri, target, _Faces(timeline, video, blur_faces), offset=offset, on_progress=on_progress
        )
    except DecodeError as error:
        raise DecodeError(f"{uri} can't be read: {error}") from error


def _check_source(uri: str, size_bytes: int | None, target: Path) -> None:
    path = Path(uri_to_path(uri))
    if target.resolve() == path.resolve() or (target.exists() and path.exists() and target.samefile(path)):
        raise OutputError(f"{target} is the video itself; name another file")
    if path.is_file() and size_bytes is not None and path.stat().st_size != size_bytes:
        raise InputError(
            f"{uri} has another size than when it was analyzed: run `fer-batch analyze` on it again"
        )


class _Faces:
    """Draws the faces of a video on its frames, that come in order of time."""

    def __init__(self, timeline: Database, video: str, blur: bool) -> None:
        self.blur = blur
        self.classes = timeline.classes
        self.colours = [pick_colour(name, self.classes) for name in self.classes]
        self.letters = list(abbreviate_classes(self.classes).values())
        columns = ", ".join(probability_column(name) for name in self.classes)
        boxes = ", ".join(
            f"box_{side}, coalesce(lead(box_{side}) OVER its, box_{side}) AS next_{side}"
            for side in ("x0", "y0", "x1", "y1")
        )
        rows = timeline.sql(
            f"""
            SELECT time_s, {FACE} AS face, confidence, step_s, {boxes}, {columns},
                   lag(time_s) OVER its AS before_s, lead(time_s) OVER its AS next_s
            FROM tracks, (SELECT {STEP_S} AS step_s FROM videos WHERE video_id = $video)
            WHERE video_id = $video WINDOW its AS (PARTITION BY track_id ORDER BY time_s)
            ORDER BY CASE WHEN before_s IS NULL THEN time_s - step_s ELSE time_s END, track_id""",
            {"video": video},
        ).fetchnumpy()
        number = {name: np.ma.filled(values, np.nan) for name, values in rows.items() if name != "face"}
        self.names = [shorten_name(name, LONGEST_NAME) for name in rows["face"].tolist()]
        self.confidence = number["confidence"]
        self.probabilities = np.stack([number[probability_column(name)] for name in self.classes], axis=1)
        self.time_s, self.next_s = number["time_s"], number["next_s"]
        step_s = number["step_s"]
        self.box, self.next_box = (
            np.stack([number[f"{kind}_{side}"] for side in ("x0", "y0", "x1", "y1")], axis=1)
            for kind in ("box", "next")
        )
        self.moves = self.next_s - self.time_s <= MAX_GAP_STEPS * step_s  # not where there is no next
        self.shown_until_s = np.where(self.moves, self.next_s, self.time_s + step_s)
        self.hidden_from_s = np.where(np.isnan(number["before_s"]), self.time_s - step_s, self.time_s)
        self.hidden_until_s = np.where(np.isnan(self.next_s), self.time_s + step_s, self.next_s)
        self.seen = bin_videos(timeline, [video], 10**9)[video]
        self.began = 0
        self.rows: list[int] = []
        """Those that are shown or hidden at the last frame."""

    def __call__(self, canvas: Canvas, time_s: float) -> None:
        """Draw what is known of a moment of the video."""
        at = time_s + SAME_TIME_S
        while self.began < len(self.time_s) and self.hidden_from_s[self.began] <= at:
            self.rows.append(self.began)
            self.began += 1
        self.rows = [row for row in self.rows if at < max(self.shown_until_s[row], self.hidden_until_s[row])]
        if self.blur and self.seen.find(np.array([at]))[0] < 0:
            canvas.pixelate((0, 0, canvas.width, canvas.height), BLOCKS)
        elif self.blur:
            for row in self.rows:
                if at < self.hidden_until_s[row]:
                    canvas.pixelate(_widened(self._box(row, at, True), canvas), BLOCKS)
        shown = [row for row in self.rows if self.time_s[row] <= at < self.shown_until_s[row]]
        shown.sort(key=lambda row: self.box[row, 3] - self.box[row, 1])  # who is near is in front
        places = {row: _pixels(self._box(row, at, bool(self.moves[row])), canvas) for row in shown}
        size = max(round(min(canvas.width, canvas.height) / LINES), SMALLEST)
        for row, box in places.items():
            self._draw_probabilities(canvas, row, box, [places[r] for r in shown if r != row], size)
        for row, box in places.items():
            self._draw_box(canvas, row, box, size)

    def _box(self, row: int, at: float, moves: bool) -> np.ndarray:
        """`(4,)` xyxy, shares of the frame."""
        between = self.next_s[row] - self.time_s[row]
        share = min(max((at - self.time_s[row]) / between, 0.0), 1.0) if moves and between > 0 else 0.0
        box: np.ndarray = self.box[row] + share * (self.next_box[row] - self.box[row])
        return box

    def _draw_box(self, canvas: Canvas, row: int, box: Box, size: int) -> None:
        best = int(self.probabilities[row].argmax())
        colour, name = self.colours[best], self.names[row]
        ink = pick_text_colour(colour)
        line = max(size // 10, 1) * 2
        canvas.outline((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), ink, 2)
        canvas.outline(box, colour, line)
        texts = [
            f"{name}  {self.classes[best]} {self.confidence[row]:.2f}",
            f"{name} {self.letters[best]}",
            f"{name.removeprefix('track ')} {self.letters[best]}",
        ]
        widest = max(2 * (box[2] - box[0]), 6 * size)
        text = next((text for text in texts if render_text(text, size).shape[1] <= widest), texts[-1])
        high, wide = render_text(text, size).shape
        high, wide = _even(high + size // 4), _even(wide + size // 2)
        left = max(min(box[0] - 2, canvas.width - wide), 0)
        top = box[1] - 2 - high if box[1] - 2 >= high else max(box[1], 0)
        canvas.fill((left, top, left + wide, top + high), colour)
        canvas.write_text(text, left + size // 4, top + size // 8, size, ink)

    def _draw_probabilities(self, canvas: Canvas, row: int, box: Box, others: list[Box], size: int) -> None:
        """A bar an emotion, beside the face where it is large enough, else all in one below it."""
        line = _even(round(size * 0.9))
        small = max(round(size * 0.75), 8)
        high = line * len(self.classes) + 4
        if box[3] - box[1] < 0.6 * high:
            self._draw_stacked(canvas, row, box, _even(max(size // 3, 4)))
            return
        names = _even(max(render_text(name, small).shape[1] for name in self.classes) + 6)
        length = _even(3 * size)
        wide = names + length + 4
        sides = [(box[2] + 4, box[1]), (box[0] - 4 - wide, box[1])]
        top = max(min(box[1], canvas.height - high), 0)
        left = min(
            (x for x, _ in sides), key=lambda x: _covered((x, top, x + wide, top + high), others, canvas)
        )
        canvas.fill((left, top, left + wide, top + high), "#ffffff", 0.75)
        for number, (name, colour) in enumerate(zip(self.classes, self.colours, strict=True)):
            y = top + 2 + number * line
            canvas.write_text(name, left + 4, y + (line - small) // 2 - 1, small, "#000000")
            filled = round(length * float(self.probabilities[row, number]))
            canvas.fill((left + names, y + 2, left + names + filled, y + line - 2), "#000000")
            canvas.fill((left + names, y + 3, left + names + filled - 1, y + line - 3), colour)

    def _draw_stacked(self, canvas: Canvas, row: int, box: Box, high: int) -> None:
        edges = box[0] + np.round(np.append(0, self.probabilities[row].cumsum()) * (box[2] - box[0]))
        top = min(box[3] + 2, canvas.height - high)
        for number, colour in enumerate(self.colours):
            canvas.fill((int(edges[number]), top, int(edges[number + 1]), top + high), colour)


def _even(count: int) -> int:
    """So that planes of half the size have the same edges."""
    return (count + 1) // 2 * 2


def _pixels(box: np.ndarray, canvas: Canvas) -> Box:
    """A box in even pixels."""
    x0, y0, x1, y1 = np.round(
        box * [canvas.width / 2, canvas.height / 2, canvas.width / 2, canvas.height / 2]
    )
    return 2 * int(x0), 2 * int(y0), 2 * int(x1), 2 * int(y1)


def _widened(box: np.ndarray, canvas: Canvas) -> Box:
    wide, high = MARGIN * (box[2] - box[0]), MARGIN * (box[3] - box[1])
    return _pixels(box + np.array([-wide, -high, wide, high]), canvas)


def _covered(box: Box, others: list[Box], canvas: Canvas) -> int:
    """Pixels of a box that others cover, or that are outside the frame."""
    inside = (0, 0, canvas.width, canvas.height)
    return (
        (box[2] - box[0]) * (box[3] - box[1])
        - _shared(box, inside)
        + sum(_shared(box, other) for other in others)
    )


def _shared(one: Box, other: Box) -> int:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0)
