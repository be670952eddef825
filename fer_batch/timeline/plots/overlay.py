"""Overlay: a copy of a video with boxes, names and emotions on its faces, or with its faces hidden."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fer_batch.errors import ChangedFileError, DecodeError, InputError, OutputError, QueryError
from fer_batch.plotting import abbreviate_classes, pick_colour, pick_text_colour, shorten_name
from fer_batch.run.files import AnalyzedFile, find_analyzed_file
from fer_batch.run.plan import read_planned_videos
from fer_batch.storage.folder import check_outside_run
from fer_batch.storage.media import uri_to_path
from fer_batch.timeline.database import Database
from fer_batch.timeline.sql import FACE, ROW_END_S, TIME_TOLERANCE_S, probability_columns
from fer_batch.video.canvas import Box, Canvas, render_text
from fer_batch.video.redraw import OUTPUT_FORMATS, RedrawResult, redraw_video

BLUR_MARGIN = 0.3
"""Share of a box's width and height that is hidden on each side of it."""
BLUR_BLOCKS = 6
"""Squares along each side of a hidden box with its margin; about four cover the face itself."""
TEXT_LINES = 36
"""Lines of text that fit into the frame's shorter side."""
MIN_TEXT_PX = 10
MAX_NAME_CHARS = 24


def write_overlay(
    database: Database,
    video: str | Path,
    target: Path,
    *,
    blur_faces: bool = False,
    on_progress: Callable[[float], None] = lambda time_s: None,
) -> RedrawResult:
    """See `Timeline.write_overlay`."""
    if target.suffix.lower() not in OUTPUT_FORMATS:
        raise OutputError(f"Cannot write {target} as a video: its name must end in .mp4 or .mkv")
    check_outside_run(target, database.out)
    if blur_faces and database.face_filter:
        raise QueryError(f"Cannot hide only {database.face_filter}: all other faces would stay visible")
    video_id = database.video_id(video)
    database = database.narrow([video_id])
    uri, version, moments, problem = database.sql(
        "SELECT uri, version, coalesce(moments, 0), coalesce(error, status) FROM videos "
        "WHERE video_id = $video",
        {"video": video_id},
    ).fetchall()[0]
    if not moments:
        raise QueryError(f"Cannot draw on {uri}: no frame was analyzed ({problem})")
    _check_target(uri, target)
    file = find_analyzed_file(read_planned_videos(database.out), video_id, uri, version)
    _check_unchanged(file)
    painter = _FacePainter(database, video_id, blur_faces)
    try:
        return redraw_video(uri, target, painter, offset=file.offset, on_progress=on_progress)
    except DecodeError as error:
        raise DecodeError(f"Cannot read {uri}: {error}") from error


def _check_unchanged(file: AnalyzedFile) -> None:
    try:
        file.open().close()
    except ChangedFileError as error:
        raise InputError(
            f"Cannot draw on {file.uri}: {error}; run `fer-batch analyze` on it again"
        ) from error
    except (OSError, DecodeError):
        pass  # reading the frames raises the same error


def _check_target(uri: str, target: Path) -> None:
    path = Path(uri_to_path(uri))
    if target.resolve() == path.resolve() or (target.exists() and path.exists() and target.samefile(path)):
        raise OutputError(f"Cannot write {target}: it is the video itself; name another file")


class _FacePainter:
    """Draw the faces of a video on its frames. The frames come in order of time."""

    def __init__(self, database: Database, video_id: str, blur: bool) -> None:
        self.blur = blur
        self.classes = database.classes
        self.colours = [pick_colour(name, self.classes) for name in self.classes]
        self.letters = list(abbreviate_classes(self.classes).values())
        sampled = database.sql(
            f"SELECT time_s, {ROW_END_S} AS end_s FROM moments WHERE video_id = $video ORDER BY ALL",
            {"video": video_id},
        ).fetchnumpy()
        self.sampled_s = np.stack([sampled["time_s"], sampled["end_s"]], axis=1)
        sides, columns = ("x0", "y0", "x1", "y1"), probability_columns(database)
        boxes = ", ".join(
            f"box_{side}, coalesce(lead(box_{side}) OVER track, box_{side}) AS next_{side}" for side in sides
        )
        rows = database.sql(
            f"""
            SELECT time_s, {ROW_END_S} AS end_s, {FACE} AS face, confidence, {boxes}, {", ".join(columns)},
                   lag(time_s) OVER track AS before_s, lead(time_s) OVER track AS next_s,
                   if(before_s IS NULL, time_s - step_s, time_s) AS hidden_from_s
            FROM tracks
            WHERE video_id = $video WINDOW track AS (PARTITION BY track_id ORDER BY time_s)
            ORDER BY hidden_from_s, track_id""",
            {"video": video_id},
        ).fetchnumpy()
        self.names = [shorten_name(name, MAX_NAME_CHARS) for name in rows.pop("face").tolist()]
        values = {name: np.ma.filled(column, np.nan) for name, column in rows.items()}
        self.confidence = values["confidence"]
        self.probabilities = np.stack([values[column] for column in columns], axis=1)
        self.boxes = np.stack([values[f"box_{side}"] for side in sides], axis=1)
        self.next_boxes = np.stack([values[f"next_{side}"] for side in sides], axis=1)
        self.time_s, self.next_s = values["time_s"], values["next_s"]
        self.hidden_from_s, self.shown_until_s = values["hidden_from_s"], values["end_s"]
        self.moves = self.next_s <= self.shown_until_s + TIME_TOLERANCE_S  # false for a track's last row
        self.hidden_until_s = np.where(np.isnan(self.next_s), self.shown_until_s, self.next_s)
        self.next_row = 0
        self.active_rows: list[int] = []
        """The rows that are shown or hidden in the last frame."""

    def __call__(self, canvas: Canvas, time_s: float) -> None:
        """Draw the faces at a time of the video."""
        now_s = time_s + TIME_TOLERANCE_S
        while self.next_row < len(self.time_s) and self.hidden_from_s[self.next_row] <= now_s:
            self.active_rows.append(self.next_row)
            self.next_row += 1
        self.active_rows = [
            row for row in self.active_rows if now_s < max(self.shown_until_s[row], self.hidden_until_s[row])
        ]
        if self.blur:
            self._hide_faces(canvas, now_s)
        shown = [row for row in self.active_rows if self.time_s[row] <= now_s < self.shown_until_s[row]]
        shown.sort(key=lambda row: self.boxes[row, 3] - self.boxes[row, 1])  # near faces are in front
        boxes = {row: _to_pixels(self._box_at(row, now_s, self.moves[row]), canvas) for row in shown}
        size = max(round(min(canvas.width, canvas.height) / TEXT_LINES), MIN_TEXT_PX)
        for row, box in boxes.items():
            others = [other for other_row, other in boxes.items() if other_row != row]
            self._draw_probabilities(canvas, row, box, others, size)
        for row, box in boxes.items():
            self._draw_box(canvas, row, box, size)

    def _hide_faces(self, canvas: Canvas, now_s: float) -> None:
        frame = np.searchsorted(self.sampled_s[:, 0], now_s, "right") - 1
        if frame < 0 or now_s >= self.sampled_s[frame, 1]:  # at a time that was not analyzed
            canvas.pixelate((0, 0, canvas.width, canvas.height), BLUR_BLOCKS)
            return
        for row in self.active_rows:
            if now_s < self.hidden_until_s[row]:
                box = self._box_at(row, now_s, True)
                margins = BLUR_MARGIN * (box[2:] - box[:2])
                hidden = np.concatenate([box[:2] - margins, box[2:] + margins])
                canvas.pixelate(_to_pixels(hidden, canvas), BLUR_BLOCKS)

    def _box_at(self, row: int, now_s: float, moves: bool) -> np.ndarray:
        """Return a row's box as shares of the frame, `(4,) float64` xyxy."""
        length_s = self.next_s[row] - self.time_s[row]
        share = min(max((now_s - self.time_s[row]) / length_s, 0.0), 1.0) if moves and length_s > 0 else 0.0
        box: np.ndarray = self.boxes[row] + share * (self.next_boxes[row] - self.boxes[row])
        return box

    def _draw_box(self, canvas: Canvas, row: int, box: Box, size: int) -> None:
        """Draw a box with the longest text that fits."""
        best = int(self.probabilities[row].argmax())
        colour, name = self.colours[best], self.names[row]
        ink = pick_text_colour(colour)
        canvas.outline((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), ink, 2)
        canvas.outline(box, colour, max(size // 10, 1) * 2)
        texts = [
            f"{name}  {self.classes[best]} {self.confidence[row]:.2f}",
            f"{name} {self.letters[best]}",
            f"{name.removeprefix('track ')} {self.letters[best]}",
        ]
        max_width = max(2 * (box[2] - box[0]), 6 * size)
        text = next((text for text in texts if render_text(text, size).shape[1] <= max_width), texts[-1])
        height, width = render_text(text, size).shape
        height, width = _round_up_to_even(height + size // 4), _round_up_to_even(width + size // 2)
        left = max(min(box[0] - 2, canvas.width - width), 0)
        top = box[1] - 2 - height if box[1] - 2 >= height else max(box[1], 0)
        canvas.fill((left, top, left + width, top + height), colour)
        canvas.write_text(text, left + size // 4, top + size // 8, size, ink)

    def _draw_probabilities(self, canvas: Canvas, row: int, box: Box, others: list[Box], size: int) -> None:
        """Draw a bar for each emotion beside a large face, or one stacked bar below a small face."""
        line = _round_up_to_even(round(size * 0.9))
        small = max(round(size * 0.75), 8)
        height = line * len(self.classes) + 4
        if box[3] - box[1] < 0.6 * height:
            self._draw_stacked_bar(canvas, row, box, _round_up_to_even(max(size // 3, 4)))
            return
        name_width = _round_up_to_even(max(render_text(name, small).shape[1] for name in self.classes) + 6)
        bar_width = _round_up_to_even(3 * size)
        width = name_width + bar_width + 4
        top = max(min(box[1], canvas.height - height), 0)
        left = min(
            (box[2] + 4, box[0] - 4 - width),
            key=lambda x: _count_hidden_px((x, top, x + width, top + height), others, canvas),
        )
        canvas.fill((left, top, left + width, top + height), "#ffffff", 0.75)
        for number, (name, colour) in enumerate(zip(self.classes, self.colours, strict=True)):
            y = top + 2 + number * line
            canvas.write_text(name, left + 4, y + (line - small) // 2 - 1, small, "#000000")
            start = left + name_width
            end = start + round(bar_width * float(self.probabilities[row, number]))
            canvas.fill((start, y + 2, end, y + line - 2), "#000000")
            canvas.fill((start, y + 3, end - 1, y + line - 3), colour)

    def _draw_stacked_bar(self, canvas: Canvas, row: int, box: Box, height: int) -> None:
        edges = box[0] + np.round(np.append(0, self.probabilities[row].cumsum()) * (box[2] - box[0]))
        top = min(box[3] + 2, canvas.height - height)
        for number, colour in enumerate(self.colours):
            canvas.fill((int(edges[number]), top, int(edges[number + 1]), top + height), colour)


def _round_up_to_even(count: int) -> int:
    """Round up to an even number, so that edges agree in the colour planes of half the size."""
    return (count + 1) // 2 * 2


def _to_pixels(box: np.ndarray, canvas: Canvas) -> Box:
    """Convert shares of the frame to even pixels."""
    half = [canvas.width / 2, canvas.height / 2]
    x0, y0, x1, y1 = np.round(box * [*half, *half])
    return 2 * int(x0), 2 * int(y0), 2 * int(x1), 2 * int(y1)


def _count_hidden_px(box: Box, others: list[Box], canvas: Canvas) -> int:
    """Count the pixels of a box that other boxes cover or that lie outside the frame."""
    inside = _overlap_px(box, (0, 0, canvas.width, canvas.height))
    return (box[2] - box[0]) * (box[3] - box[1]) - inside + sum(_overlap_px(box, other) for other in others)


def _overlap_px(one: Box, other: Box) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
