"""A video's moments in as many cells as a picture has room for: what was looked at, and how faces looked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_batch.schema import probability_column
from fer_batch.timeline.queries.episodes import BREAK, STEP_S
from fer_batch.timeline.queries.expressions import FACE
from fer_batch.timeline.store import Timeline


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Equally many moments of a video in each cell, in order of time."""

    start_s: np.ndarray
    """`(N,) float64` seconds."""
    end_s: np.ndarray
    """`(N,) float64`: where the next cell begins, or what was not looked at."""
    gaps: np.ndarray
    """`(G, 2) float64`: from when to when it was not looked at, between moments."""
    faces: dict[str, np.ndarray]
    """By what a face is called (or "" for all together): its mean probabilities, `(N, classes) float64`, NaN
    where it was not found."""

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """`(T,) int64`: the cell of each time, -1 where it was not looked at."""
        cell = _within(self.start_s, self.end_s, times_s)
        return np.where(_within(self.gaps[:, 0], self.gaps[:, 1], times_s) < 0, cell, -1)


def cells_of(
    timeline: Timeline, videos: Sequence[str], most: int, faces: Sequence[str] | None = None
) -> dict[str, Cells]:
    """At most so many cells of each video (by its video_id), of all faces together or of these.

    A moment stands for the time until the next one, or until the end of what could be read; where that is
    more than `BREAK` steps away, for a step.
    """
    columns = [probability_column(name) for name in timeline.classes]
    values: dict[str, Any] = {f"video{number}": video for number, video in enumerate(videos)}
    chosen = f"video_id IN ({', '.join(f'${name}' for name in values)})"
    values["most"] = most
    celled = f"""
        WITH ordered AS (
            SELECT video_id, time_s, {STEP_S} AS step_s, lead(time_s, 1, read_s) OVER its AS next_s,
                   (row_number() OVER its - 1) // greatest(ceil(videos.moments / $most), 1)::BIGINT AS cell
            FROM (SELECT video_id, time_s FROM moments) JOIN videos USING (video_id)
            WHERE {chosen}
            WINDOW its AS (PARTITION BY video_id ORDER BY time_s)
        ), celled AS (
            SELECT video_id, cell, time_s, next_s,
                   CASE WHEN next_s - time_s <= {BREAK} * step_s THEN next_s ELSE time_s + step_s END AS end_s
            FROM ordered
        )"""
    spans = timeline.run(
        f"{celled} SELECT video_id, cell, min(time_s) AS start_s, max(end_s) AS end_s "
        "FROM celled GROUP BY ALL ORDER BY ALL",
        values,
    ).fetchnumpy()
    gaps = timeline.run(
        f"{celled} SELECT video_id, end_s, next_s FROM celled WHERE end_s < next_s ORDER BY ALL", values
    ).fetchnumpy()
    face, wanted = ("''", "true") if faces is None else (FACE, f"list_contains($faces, {FACE})")
    means = timeline.run(
        f"{celled} SELECT video_id, {face} AS face, cell, {', '.join(f'avg({c}) AS {c}' for c in columns)} "
        f"FROM tracks JOIN celled USING (video_id, time_s) WHERE {chosen} AND {wanted} GROUP BY ALL",
        values if faces is None else values | {"faces": list(faces)},
    ).fetchnumpy()
    table = np.stack([np.asarray(means[column], float) for column in columns], axis=1)
    return {
        video: _cells(video, spans, gaps, means, table, [""] if faces is None else faces) for video in videos
    }


def _within(starts: np.ndarray, ends: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """The number of the range `[start, end)` that each time is in, -1 for none; the ranges are in order."""
    number = np.searchsorted(starts, times_s, "right") - 1
    return np.where(times_s < np.append(ends, -np.inf)[number], number, -1)


def _cells(
    video: str,
    spans: dict[str, np.ndarray],
    gaps: dict[str, np.ndarray],
    means: dict[str, np.ndarray],
    table: np.ndarray,
    faces: Sequence[str],
) -> Cells:
    its = spans["video_id"] == video
    start_s, end_s = spans["start_s"][its], spans["end_s"][its]
    mine = means["video_id"] == video
    rows: dict[str, np.ndarray] = {}
    for face in faces:
        found = mine & (means["face"] == face)
        rows[face] = np.full((len(start_s), table.shape[1]), np.nan)
        rows[face][means["cell"][found]] = table[found]
    between = np.stack([gaps[name][gaps["video_id"] == video] for name in ("end_s", "next_s")], axis=1)
    return Cells(start_s=start_s, end_s=end_s, gaps=between, faces=rows)
