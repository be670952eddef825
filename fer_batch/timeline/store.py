"""The timeline of a finished run: queries, plots and exports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import duckdb
import pyarrow as pa

from fer_batch.storage.folder import FolderLike
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries import (
    baseline,
    co_occurrence,
    episodes,
    events,
    peaks,
    resampling,
    shares,
    smoothing,
    turning_points,
)
from fer_batch.timeline.queries.selection import FaceFilter, select_faces
from fer_batch.timeline.views import MIN_CONFIDENCE, MIN_EPISODE_S

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

    def to_pandas(
        self,
        video: str | Path | None = None,
        track: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        person: str | None = None,
    ) -> "pd.DataFrame":
        """Return the rows of `tracks` that match all arguments, in order of video, track and time."""
        selection = select_faces(self, video=video, person=person, track=track, start_s=start_s, end_s=end_s)
        query = f"SELECT * FROM tracks WHERE {selection.where} ORDER BY uri, track_id, time_s"
        return self.sql(query, selection.params).df()

    def shares(
        self,
        by: str | Sequence[str] = ("video",),
        every_s: float | None = None,
        **filters: Unpack[FaceFilter],
    ) -> duckdb.DuckDBPyRelation:
        """Compute how often each emotion is the most probable one: one row for each group and emotion.

        `by` names the groups: "video", "person", "track" and columns of a manifest; an empty list makes one
        group. With `every_s`, groups are divided into intervals of so many seconds from `start_s` on.

        Columns besides those of the groups: emotion, moments (rows of `tracks` with that emotion), seconds
        (that these stand for), share (of the group's rows, 0 to 1) and mean (probability over the group's
        rows, 0 to 1).
        """
        return shares.shares(self, by, every_s, **filters)

    def episodes(
        self,
        emotion: str | None = None,
        threshold: float = MIN_CONFIDENCE,
        min_s: float = MIN_EPISODE_S,
        **filters: Unpack[FaceFilter],
    ) -> duckdb.DuckDBPyRelation:
        """Find runs of one emotion of one face with a confidence of at least `threshold` in each row.

        An episode lasts from its first row to one step after its last row, at least `min_s` seconds. It ends
        where no row follows within 1.5 steps.

        Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments (number of
        rows), peak_s (time of the first row with the highest confidence), peak and mean (of the confidence).
        """
        return episodes.episodes(self, emotion, threshold, min_s, **filters)

    def peaks(
        self,
        emotion: str | None = None,
        threshold: float = MIN_CONFIDENCE,
        distance_s: float = 1.0,
        **filters: Unpack[FaceFilter],
    ) -> duckdb.DuckDBPyRelation:
        """Find rows at which an emotion's probability is the highest within `distance_s` before and after.

        Without `emotion`, these are the peaks of the most probable emotion, compared with rows of the same
        emotion. A peak has a probability of at least `threshold`. Of equal probabilities, the first counts.

        Columns: video_id, uri, track_id, person, emotion, time_s, probability.
        """
        return peaks.peaks(self, emotion, threshold, distance_s, **filters)

    def turning_points(self, min_s: float = 1.0, **filters: Unpack[FaceFilter]) -> duckdb.DuckDBPyRelation:
        """Find the times at which a face changes from one emotion to another, both lasting `min_s` or longer.

        Columns: video_id, uri, track_id, person, time_s (the start of the second emotion), before, after,
        gap_s (seconds between the two).
        """
        return turning_points.turning_points(self, min_s, **filters)

    def co_occurrence(
        self, by: str | Sequence[str] = ("video",), **filters: Unpack[FaceFilter]
    ) -> duckdb.DuckDBPyRelation:
        """Count the emotions of two faces in the same frame: one row for each group and pair of emotions.

        `by` names the groups: "video", columns of a manifest, and "pair" (each two faces: face_a and face_b).

        Columns besides those of the groups: emotion_a, emotion_b, pairs, share (of the group's pairs, 0 to 1)
        and lift (the share divided by the share that independent faces would have; 1 is chance).
        """
        return co_occurrence.co_occurrence(self, by, **filters)

    def baseline(self, by: str = "person", **filters: Unpack[FaceFilter]) -> duckdb.DuckDBPyRelation:
        """Subtract each face's mean probabilities: some faces look angry or sad at rest.

        The means are over all selected rows of the same person, or of the track if it has no person. With
        `by="track"` they are over each track.

        Columns: video_id, uri, track_id, person, time_s, emotion, a difference `d_…` (-1 to 1) for each
        emotion, and rises (the emotion with the highest difference).
        """
        return baseline.baseline(self, by, **filters)

    def smooth(self, window_s: float = 1.0, **filters: Unpack[FaceFilter]) -> duckdb.DuckDBPyRelation:
        """Replace probabilities by their mean over `window_s` seconds, half before and half after.

        Columns: video_id, uri, track_id, person, time_s, emotion and confidence (of the means), a mean `p_…`
        for each emotion, and moments (the number of rows in the window).
        """
        return smoothing.smooth(self, window_s, **filters)

    def resample(
        self, every_s: float = 1.0, by: str = "video", **filters: Unpack[FaceFilter]
    ) -> duckdb.DuckDBPyRelation:
        """Compute one row for each `every_s` seconds of each video, with or without a face.

        `by` is "video" (all selected faces together), "person" or "track". `state` is "face", "no face" or
        "not analyzed".

        Columns: video_id, uri, (person, or track_id and person), start_s, state, frames (number of sampled
        frames), faces (number of rows of `tracks`), emotion (with the highest mean) and a mean `p_…` for each
        emotion, null without a face.
        """
        return resampling.resample(self, every_s, by, **filters)

    def join_events(
        self, events_or_file: pa.Table | str | Path, **filters: Unpack[FaceFilter]
    ) -> duckdb.DuckDBPyRelation:
        """Add columns to your own events: which faces and emotions the run shows during each event.

        Events are a table or a file (.csv, .parquet, .jsonl, .vtt, .srt). They have `start_s` and `end_s`, or
        `time_s`, and `video`, unless the argument `video` names the video of all.

        Added columns: faces (number of rows of `tracks` in `[start_s, end_s)`), emotion (with the highest
        mean) and a mean `p_…` for each emotion, null without a face.
        """
        return events.join_events(self, events_or_file, **filters)

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
