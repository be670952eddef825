"""Bins: the sampled frames of videos, and the mean probabilities of faces, in parts of equal size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_batch.timeline.database import Database
from fer_batch.timeline.sql import FACE, ROW_END_S, TIME_TOLERANCE_S, probability_columns


@dataclass(frozen=True, kw_only=True)
class VideoBins:
    """The sampled frames of a video in bins of equal number, in order of time."""

    start_s: np.ndarray
    """`(N,) float64` seconds."""
    end_s: np.ndarray
    """`(N,) float64` seconds: the start of the next bin, or of a gap."""
    gaps_s: np.ndarray
    """`(G, 2) float64` seconds: start and end of each time without sampled frames."""
    faces: dict[str, np.ndarray]
    """Mean probabilities, `(N, classes) float64`, NaN without a face; by a face's name, "" for all faces."""

    def find(self, times_s: np.ndarray) -> np.ndarray:
        """Return the bin of each time, `(T,) int64`, -1 for times without sampled frames."""
        bins = _find_ranges(self.start_s, self.end_s, times_s)
        return np.where(_find_ranges(self.gaps_s[:, 0], self.gaps_s[:, 1], times_s) < 0, bins, -1)

    def means_at(self, times_s: np.ndarray, face: str = "") -> np.ndarray:
        """Return a face's mean probabilities at each time, `(T, classes) float64`, NaN without a face."""
        means = self.faces[face]
        return np.vstack([means, np.full((1, means.shape[1]), np.nan)])[self.find(times_s)]


def bin_videos(
    database: Database, videos: Sequence[str], max_bins: int, faces: Sequence[str] | None = None
) -> dict[str, VideoBins]:
    """Divide each video (by its id) into at most `max_bins` bins, for all faces together or for each of
    `faces`.

    A time of the part that was read in which no sampled frame lasts is a gap.
    """
    database = database.narrow(videos)
    columns = probability_columns(database)
    params: dict[str, str | int | list[str]] = {
        f"video{number}": video for number, video in enumerate(videos)
    }
    chosen = f"video_id IN ({', '.join(f'${name}' for name in params)})"
    params["max_bins"] = max_bins
    binned = f"""
        WITH binned AS (
            SELECT video_id, time_s, {ROW_END_S} AS end_s, lead(time_s, 1, read_s) OVER video AS next_s,
                   (row_number() OVER video - 1)
                   // greatest(ceil(videos.moments / $max_bins), 1)::BIGINT AS bin
            FROM (SELECT video_id, time_s, step_s FROM moments) JOIN videos USING (video_id)
            WHERE {chosen}
            WINDOW video AS (PARTITION BY video_id ORDER BY time_s)
        )"""
    spans = database.sql(
        f"{binned} SELECT video_id, bin, min(time_s) AS start_s, max(end_s) AS end_s "
        "FROM binned GROUP BY ALL ORDER BY ALL",
        params,
    ).fetchnumpy()
    gaps = database.sql(
        f"{binned} SELECT video_id, end_s, next_s FROM binned "
        f"WHERE end_s + {TIME_TOLERANCE_S} < next_s ORDER BY ALL",
        params,
    ).fetchnumpy()
    face, condition = ("''", "true") if faces is None else (FACE, f"list_contains($faces, {FACE})")
    rows = database.sql(
        f"{binned} SELECT video_id, {face} AS face, bin, {', '.join(f'avg({c}) AS {c}' for c in columns)} "
        f"FROM tracks JOIN binned USING (video_id, time_s) WHERE {chosen} AND {condition} GROUP BY ALL",
        params if faces is None else params | {"faces": list(faces)},
    ).fetchnumpy()
    means = np.stack([np.asarray(rows[column], float) for column in columns], axis=1)
    bins = {}
    for video in videos:
        of_video = spans["video_id"] == video
        table = {name: np.full((of_video.sum(), len(columns)), np.nan) for name in faces or [""]}
        for name, values in table.items():
            mask = (rows["video_id"] == video) & (rows["face"] == name)
            values[rows["bin"][mask]] = means[mask]
        of_gaps = gaps["video_id"] == video
        bins[video] = VideoBins(
            start_s=spans["start_s"][of_video],
            end_s=spans["end_s"][of_video],
            gaps_s=np.stack([gaps[name][of_gaps] for name in ("end_s", "next_s")], axis=1),
            faces=table,
        )
    return bins


def _find_ranges(starts: np.ndarray, ends: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return the number of the range `[start, end)` that each time is in, -1 for none; ranges are sorted."""
    number = np.searchsorted(starts, times_s, "right") - 1
    return np.where(times_s < np.append(ends, -np.inf)[number], number, -1)
