"""Pictures of a timeline: ribbons of a video's faces, a strip of an archive's videos, shares of emotions.

Colours are those of `colours`, and what is wide enough also has its emotion's letters, so that nothing is
lost in grey.
"""

import io
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fer_batch.errors import OutputError, QueryError
from fer_batch.plotting import abbreviate_classes, pick_colour, pick_text_colour
from fer_batch.schema import probability_column
from fer_batch.storage.atomic import write_bytes
from fer_batch.storage.folder import check_outside_run
from fer_batch.timeline.plots.marks import (
    COLUMNS,
    GREY,
    LINE,
    bare_axes,
    best,
    coloured,
    draw_legend,
    draw_letters,
    draw_raster,
    draw_title,
    draw_unseen,
    file_name,
    fitting,
    label_time,
    natural,
    runs,
    shortened,
    stacked,
    taken,
)
from fer_batch.timeline.queries.expressions import FACE
from fer_batch.timeline.store import Timeline
from fer_batch.timeline.viewer.cells import cells_of

SUFFIXES = (".png", ".svg")
DPI = 150
WIDTH_IN = 10.0
CELLS = 400
"""Of a video in ribbons; three pixels each."""
STRIP_CELLS = 200
LENGTH_S = "greatest(coalesce(duration_s, 0), coalesce(read_s, 0))"
"""Of a row of `videos`: what its container says, or what could be read where that is more."""
MOST_FACES, MOST_VIDEOS, MOST_BARS = 12, 60, 40
"""Rows of a picture; it says so where there are more."""


def ribbons(timeline: Timeline, video: str) -> Figure:
    """A lane for each face of a video (by its video_id) over time: above, the emotion with the highest mean
    probability; below, the probabilities of all, stacked. At most the `MOST_FACES` that are seen longest.

    Raises QueryError where nothing of the video was looked at.
    """
    uri, length_s, reason = timeline.run(
        f"SELECT uri, {LENGTH_S}, CASE WHEN coalesce(moments, 0) = 0 THEN coalesce(error, status) END "
        "FROM videos WHERE video_id = $video",
        {"video": video},
    ).fetchall()[0]
    if reason is not None:
        raise QueryError(f"{uri} has no moment that was looked at ({reason}): there is nothing to draw")
    named = timeline.run(
        f"SELECT {FACE} AS face, count(*) OVER () AS faces FROM tracks WHERE video_id = $video "
        f"GROUP BY face ORDER BY count(*) DESC, min(time_s), face LIMIT {MOST_FACES}",
        {"video": video},
    ).fetchall()
    count = named[0][1] if named else 0
    faces = sorted((face for face, _ in named), key=natural)
    cells = cells_of(timeline, [video], CELLS, faces)[video]
    end_s = max(length_s, float(cells.end_s[-1]))
    lane_in = 0.85 if len(faces) <= 6 else 0.5
    figure = Figure(figsize=(WIDTH_IN, 1.5 + lane_in * max(len(faces), 1)), layout="constrained")
    axes = figure.subplots()
    times_s = (np.arange(COLUMNS) + 0.5) / COLUMNS * end_s
    at = cells.at(times_s)
    for lane, face in enumerate(faces):
        means = taken(cells.faces[face], at)
        top = best(means)
        draw_raster(axes, stacked(means, timeline.classes), (0, end_s), (lane + 0.92, lane + 0.4))
        draw_raster(axes, coloured(top, timeline.classes)[None], (0, end_s), (lane + 0.38, lane + 0.08))
        draw_letters(axes, top, end_s, lane + 0.23, min(0.3 * lane_in * 72 * 0.75, 9), timeline.classes)
    for start, end in runs(at < 0):
        draw_unseen(
            axes, times_s[start] - times_s[0], times_s[end - 1] + times_s[0], -0.02, max(len(faces), 1)
        )
    if not faces:
        axes.text(end_s / 2, 0.5, "no face was found", ha="center", va="center", color=GREY)
    axes.set(xlim=(0, end_s), ylim=(max(len(faces), 1), -0.02))
    axes.set_yticks(np.arange(len(faces)) + 0.5, [shortened(face) for face in faces], parse_math=False)
    label_time(axes, end_s)
    more = f"; the {len(faces)} faces seen longest of {count:,}" if count > len(faces) else ""
    draw_title(
        figure, file_name(uri), f"above the most probable emotion, below the probabilities of all{more}"
    )
    draw_legend(figure, timeline.classes, unseen=bool((at < 0).any()))
    return figure


def strip(timeline: Timeline, emotion: str | None = None, *, absolute: bool = False) -> Figure:
    """A row a video, of all its faces together: the emotion with the highest mean probability over time, or
    one emotion's probability. Time is a share of each video's length, or in seconds. At most `MOST_VIDEOS`.

    Raises QueryError where there is no video, or no such emotion.
    """
    if emotion is not None and emotion not in timeline.classes:
        raise QueryError(f"{emotion} is no emotion of this model: {', '.join(timeline.classes)}")
    rows = timeline.run(
        f"SELECT video_id, uri, {LENGTH_S}, count(*) OVER () FROM videos ORDER BY uri LIMIT {MOST_VIDEOS}"
    ).fetchall()
    if not rows:
        raise QueryError(f"{timeline.out} has no videos: there is nothing to draw")
    cells = cells_of(timeline, [video for video, *_ in rows], STRIP_CELLS)
    longest_s = max(max(length_s, *cells[video].end_s, 0) for video, _, length_s, _ in rows) or 1.0
    end = longest_s if absolute else 1.0
    row_in = 0.3 if len(rows) <= 30 else 0.2
    figure = Figure(figsize=(WIDTH_IN, 1.6 + row_in * len(rows)), layout="constrained")
    axes = figure.subplots()
    unseen = False
    image = None
    for row, (video, _, length_s, _) in enumerate(rows):
        its_s = max(length_s, *cells[video].end_s, 0) or 1.0
        last_s = longest_s if absolute else its_s
        times_s = (np.arange(COLUMNS) + 0.5) / COLUMNS * last_s
        at = cells[video].at(times_s)
        means = taken(cells[video].faces[""], at)
        span, place = (0, end), (row + 0.92, row + 0.08)
        if emotion is None:
            top = best(means)
            draw_raster(axes, coloured(top, timeline.classes)[None], span, place)
            draw_letters(axes, top, end, row + 0.5, row_in * 72 * 0.45, timeline.classes)
        else:
            values = means[None, :, timeline.classes.index(emotion)]
            image = axes.imshow(
                values, cmap="cividis", vmin=0, vmax=1, extent=(*span, *place), aspect="auto",
                interpolation="nearest",
            )  # fmt: skip
        share = end / last_s
        for first, after in runs((at < 0) & (times_s < its_s)):
            left, right = times_s[first] - times_s[0], min(times_s[after - 1] + times_s[0], its_s)
            draw_unseen(axes, left * share, right * share, row + 0.08, row + 0.92)
            unseen = True
        axes.add_patch(
            Rectangle((0, row + 0.08), its_s * share, 0.84, fill=False, edgecolor=LINE, linewidth=0.5)
        )
    axes.set(xlim=(0, end), ylim=(len(rows), 0))
    axes.set_yticks(
        np.arange(len(rows)) + 0.5, [shortened(file_name(uri)) for _, uri, *_ in rows], fontsize=row_in * 28,
        parse_math=False,
    )  # fmt: skip
    if absolute:
        label_time(axes, end)
    else:
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.set_xlabel("of each video's length")
        bare_axes(axes)
    of = "the most probable emotion" if emotion is None else f"mean probability of {emotion}"
    more = f"; the first {len(rows)} of {rows[0][3]:,} videos by name" if rows[0][3] > len(rows) else ""
    draw_title(figure, timeline.out.name, f"{of}, all faces of a video together{more}")
    if image is not None:
        figure.colorbar(image, ax=axes, label=f"mean probability of {emotion}", pad=0.01, fraction=0.03)
    draw_legend(figure, timeline.classes if emotion is None else (), unseen=unseen)
    return figure


def shares(timeline: Timeline, video: str | None = None, *, by_person: bool = False) -> Figure:
    """A bar a video, a person, or a face of one video: which share of its moments each emotion has.

    Raises QueryError where no face was found, or nobody is named.
    """
    where = "true" if video is None else "video_id = $video"
    values = {} if video is None else {"video": video}
    row = "uri" if video is None else FACE
    if by_person:
        row, where = "person", f"{where} AND person IS NOT NULL"
    counted = timeline.run(
        f"""
        WITH counts AS (
            SELECT {row} AS row, emotion, count(*) AS moments FROM tracks WHERE {where} GROUP BY ALL
        ), rows AS (
            SELECT row, sum(moments) AS moments, count(*) OVER () AS rows FROM counts GROUP BY row
            ORDER BY {"row" if video is None or by_person else "sum(moments) DESC, row"} LIMIT {MOST_BARS}
        )
        SELECT row, emotion, counts.moments / rows.moments, rows.moments::BIGINT, rows
        FROM counts JOIN rows USING (row)""",
        values,
    ).fetchall()
    if not counted:
        raise QueryError(
            "no face has a person: name them with `fer-batch assign`"
            if by_person
            else "no face was found: there is nothing to draw"
        )
    names = sorted({name for name, *_ in counted}, key=natural)
    moments = {name: moments for name, _, _, moments, _ in counted}
    height_in = 0.34 if len(names) <= 20 else 0.24
    figure = Figure(figsize=(WIDTH_IN, 1.4 + height_in * len(names)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(names))
    size = height_in * 72 * 0.38
    for emotion in timeline.classes:
        column = probability_column(emotion)
        its = {name: share for name, found, share, *_ in counted if probability_column(found) == column}
        width = np.array([its.get(name, 0.0) for name in names])
        colour = pick_colour(emotion, timeline.classes)
        bars = axes.barh(range(len(names)), width, 0.8, left, color=colour, edgecolor="white", linewidth=0.5)
        letters = abbreviate_classes(timeline.classes)[emotion]
        inside = [fitting([f"{letters} {100 * w:.0f} %", letters], w, size) for w in width]
        axes.bar_label(
            bars, inside, label_type="center", fontsize=size, color=pick_text_colour(colour), parse_math=False
        )
        left += width
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    labels = [f"{shortened(file_name(n) if row == 'uri' else n)}  ({moments[n]:,})" for n in names]
    axes.set_yticks(range(len(names)), labels, fontsize=height_in * 26, parse_math=False)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_xlabel("of the moments at which the face was seen (their number in brackets)")
    bare_axes(axes)
    rows = counted[0][4]
    kind = "persons" if by_person else "videos" if video is None else "faces"
    named = timeline.run("SELECT uri FROM videos WHERE video_id = $video", values).fetchall() if video else []
    draw_title(
        figure,
        file_name(named[0][0]) if named else timeline.out.name,
        "how often each emotion is the most probable"
        + (f"; the first {len(names)} of {rows:,} {kind}" if rows > len(names) else ""),
    )
    draw_legend(figure, timeline.classes, unseen=None)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a picture as its suffix says, .png (150 dpi) or .svg; the same timeline gives the same bytes.

    Raises OutputError where it can't be written.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "fer_batch"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(content, format=path.suffix.lower()[1:], dpi=DPI, metadata=metadata)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error


def check_picture(path: Path, out: Path) -> None:
    """Raise OutputError for a file that is neither .png nor .svg, or lies in the run `out`."""
    check_outside_run(path, out)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} is no kind of picture that is made here: name a .png or a .svg")
