"""A timeline at a glance, as text."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def ribbons(tracks: "pd.DataFrame", width: int = 60) -> list[str]:
    """Rows of `tracks` of one video to a line a track: its most frequent emotion's first three letters,
    cell by cell.

    A cell is an equal part of the time from 0 to the last moment; "·" is a cell without that face.
    """
    if not len(tracks):
        return []
    cells = max(width // 4, 1)
    end_s = float(tracks["time_s"].max()) + 1e-6
    lines = []
    for track, rows in tracks.groupby("track_id"):
        cell = np.minimum((rows["time_s"].to_numpy() / end_s * cells).astype(int), cells - 1)
        words = [rows["emotion"].to_numpy()[cell == k] for k in range(cells)]
        marks = [max(sorted(set(word)), key=list(word).count)[:3] if len(word) else " · " for word in words]
        lines.append(f"track {track}  " + " ".join(marks))
    return lines
