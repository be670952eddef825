"""Ribbons: the faces of one video over time."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fer_batch.errors import QueryError
from fer_batch.plotting import new_figure, shorten_name
from fer_batch.timeline.cells import divide_videos
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name, natural_key
from fer_batch.timeline.plots.drawing import (
    GREY,
    WIDTH_IN,
    draw_highest,
    draw_legend,
    draw_raster,
    draw_title,
    draw_unsampled,
    label_time,
    sample_times,
    stack_classes,
)
from fer_batch.timeline.sql import FACE, LENGTH_S

CELLS = 400
"""Cells of a video: three pixels each."""
MAX_FACES = 12


def plot_ribbons(database: Database, video: str | Path) -> Figure:
    """See `Timeline.plot_ribbons`."""
    video_id = database.video_id(video)
    database = database.narrow([video_id])
    uri, length_s, problem = database.sql(
        f"SELECT uri, {LENGTH_S}, CASE WHEN coalesce(moments, 0) = 0 THEN coalesce(error, status) END "
        "FROM videos WHERE video_id = $video",
        {"video": video_id},
    ).fetchall()[0]
    if problem is not None:
        raise QueryError(f"Cannot plot {uri}: no frame was analyzed ({problem})")
    rows = database.sql(
        f"SELECT {FACE} AS face, count(*) OVER () AS faces FROM tracks WHERE video_id = $video "
        f"GROUP BY face ORDER BY round(sum(step_s), 3) DESC, min(time_s), face LIMIT {MAX_FACES}",
        {"video": video_id},
    ).fetchall()
    faces = sorted((face for face, _ in rows), key=natural_key)
    lanes = max(len(faces), 1)
    cells = divide_videos(database, [video_id], CELLS, faces)[video_id]
    end_s = length_s or 1.0
    lane_in = 0.85 if len(faces) <= 6 else 0.5
    figure = new_figure(WIDTH_IN, 1.5 + lane_in * lanes)
    axes = figure.subplots()
    times_s = sample_times(end_s)
    for lane, face in enumerate(faces):
        means = cells.means_at(times_s, face)
        draw_raster(axes, stack_classes(means, database.classes), (0, end_s), (lane + 0.92, lane + 0.4))
        size = min(0.3 * lane_in * 72 * 0.75, 9)
        draw_highest(axes, means, end_s, (lane + 0.38, lane + 0.08), size, database.classes)
    unsampled = draw_unsampled(axes, cells.find(times_s) < 0, (end_s, end_s), (-0.02, lanes))
    if not faces:
        text = "no face matches the filter" if database.face_filter else "no face was found"
        axes.text(end_s / 2, 0.5, text, ha="center", va="center", color=GREY)
    axes.set(xlim=(0, end_s), ylim=(lanes, -0.02))
    axes.set_yticks(np.arange(len(faces)) + 0.5, [shorten_name(face) for face in faces], parse_math=False)
    label_time(axes, end_s)
    count = rows[0][1] if rows else 0
    limit = f"; the {len(faces)} faces seen longest of {count:,}" if count > len(faces) else ""
    subtitle = f"above the most probable emotion, below the probabilities of all{limit}"
    draw_title(figure, file_name(uri), subtitle, database)
    draw_legend(figure, database.classes, unsampled=unsampled)
    return figure
