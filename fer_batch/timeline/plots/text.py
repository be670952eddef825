"""Ribbons as text."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def format_ribbons(tracks: "pd.DataFrame", width: int = 60) -> list[str]:
    """Format the rows of one video as one line for each track, of `width` letters.

    A line has the first three letters of the most frequent emotion in each of equal parts of the time from 0
    to the last row, or "·" without a face.
    """
    if not len(tracks):
        return []
    bins = max(width // 4, 1)
    end_s = float(tracks["time_s"].max()) + 1e-6
    lines = []
    for track, rows in tracks.groupby("track_id"):
        numbers = np.minimum((rows["time_s"].to_numpy() / end_s * bins).astype(int), bins - 1)
        emotions = rows["emotion"].groupby(numbers).agg(lambda part: part.mode()[0][:3])
        lines.append(f"track {track}  " + " ".join(emotions.get(number, " · ") for number in range(bins)))
    return lines
