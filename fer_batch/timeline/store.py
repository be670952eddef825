"""The timeline of a finished run: queries, plots and exports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from fer_batch.storage.folder import FolderLike
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.co_occurrence import count_co_occurrences
from fer_batch.timeline.queries.episodes import find_episodes, find_peaks, find_turning_points
from fer_batch.timeline.queries.events import add_faces
from fer_batch.timeline.queries.means import resample_probabilities, smooth_probabilities, subtract_baseline
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.queries.shares import compute_shares

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fer_batch.timeline.export.export import ExportedFile
    from fer_batch.video.redraw import RedrawResult


class Timeline(Database):
    """The timeline of a finished run: its rows, queries, plots and exports.

    >>> timeline = fer_batch.open_timeline("results")
    >>> timeline.episodes("happy", video="talk.mp4", min_s=2).df()
    >>> timeline.shares(by="person", every_s=60).pl()
    >>> timeline.sql("SELECT uri, avg(p_happy) FROM tracks GROUP BY uri").to_arrow_table()
    >>> timeline.plot_ribbons("talk.mp4")

    A query returns a DuckDB relation, which is computed when it is read: with `.df()` (pandas), `.pl()`
    (Polars), `.to_arrow_table()` or `.fetchall()`. It reads only the columns and parts of files that it
    needs.

    Every query takes the keyword arguments `video` (id, path or file name), `person`, `track`, `start_s` and
    `end_s` (seconds of the video, `[start_s, end_s)`), and uses the rows of `tracks` that match all of them.
    It raises QueryError if there is no such video or person. A row of `tracks` is a face in a sampled frame.
    Its `emotion` is the most probable one, its `confidence` the probability of that emotion. A sampled frame
    stands for one step, the mean interval between the video's sampled frames.
    """

    def __repr__(self) -> str:
        ((videos, moments, tracks),) = self.sql(
            "SELECT count(*), coalesce(sum(moments), 0)::BIGINT, coalesce(sum(tracks), 0)::BIGINT FROM videos"
        ).fetchall()
        return f"<Timeline of {self.out}: {videos:,} videos, {moments:,} sampled frames, {tracks:,} tracks>"

    def videos(self) -> "pd.DataFrame":
        """Return one row for each video: its status, counts, and the mean probability of each emotion."""
        return self.sql("SELECT * FROM summary ORDER BY uri").df()

    def to_pandas(self, **filters: Unpack[FaceFilter]) -> "pd.DataFrame":
        """Return the rows of `tracks` that match all arguments, in order of video, track and time."""
        where, params = select_faces(self, **filters)
        query = f"SELECT * FROM tracks WHERE {where} ORDER BY uri, track_id, time_s"
        return self.sql(query, params).df()

    shares = compute_shares
    episodes = find_episodes
    peaks = find_peaks
    turning_points = find_turning_points
    co_occurrence = count_co_occurrences
    baseline = subtract_baseline
    smooth = smooth_probabilities
    resample = resample_probabilities
    join_events = add_faces

    def plot_ribbons(self, video: str | Path) -> "Figure":
        """Draw a lane over time for each face of a video: its most probable emotion and all probabilities."""
        from fer_batch.timeline.plots.ribbons import plot_ribbons

        return plot_ribbons(self, video)

    def plot_strip(self, emotion: str | None = None, *, absolute: bool = False) -> "Figure":
        """Draw a row over time for each video: the most probable emotion of all faces, or one's probability.

        Time is a share of each video's length, or with `absolute` in seconds.
        """
        from fer_batch.timeline.plots.strip import plot_strip

        return plot_strip(self, emotion, absolute=absolute)

    def plot_shares(self, video: str | Path | None = None, *, by_person: bool = False) -> "Figure":
        """Draw a bar for each video, or each face of `video`, or each person: the share of each emotion."""
        from fer_batch.timeline.plots.shares import plot_shares

        return plot_shares(self, video, by_person=by_person)

    def export(
        self,
        target: str | Path,
        format: str | None = None,
        videos: Sequence[str | Path] = (),
        threshold: float = 0.0,
        min_s: float = 0.0,
    ) -> "list[ExportedFile]":
        """Write videos (all by default) as CSV, JSON lines, WebVTT, ELAN, TextGrid or XLSX.

        `target` is a file, whose suffix says the format, or a folder, which gets one file for each video in
        `format`: "csv", "jsonl", "vtt", "eaf", "textgrid" or "xlsx". Captions, annotations and workbooks have
        episodes of at least `threshold` and `min_s`.
        """
        from fer_batch.timeline.export.export import export

        return list(export(self, target, format, videos, threshold, min_s))

    def write_overlay(
        self,
        video: str | Path,
        target: str | Path,
        *,
        blur_faces: bool = False,
        on_progress: Callable[[float], None] = lambda time_s: None,
    ) -> "RedrawResult":
        """Write a copy of a video (.mp4 or .mkv) with boxes, names and emotions, or with its faces hidden.

        `on_progress` receives the time in seconds that has been written.
        """
        from fer_batch.timeline.plots.overlay import write_overlay

        return write_overlay(self, video, Path(target), blur_faces=blur_faces, on_progress=on_progress)

    def write_report(self, video: str | Path, target: str | Path) -> int:
        """Write a video's timeline as one HTML file that needs no network; return its size in bytes."""
        from fer_batch.timeline.viewer.page import write_report

        return write_report(self, video, Path(target))


def open_timeline(out: FolderLike) -> Timeline:
    """Open the timeline in a run folder that `fer-batch analyze --out OUT` has written.

    Raises OutputError if `out` holds no finished run.
    """
    return Timeline(out)
