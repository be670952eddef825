"""Shares: a bar of emotions for each video, face or person."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fer_batch.errors import QueryError
from fer_batch.plotting import abbreviate_classes, new_figure, pick_colour, pick_text_colour, shorten_name
from fer_batch.schema import probability_column
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name, natural_key
from fer_batch.timeline.plots.drawing import WIDTH_IN, choose_text, draw_legend, draw_title, label_shares
from fer_batch.timeline.sql import FACE, FACE_WITH_LOCAL_NUMBERS

MAX_BARS = 40


def plot_shares(database: Database, video: str | Path | None = None, *, by_person: bool = False) -> Figure:
    """See `Timeline.plot_shares`."""
    params = {} if video is None else {"video": database.video_id(video)}
    database = database.narrow(params.values()) if params else database
    where = "true" if video is None else "video_id = $video"
    bar = "uri" if video is None else FACE
    if by_person:
        bar = FACE_WITH_LOCAL_NUMBERS if video is None and database.numbers_are_local else "person"
        where = f"{where} AND person IS NOT NULL"
    rows = database.sql(
        f"""
        WITH counts AS (
            SELECT {bar} AS bar, emotion, count(*) AS n FROM tracks WHERE {where} GROUP BY ALL
        ), bars AS (
            SELECT bar, sum(n) AS n, count(*) OVER () AS bars FROM counts GROUP BY bar
            ORDER BY {"bar" if video is None or by_person else "sum(n) DESC, bar"} LIMIT {MAX_BARS}
        )
        SELECT bar, emotion, counts.n / bars.n, bars.n::BIGINT, bars FROM counts JOIN bars USING (bar)""",
        params,
    ).fetchall()
    if not rows:
        raise QueryError(
            "Cannot plot shares: "
            + (
                "no face has a person; `fer-batch assign` and `fer-batch people` give persons"
                if by_person
                else f"no face {'matches the filter' if database.face_filter else 'was found'}"
            )
        )
    counts = {name: n for name, _, _, n, _ in rows}
    names = sorted(counts, key=natural_key)
    bar_in = 0.34 if len(names) <= 20 else 0.24
    figure = new_figure(WIDTH_IN, 1.4 + bar_in * len(names))
    axes = figure.subplots()
    left = np.zeros(len(names))
    size = bar_in * 72 * 0.38
    for emotion, letters in abbreviate_classes(database.classes).items():
        column = probability_column(emotion)
        shares = {name: share for name, other, share, *_ in rows if probability_column(other) == column}
        width = np.array([shares.get(name, 0.0) for name in names])
        colour = pick_colour(emotion, database.classes)
        bars = axes.barh(range(len(names)), width, 0.8, left, color=colour, edgecolor="white", linewidth=0.5)
        texts = [choose_text([f"{letters} {100 * w:.0f} %", letters], w, size) for w in width]
        ink = pick_text_colour(colour)
        axes.bar_label(bars, texts, label_type="center", fontsize=size, color=ink, parse_math=False)
        left += width
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    labels = [f"{shorten_name(file_name(n) if bar == 'uri' else n)}  ({counts[n]:,})" for n in names]
    axes.set_yticks(range(len(names)), labels, fontsize=bar_in * 26, parse_math=False)
    label_shares(axes, "of the faces in sampled frames (their number in brackets)")
    kind = "persons" if by_person else "videos" if video is None else "faces"
    total = rows[0][4]
    limit = f"; the first {len(names)} of {total:,} {kind}" if total > len(names) else ""
    title = database.out.name
    if video is not None:
        ((uri,),) = database.sql("SELECT uri FROM videos WHERE video_id = $video", params).fetchall()
        title = file_name(uri)
    draw_title(figure, title, f"how often each emotion is the most probable{limit}", database)
    draw_legend(figure, database.classes, unsampled=None)
    return figure
