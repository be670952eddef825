"""Strip: the videos of a run over time."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fer_batch.errors import QueryError
from fer_batch.plotting import new_figure, shorten_name
from fer_batch.timeline.cells import divide_videos
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name
from fer_batch.timeline.plots.drawing import (
    LINE,
    WIDTH_IN,
    draw_highest,
    draw_legend,
    draw_title,
    draw_unsampled,
    label_shares,
    label_time,
    sample_times,
)
from fer_batch.timeline.sql import LENGTH_S, check_emotion

CELLS = 200
MAX_VIDEOS = 60


def plot_strip(database: Database, emotion: str | None = None, *, absolute: bool = False) -> Figure:
    """See `Timeline.plot_strip`."""
    if emotion is not None:
        emotion = check_emotion(database, emotion)
    rows = database.sql(
        f"SELECT video_id, uri, {LENGTH_S}, count(*) OVER () FROM videos ORDER BY uri LIMIT {MAX_VIDEOS}"
    ).fetchall()
    if not rows:
        raise QueryError(f"Cannot plot {database.out}: it has no videos")
    cells = divide_videos(database, [video for video, *_ in rows], CELLS)
    lengths_s = [length_s for _, _, length_s, _ in rows]
    longest_s = max(lengths_s) or 1.0
    end = longest_s if absolute else 1.0
    row_in = 0.3 if len(rows) <= 30 else 0.2
    figure = new_figure(WIDTH_IN, 1.6 + row_in * len(rows))
    axes = figure.subplots()
    unsampled = False
    image = None
    for row, (video, *_) in enumerate(rows):
        length_s = lengths_s[row] or 1.0
        end_s = longest_s if absolute else length_s
        scale = end / end_s
        times_s = sample_times(end_s)
        means = cells[video].means_at(times_s)
        lane = (row + 0.92, row + 0.08)
        if emotion is None:
            draw_highest(axes, means, end, lane, row_in * 72 * 0.45, database.classes)
        else:
            image = axes.imshow(
                means[None, :, database.classes.index(emotion)], cmap="cividis", vmin=0, vmax=1,
                extent=(0, end, *lane), aspect="auto", interpolation="nearest",
            )  # fmt: skip
        is_unsampled = (cells[video].find(times_s) < 0) & (times_s < length_s)
        unsampled |= draw_unsampled(axes, is_unsampled, (end, length_s * scale), lane[::-1])
        axes.add_patch(
            Rectangle((0, row + 0.08), length_s * scale, 0.84, fill=False, edgecolor=LINE, linewidth=0.5)
        )
    axes.set(xlim=(0, end), ylim=(len(rows), 0))
    labels = [shorten_name(file_name(uri)) for _, uri, *_ in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.5, labels, fontsize=row_in * 28, parse_math=False)
    if absolute:
        label_time(axes, end)
    else:
        label_shares(axes, "of each video's length")
    shown = "the most probable emotion" if emotion is None else f"mean probability of {emotion}"
    limit = f"; the first {len(rows)} of {rows[0][3]:,} videos by name" if rows[0][3] > len(rows) else ""
    subtitle = f"{shown}, all faces of a video together{limit}"
    draw_title(figure, database.out.name, subtitle, database)
    if image is not None:
        figure.colorbar(image, ax=axes, label=f"mean probability of {emotion}", pad=0.01, fraction=0.03)
    draw_legend(figure, database.classes if emotion is None else (), unsampled=unsampled)
    return figure
